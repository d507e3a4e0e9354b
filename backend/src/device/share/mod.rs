//! virtio-9p: one shared folder behind one queue.
//!
//! ```text
//!  ring ──taking──> serve ──────> server ──> reply ──> used ring      what need not wait, on the queue's thread
//!                     │  claims: who waits for whom
//!                     └─> flights ──pool──> server                    what may wait long, on workers
//!                           ▲                  │
//!                           └──────later───────┘                      and parked locks
//! ```
//!
//! The used element appears when the reply is in place and nothing of the guest's is held any more, so that a guest which
//! unmaps after completion never waits for its own request.

mod ahead;
mod claims;
mod core;
mod flights;
mod later;
mod long;
mod pool;
mod serve;
mod stats;
mod taking;
mod wake;

pub use stats::{ShareStats, ShareStatsSnapshot};

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use iommu_calgary::Phb;
use log::info;
use virtio_9p::{FileSystem, Passthrough, Server};

use frontend_spec::attach::TRANSLATED_NINEP_QUEUE_SIZE;
use frontend_spec::ninep::{MountTag, feature as ninep_feature};
use frontend_spec::virtio::{DEVICE_ID_9P, feature};

use self::ahead::Ahead;
use self::core::{Core, Job};
use self::flights::Flights;
use self::pool::Pool;
use self::taking::Hand;
use super::iommu::{FaultRecord, Iommu};
use super::side_core::{Member, Rearmed, Seat, Turn, Visit};
use super::throttle::{Throttle, warn_throttled};
use super::{Mechanisms, PollPolicy, Queue, Shared, SideCore};
use crate::dma::{Dma, DmaFault};
use crate::memory::GuestRam;
use crate::ring::{Ring, RingLayout};
use crate::transport::{Device, Identity, Interrupt};

/// Largest queue size offered outside the IOMMU. Linux asks for 128; crosvm's default limit is far larger and is accepted up to
/// this. Behind the IOMMU it is [`TRANSLATED_NINEP_QUEUE_SIZE`]: of a larger ring Linux makes several pieces of memory.
pub const MAX_QUEUE_SIZE: u16 = 1024;
/// Default most requests that wait for slow files at a time: a quarter of the 128 places of Linux's queue. Each may cost a
/// thread and two buffers of the largest message.
pub const DEFAULT_MAX_INFLIGHT: usize = 32;
/// How long a queue that stops waits for its workers. What is not finished then is answered `EIO`: nobody knows what will
/// become of it.
const LANDING_LIMIT: Duration = Duration::from_secs(10);

/// An endpoint behind the IOMMU.
struct Translated {
    endpoint: u32,
    iommu: Arc<Iommu>,
}

/// The device model.
pub struct ShareDevice<F: FileSystem = Passthrough> {
    identity: Identity,
    config: Vec<u8>,
    core: Arc<Core<F>>,
    pool: Pool<Job<F>>,
    max_message: u64,
    landing_limit: Duration,
    zero_copy: bool,
    translated: Option<Translated>,
    shared: Shared<Worker>,
    seat: Seat,
    stats: ShareStats,
    throttle: Throttle,
}

struct Worker {
    dma: Dma,
    queue: Option<Queue>,
    hand: Hand,
    ahead: Ahead,
    flights: Flights,
    /// Chains that go back next, with their used lengths. What finds the ring out of reach stays here.
    returned: VecDeque<(u16, u32)>,
    /// Where the queue stopped.
    stopped_at: Option<u16>,
    /// The thread wakes regularly, for parked locks.
    tries_locks: bool,
    /// When to try them, should the thread be busy elsewhere.
    try_locks_at: Instant,
    /// Requests taken since the driver started.
    taken: u64,
}

/// Where a share's DMA goes.
pub enum Attachment {
    /// Straight to guest-physical memory.
    Direct,
    /// Through the tables of this endpoint.
    Behind {
        /// The IOMMU.
        iommu: Arc<Iommu>,
        /// Endpoint id.
        endpoint: u32,
        /// The bridge in front of the endpoint.
        phb: Arc<Phb>,
    },
}

