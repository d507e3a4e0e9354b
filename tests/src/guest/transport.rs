//! What a driver needs from whatever carries its device: vhost-user, or the PCI functions of a
//! virtual machine under test.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::memory::MemoryError;
use super::queue::RingPlacement;

/// `VIRTIO_RING_F_INDIRECT_DESC`.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_RING_F_EVENT_IDX`.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`.
pub const F_VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_ACCESS_PLATFORM`: the device's addresses are translated.
pub const F_ACCESS_PLATFORM: u64 = 1 << 33;

/// Why a device could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nobody listens.
    #[error("cannot connect to {socket}: {cause}; is the daemon running with this socket?")]
    Connect {
        /// Path of the socket.
        socket: String,
        /// What the system said.
        cause: String,
    },
    /// An exchange failed.
    #[error("{message} failed: {cause}; the device's log says why")]
    Message {
        /// Which one; a message by its name in the specification.
        message: &'static str,
        /// What the protocol layer said.
        cause: String,
    },
    /// The device lacks something the driver cannot do without.
    #[error("the device does not offer {0}")]
    Missing(&'static str),
    /// There is no such queue.
    #[error("queue {index} does not exist: the device has {count}")]
    NoQueue {
        /// Index asked for.
        index: usize,
        /// Queues there are.
        count: usize,
    },
    /// A ring's device address is not an address of RAM, so no VMM could hand it over.
    #[error(
        "the ring address {address:#x} is not inside guest RAM ({cause}); \
         use an IOVA window that lies in low RAM"
    )]
    RingOutsideRam {
        /// The device address.
        address: u64,
        /// Which rule it breaks.
        cause: MemoryError,
    },
    /// An eventfd or socket could not be made.
    #[error("cannot create an event or socket: {0}")]
    Os(#[from] io::Error),
}

/// The kick and the interrupt of one queue.
pub trait Doorbell: Debug + Send + Sync {
    /// Notify the device.
    ///
    /// # Errors
    /// What the system says.
    fn ring(&self) -> io::Result<()>;

    /// Sleep until the device interrupts, at most `timeout`. Returns whether it did. May return
    /// early with `false` where there is no interrupt to wait for.
    ///
    /// # Errors
    /// What the system says.
    fn wait(&self, timeout: Duration) -> io::Result<bool>;
}

/// A device as its driver sees it.
pub trait Transport: Debug + Send {
    /// Features the device offers to the guest.
    fn offered(&self) -> u64;

    /// Accept those of `wanted` that are offered. Returns them.
    ///
    /// # Errors
    /// [`TransportError`].
    fn negotiate(&mut self, wanted: u64) -> Result<u64, TransportError>;

    /// Number of queues.
    fn queue_count(&self) -> usize;

    /// Read configuration space at `offset` bytes.
    ///
    /// # Errors
    /// [`TransportError`].
    fn read_config(&mut self, offset: u32, buffer: &mut [u8]) -> Result<(), TransportError>;

    /// Write configuration space at `offset` bytes.
    ///
    /// # Errors
    /// [`TransportError`].
    fn write_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), TransportError>;

    /// Start queue `index` with a ring of `size` entries; the device fetches available entry `base`
    /// first.
    ///
    /// # Errors
    /// [`TransportError`].
    fn start_queue(
        &mut self,
        index: usize,
        ring: &RingPlacement,
        size: u16,
        base: u16,
    ) -> Result<Arc<dyn Doorbell>, TransportError>;

    /// Stop queue `index`. Returns the available entry it would have fetched next.
    ///
    /// # Errors
    /// [`TransportError`].
    fn stop_queue(&mut self, index: usize) -> Result<u16, TransportError>;

    /// Whether a ring's device address must also be one of guest RAM, because a VMM takes it for that.
    fn rings_are_in_ram(&self) -> bool {
        true
    }

    /// Drop the connection and make a new one, with all queues stopped and the same features.
    ///
    /// # Errors
    /// [`TransportError`].
    fn reconnect(&mut self) -> Result<(), TransportError>;
}

/// What `result` says, as a failure of the exchange called `message`.
pub(super) fn message<T, E: ToString>(message: &'static str, result: Result<T, E>) -> Result<T, TransportError> {
    result.map_err(|error| TransportError::Message { message, cause: error.to_string() })
}
