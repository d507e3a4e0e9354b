//! A [`Device`] carried by vhost-user, through `vhost-user-backend`.
//!
//! Two rules of that crate shape this file: an `Err` from a control handler ends the connection, and an `Err` from
//! `handle_event` ends the worker. A guest can provoke neither, because nothing here returns one for what a guest does.

mod vring;
mod window;

pub use vring::Vring;
pub use window::RingWindow;

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use log::error;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VringT};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use frontend_spec::virtio::feature;

use crate::memory::GuestRam;
use crate::ring::RingLayout;
use crate::transport::{Device, Interrupt, settle};

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

impl Interrupt for Vring {
    fn signal(&self) {
        // It does not fail: what cannot take an interrupt is refused when it comes.
        let _ = self.signal_used_queue();
    }

    /// One comes from the crate, one from the front end.
    fn start_calls(&self) -> u32 {
        2
    }
}

/// One connection's view of a device. The device outlives it.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    device: Arc<dyn Device>,
    window: Option<RingWindow>,
    /// The connection has ended; no queue starts any more.
    closed: AtomicBool,
    /// The front end has announced guest memory.
    has_memory: AtomicBool,
    /// What is wrong with the memory as it is, to be said when a queue starts or the front end has given up.
    complaint: Mutex<Option<String>>,
    /// The vrings of running queues, so that a stop can write back the index that GET_VRING_BASE reports.
    running: Mutex<Vec<Option<Vring>>>,
}

impl Connection {
    /// A connection that serves `device`; with `window`, the device's rings are at IOVAs.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, window: Option<RingWindow>) -> Self {
        let queues = device.identity().queue_sizes.len();
        Self {
            shared: Arc::new(Shared {
                device,
                window,
                closed: AtomicBool::new(false),
                has_memory: AtomicBool::new(false),
                complaint: Mutex::new(None),
                running: Mutex::new(vec![None; queues]),
            }),
        }
    }

    /// The event number under which the device's own descriptor is registered with the worker. The numbers up to the
    /// queue count belong to the queues and to the crate.
    #[must_use]
    pub fn wake_event(&self) -> u64 {
        self.shared.device.identity().queue_sizes.len() as u64 + 1
    }

    /// The device's own descriptor, if it has one.
    #[must_use]
    pub fn wake_fd(&self) -> Option<RawFd> {
        self.shared.device.wake_fd()
    }

    fn complaint(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.shared.complaint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says once what is wrong with the memory.
    fn complain(&self) {
        if let Some(complaint) = self.complaint().take() {
            error!("{}: {complaint}", self.shared.device.identity().name);
        }
    }

    /// The connection is about to end: nothing starts, and nothing is waited for on its behalf.
    pub fn give_up(&self) {
        self.shared.closed.store(true, Ordering::Relaxed);
    }

    /// The front end is gone: queues stop and do not start again.
    pub fn close(&self) {
        self.complain();
        self.give_up();
        for queue in 0..self.shared.device.identity().queue_sizes.len() {
            self.stop(queue);
        }
    }

    /// Lets go of the front end's memory.
    pub fn forget_memory(&self) {
        self.shared.device.set_memory(GuestRam::empty());
    }

    /// What a user should change when the front end made a request that failed.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        if self.shared.has_memory.load(Ordering::Relaxed) {
            "a ring may lie outside the guest memory that was announced; does the IOVA window (--window) lie inside the \
             guest's RAM below 4 GiB, and is all RAM shared (share=on)?"
        } else {
            "the VMM announced no guest memory; start it with shared memory (QEMU: -object \
             memory-backend-memfd,id=mem,size=SIZE,share=on -M memory-backend=mem; cloud-hypervisor: --memory shared=on)"
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Vec<Option<Vring>>> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, queue: usize) {
        let mut running = self.running();
        let next_avail = self.shared.device.stop(queue);
        let vring = running.get_mut(queue).and_then(Option::take);
        if let (Some(next_avail), Some(vring)) = (next_avail, vring) {
            vring.set_queue_next_avail(next_avail);
        }
    }

    /// Starts `queue` if the front end has made it ready and it does not run yet; says whether it runs.
    fn ensure_active(&self, queue: usize, vring: &Vring) -> bool {
        let device = &self.shared.device;
        // Held over the check: a stop that has begun either sees the queue running or has already unset `ready`.
        let mut running = self.running();
        let (layout, base) = {
            let state = vring.get_ref();
            let ring = state.get_queue();
            if !ring.ready() || !state.is_enabled() || self.shared.closed.load(Ordering::Relaxed) {
                return false;
            }
            let layout = RingLayout {
                descriptors: ring.desc_table(),
                avail: ring.avail_ring(),
                used: ring.used_ring(),
                size: ring.size(),
                event_idx: ring.event_idx_enabled(),
            };
            (layout, ring.next_avail())
        };
        if running[queue].is_none() {
            if !layout.is_valid() {
                error!("{}: queue {queue} has an impossible layout: {layout:x?}", device.identity().name);
                return false;
            }
            self.complain();
            device.activate(queue, layout, base, Arc::new(vring.clone()));
            running[queue] = Some(vring.clone());
        }
        true
    }
}