impl<F: FileSystem> ShareDevice<F> {
    /// A device that shows `server` under `tag`; messages are at most `max_message` bytes, and its thread polls as `poll`
    /// says.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(
        tag: &MountTag,
        server: Server<F>,
        max_message: u32,
        attachment: Attachment,
        poll: PollPolicy,
    ) -> io::Result<Self> {
        let (dma, translated, queue_size) = match attachment {
            Attachment::Direct => (Dma::direct(), None, MAX_QUEUE_SIZE),
            Attachment::Behind { iommu, endpoint, phb } => {
                (Dma::translated(&phb), Some(Translated { endpoint, iommu }), TRANSLATED_NINEP_QUEUE_SIZE)
            }
        };
        let identity = Identity {
            name: format!("share {tag}"),
            virtio_id: u32::from(DEVICE_ID_9P),
            queue_sizes: vec![queue_size],
        };
        let worker = Worker {
            dma,
            queue: None,
            hand: Hand::default(),
            ahead: Ahead::default(),
            flights: Flights::new(DEFAULT_MAX_INFLIGHT),
            returned: VecDeque::new(),
            stopped_at: None,
            tries_locks: false,
            try_locks_at: Instant::now(),
            taken: 0,
        };
        let core = Arc::new(Core::new(server)?);
        Ok(Self {
            identity,
            config: tag.config(),
            pool: workers(&core, DEFAULT_MAX_INFLIGHT),
            core,
            landing_limit: LANDING_LIMIT,
            zero_copy: Mechanisms::default().zero_copy,
            max_message: u64::from(max_message),
            translated,
            shared: Shared::new(worker),
            seat: Seat::new(&SideCore::new(poll), Weak::<Self>::new(), true),
            stats: ShareStats::default(),
            throttle: Throttle::default(),
        })
    }

    /// The same with at most `max` requests that wait for slow files at a time; further ones stay in the ring.
    #[must_use]
    pub fn with_max_inflight(mut self, max: usize) -> Self {
        self.pool = workers(&self.core, max);
        self.shared.control().flights = Flights::new(max);
        self
    }

    /// The same as one of the devices that one thread polls for.
    #[must_use]
    pub fn joined(self, core: &Arc<SideCore>) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| Self { seat: Seat::new(core, this.clone(), true), ..self })
    }

    /// The same with another limit for how long a queue that stops waits for what is in flight: what is not finished then is
    /// answered `EIO`.
    #[must_use]
    pub fn with_landing_limit(self, landing_limit: Duration) -> Self {
        Self { landing_limit, ..self }
    }

    /// The same with these mechanisms.
    #[must_use]
    pub fn with_mechanisms(mut self, mechanisms: Mechanisms) -> Self {
        self.shared.control().dma.set_coalescing(mechanisms.coalescing);
        self.zero_copy = mechanisms.zero_copy;
        self
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> ShareStatsSnapshot {
        self.stats.snapshot(&self.core.server)
    }

    /// Does something between two requests.
    fn control<T>(&self, act: impl FnOnce(&mut Worker) -> T) -> T {
        let worker = &mut *self.shared.control();
        let ran = worker.queue.is_some();
        let outcome = act(worker);
        // The thread that polled may have stopped meanwhile, and left the ring to this one. While guest memory changes, the
        // ring may be out of reach until the next change.
        if ran && self.ask_for_kicks(worker) == Ok(Rearmed::Pending) {
            self.rouse();
        }
        outcome
    }

    /// What answers the requests.
    #[must_use]
    pub fn server(&self) -> &Server<F> {
        &self.core.server
    }

    /// Whether DMA goes through the IOMMU.
    #[must_use]
    pub fn is_translated(&self) -> bool {
        self.translated.is_some()
    }

    /// Tells the guest and the log of a refused access.
    fn report(&self, fault: DmaFault) {
        self.stats.faults.fetch_add(1, Ordering::Relaxed);
        warn_throttled!(
            self.throttle,
            "{}: {:?} of {:#x} refused: {:?}",
            self.identity.name,
            fault.access,
            fault.address,
            fault.reason
        );
        if let Some(Translated { endpoint, iommu }) = &self.translated {
            iommu.faults().record(FaultRecord { endpoint: *endpoint, fault });
        }
    }
}

/// At most `max` threads for requests that may wait long.
fn workers<F: FileSystem>(core: &Arc<Core<F>>, max: usize) -> Pool<Job<F>> {
    let core = Arc::clone(core);
    Pool::new("share worker".to_owned(), max, move |job| core.work(job))
}

impl<F: FileSystem> Device for ShareDevice<F> {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn features(&self) -> u64 {
        // Behind the IOMMU a driver would have to map and unmap a table of descriptors for each request.
        let way = if self.is_translated() { feature::ACCESS_PLATFORM } else { feature::INDIRECT_DESC };
        feature::VERSION_1 | feature::EVENT_IDX | ninep_feature::MOUNT_TAG | way
    }

    fn ack_features(&self, _features: u64) {
        // Whether DMA is translated is decided by configuration: QEMU hides ACCESS_PLATFORM from the backend.
    }

    fn read_config(&self, offset: u32, bytes: &mut [u8]) {
        let tail = self.config.get(offset as usize..).unwrap_or_default();
        let len = tail.len().min(bytes.len());
        bytes[..len].copy_from_slice(&tail[..len]);
        bytes[len..].fill(0);
    }

