//! The seam between a device model and whatever carries it to a VMM.
//!
//! A transport owns sockets, threads and file descriptors and speaks for the guest; a [`Device`] never learns which
//! transport that is. Control calls come from any thread and return at once, except [`Device::stop`], which waits for
//! the request in hand; [`Device::service`] is the data path and runs on one thread per device at a time.

mod eventfd;
#[cfg(test)]
pub(crate) mod idle;
pub mod socket;
pub mod vfio_user;
pub mod vhost_user;

use std::sync::Arc;
use std::time::Duration;

pub use frontend_spec::TransportKind;

use crate::memory::GuestRam;
use crate::ring::RingLayout;

/// Tells the guest that a queue has news.
pub trait Interrupt: Send + Sync {
    /// Interrupts the driver for the queue this belongs to. Never blocks; errors are the transport's to log.
    fn signal(&self);

    /// The queue contradicts itself: nothing of it is served until the driver resets the device, which is told so where the
    /// transport can. Never blocks.
    fn break_down(&self) {}

    /// How often the start of a queue makes the transport call [`Device::service`] by itself, before a driver kicks.
    fn start_calls(&self) -> u32 {
        0
    }
}

/// What a transport offers a device besides the queues.
pub struct Identity {
    /// Name for logs, such as `iommu` or `share home`.
    pub name: String,
    /// Virtio device id (virtio 1.2 §5).
    pub virtio_id: u32,
    /// Largest size of each queue; the length is the number of queues.
    pub queue_sizes: Vec<u16>,
}

/// A virtio device, whatever carries it.
pub trait Device: Send + Sync + 'static {
    /// What it is.
    fn identity(&self) -> &Identity;

    /// Feature bits offered, device-specific and ring bits alike; transport bits are the transport's.
    fn features(&self) -> u64;

    /// The driver accepted these bits. A front end may have removed some: behaviour that a missing bit would make
    /// unsafe depends on the daemon's configuration instead.
    fn ack_features(&self, features: u64);

    /// Fills `bytes` from configuration space at `offset`; zeros beyond its end.
    fn read_config(&self, offset: u32, bytes: &mut [u8]);

    /// The driver wrote `bytes` at `offset`. Writes to read-only fields have no effect.
    fn write_config(&self, offset: u32, bytes: &[u8]);

    /// Guest memory is `ram` from now on. On return no access uses the previous snapshot.
    fn set_memory(&self, ram: Arc<GuestRam>);

    /// Starts `queue`. `base` is the index of the first entry to take: 0 tells of a new driver or of a ring that was
    /// never used, anything else continues where [`Device::stop`] left off.
    fn activate(&self, queue: usize, layout: RingLayout, base: u16, interrupt: Arc<dyn Interrupt>);

    /// Stops `queue` once everything taken from it is completed; returns the index of the next entry.
    fn stop(&self, queue: usize) -> Option<u16>;

    /// Works until `queue` is empty. A spurious call is harmless.
    fn service(&self, queue: usize);

    /// Descriptors that wake [`Device::wake`] when readable, besides the queues.
    fn wake_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }

    /// [`Device::wake_fd`] was readable.
    fn wake(&self) {}

    /// Forgets everything the driver ever said: features, domains, fids. Queues are stopped first. It is done once
    /// [`Device::has_settled`] says so.
    fn reset(&self);

    /// Whether the last reset is done: nothing uses what it took away. Whoever tells the driver so asks again until then,
    /// before a queue starts; a look may take some seconds.
    fn has_settled(&self) -> bool {
        true
    }
}

/// Waits until the reset of `device` is done, or `is_over` says that nobody waits for it any more.
fn settle(device: &dyn Device, is_over: impl Fn() -> bool) {
    /// Between two looks others may have the device.
    const PAUSE: Duration = Duration::from_millis(10);
    while !device.has_settled() && !is_over() {
        std::thread::sleep(PAUSE);
    }
}