impl VhostUserBackend for Connection {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        self.shared.device.identity().queue_sizes.len()
    }

    fn max_queue_size(&self) -> usize {
        self.shared.device.identity().queue_sizes.iter().copied().max().map_or(0, usize::from)
    }

    fn features(&self) -> u64 {
        self.shared.device.features() | feature::VHOST_USER_PROTOCOL_FEATURES
    }

    fn acked_features(&self, features: u64) {
        self.shared.device.ack_features(features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        // QEMU refuses ACCESS_PLATFORM from a backend without BACKEND_REQ.
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn reset_device(&self) {
        for queue in 0..self.num_queues() {
            self.stop(queue);
        }
        self.shared.device.reset();
        // What the front end says next, it says of a device that has been reset.
        settle(&*self.shared.device, || self.shared.closed.load(Ordering::Relaxed));
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut bytes = vec![0; size as usize];
        self.shared.device.read_config(offset, &mut bytes);
        bytes
    }

    fn set_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        self.shared.device.write_config(offset, bytes);
        Ok(())
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        let ram = GuestRam::new(&memory.memory());
        // Memory may come region by region: what is missing now may come with the next.
        *self.complaint() = self.shared.window.as_ref().and_then(|window| window.complaint(&ram));
        self.shared.has_memory.store(ram.total() > 0, Ordering::Relaxed);
        self.shared.device.set_memory(ram);
        Ok(())
    }

    fn stop_vring(&self, index: u32) -> io::Result<()> {
        self.stop(index as usize);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC)
            .inspect_err(|cause| error!("cannot make an exit event: {cause}"))
            .ok()
    }

    fn handle_event(&self, event: u16, _set: EventSet, vrings: &[Vring], _thread: usize) -> io::Result<()> {
        let device = &self.shared.device;
        if u64::from(event) == self.wake_event() {
            device.wake();
        } else if let Some(vring) = vrings.get(usize::from(event)) {
            let queue = usize::from(event);
            if self.ensure_active(queue, vring) {
                device.service(queue);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::transport::idle::Idle;

    /// A bound, not an expectation.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_reset_is_over_when_it_is_done_or_the_connection_is() {
        for gives_up in [false, true] {
            let ((asked, looks), (done, told)) = (channel(), channel());
            let is_done = Arc::new(AtomicBool::new(false));
            let (settled, asked) = (is_done.clone(), Mutex::new(asked));
            let device = Idle::new(|| {}).settling(move || {
                let _ = asked.lock().unwrap().send(());
                settled.load(Ordering::Relaxed)
            });
            let connection = Connection::new(Arc::new(device), None);
            let resetting = connection.clone();
            std::thread::spawn(move || {
                resetting.reset_device();
                done.send(()).unwrap();
            });
            for _ in 0..3 {
                looks.recv_timeout(PATIENCE).unwrap();
            }
            assert!(told.try_recv().is_err(), "it looks no more");
            if gives_up {
                connection.give_up();
            } else {
                is_done.store(true, Ordering::Relaxed);
            }
            told.recv_timeout(PATIENCE).expect("it waits for ever");
        }
    }
}