    fn write_config(&self, _offset: u32, _bytes: &[u8]) {}

    fn set_memory(&self, ram: Arc<GuestRam>) {
        self.control(|worker| {
            worker.dma.set_memory(ram);
            worker.queue.iter_mut().for_each(Queue::try_again);
        });
    }

    fn activate(&self, _queue: usize, layout: RingLayout, base: u16, interrupt: Arc<dyn Interrupt>) {
        self.control(|worker| {
            // Whatever a transport left here without a stop is nobody's any more.
            self.give_up_all(worker);
            let mut goes_on = worker.stopped_at.take() == Some(base);
            if base == 0 {
                // A ring that wraps to 0 while paused is told from a new one by what the device once wrote into it.
                let ring = Ring::new(layout, base);
                let resumed = worker.taken > 0 && ring.has_history(&worker.dma.enter()).unwrap_or(false);
                if !resumed {
                    worker.taken = 0;
                    self.end_session();
                }
                goes_on &= resumed;
            }
            if !goes_on {
                worker.returned.clear();
            }
            info!("{}: queue starts at {base}", self.identity.name);
            // No more than were taken from a ring.
            let owed = u16::try_from(worker.returned.len()).unwrap_or(u16::MAX);
            worker.queue = Some(Queue::new(Ring::resuming(layout, base, owed), interrupt));
            if owed > 0 {
                self.rouse();
            }
        });
    }

    fn stop(&self, _queue: usize) -> Option<u16> {
        self.control(|worker| {
            if worker.queue.is_some() {
                self.land(worker);
                self.signal_the_rest(worker);
                self.try_locks_regularly(worker);
            }
            worker.stopped_at = worker.queue.take().map(|stopped| stopped.ring.next_avail());
            worker.stopped_at
        })
    }

    fn service(&self, _queue: usize) {
        self.stats.kicks.fetch_add(1, Ordering::Relaxed);
        self.seat.attend(self, Visit::Kick);
    }

    fn wake_fd(&self) -> Option<RawFd> {
        Some(self.core.wake.fd())
    }

    fn wake(&self) {
        self.core.wake.consume();
        self.seat.attend(self, Visit::Again);
    }

    fn reset(&self) {
        self.control(|worker| {
            worker.taken = 0;
            worker.returned.clear();
            worker.stopped_at = None;
        });
        self.end_session();
    }
}

impl<F: FileSystem> Member for ShareDevice<F> {
    fn turn(&self, visit: Visit) -> Turn {
        match self.shared.serve() {
            Some(mut worker) => self.serve(&mut worker, visit),
            None => Turn::Busy,
        }
    }

    fn rearm(&self, _asleep: bool) -> Rearmed {
        let Some(mut worker) = self.shared.look() else { return Rearmed::Busy };
        self.ask_for_kicks(&mut worker).unwrap_or_else(|cause| {
            self.stop_serving(&mut worker, cause);
            Rearmed::Asleep
        })
    }

    fn suppress(&self) {
        if let Some(Worker { dma, queue: Some(queue), .. }) = self.shared.look().as_deref_mut() {
            // A ring out of reach is found so when it is served.
            let _ = queue.ring.retract_kicks(&dma.enter());
        }
    }

    fn rouse(&self) {
        self.core.wake.now();
    }
}

#[cfg(test)]
mod tests {
    use virtio_9p::Options;
    use virtio_9p::synthetic::{Directory, Synthetic};

    use super::*;
    use crate::transport::idle::Deaf;

    #[test]
    fn nobody_looks_for_ever_at_a_ring_that_takes_no_answer() {
        let server = Server::new(Synthetic::new(Directory::new()), Options::default());
        let tag = "home".parse().unwrap();
        let share = ShareDevice::new(&tag, server, 65536, Attachment::Direct, PollPolicy::Off).unwrap();
        // A worker finishes what was answered when the queue stopped.
        share.core.work(Job::TryLocks);
        assert_eq!(share.rearm(true), Rearmed::Asleep);
        // And once more while the ring is not in guest memory.
        let layout = RingLayout { descriptors: 0, avail: 0x1000, used: 0x2000, size: 8, event_idx: false };
        share.activate(0, layout, 0, Arc::new(Deaf));
        share.service(0);
        assert_eq!(share.rearm(true), Rearmed::Asleep);
        let memory = vm_memory::GuestMemoryMmap::<()>::from_ranges(&[(vm_memory::GuestAddress(0), 0x1_0000)]).unwrap();
        share.set_memory(GuestRam::new(&memory));
        assert_eq!(share.rearm(true), Rearmed::Pending);
        share.wake();
        assert_eq!(share.rearm(true), Rearmed::Asleep);
    }
}
