//! virtio-iommu (virtio 1.2 §5.13) on Calgary tables.
//!
//! ```text
//!   request queue ──> requests.rs ──> Iommu (Calgary: domains, tables) ──commit──> used ring
//!   event queue  <── events.rs  <── FaultLog <── shares whose DMA was refused
//! ```
//!
//! A drain of the request queue is a batch: requests are applied in ring order, one commit makes them true for every
//! DMA in flight, and only then are the answers written and published, with one store of the index and at most one
//! interrupt.

mod batch;
mod core;
mod events;
mod faults;
mod requests;
mod stats;

pub use self::core::{Iommu, Reserved, ReservedKind};
pub use faults::{FaultLog, FaultRecord};
pub use stats::{IommuStats, IommuStatsSnapshot};

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use log::{error, info};
use zerocopy::IntoBytes;

use frontend_spec::iommu::{Config, EVENT_QUEUE, REQUEST_QUEUE, feature as iommu_feature};
use frontend_spec::virtio::{DEVICE_ID_IOMMU, feature};

use self::batch::Batch;
use super::side_core::{Member, Rearmed, Seat, Turn, Visit};
use super::throttle::{Throttle, warn_throttled};
use super::{Mechanisms, PollPolicy, Queue, Shared, SideCore};
use crate::dma::Dma;
use crate::memory::GuestRam;
use crate::ring::{Ring, RingError, RingLayout};
use crate::transport::{Device, Identity, Interrupt};

/// Largest queue size offered, for both queues.
pub const MAX_QUEUE_SIZE: u16 = 1024;
/// Bytes of properties in a PROBE answer: room for several reserved regions of 24 bytes.
pub const PROBE_SIZE: u32 = 512;
/// Last domain id, so that Linux, which keeps ids in a signed int, sees no limit of ours.
pub const LAST_DOMAIN: u32 = i32::MAX as u32;

/// Why a reset takes its time.
const STILL_BUSY: &str = "a DMA in flight does not end (is its file system hanging?)";

/// Without INDIRECT_DESC: a request is two descriptors, and a table for them costs a driver more than two entries of the ring do.
const FEATURES: u64 = feature::VERSION_1
    | feature::EVENT_IDX
    | iommu_feature::INPUT_RANGE
    | iommu_feature::DOMAIN_RANGE
    | iommu_feature::MAP_UNMAP
    | iommu_feature::PROBE
    | iommu_feature::MMIO
    | iommu_feature::BYPASS_CONFIG;

/// The device model.
pub struct IommuDevice {
    identity: Identity,
    iommu: Arc<Iommu>,
    acked: AtomicU64,
    /// A reset waits for accesses that are under way.
    is_resetting: AtomicBool,
    shared: Shared<Worker>,
    seat: Seat,
    throttle: Throttle,
    largest_batch: u16,
}

/// What a thread that serves the queues works with.
struct Worker {
    dma: Dma,
    queues: [Option<Queue>; 2],
    batch: Batch,
    /// Requests taken from the request queue since a driver started it.
    taken: u64,
}

impl IommuDevice {
    /// A device in front of `iommu`, whose thread polls as `poll` says.
    #[must_use]
    pub fn new(iommu: Arc<Iommu>, poll: PollPolicy) -> Self {
        let identity = Identity {
            name: "iommu".to_owned(),
            virtio_id: u32::from(DEVICE_ID_IOMMU),
            queue_sizes: vec![MAX_QUEUE_SIZE; 2],
        };
        let worker = Worker { dma: Dma::direct(), queues: [None, None], batch: Batch::default(), taken: 0 };
        Self {
            identity,
            iommu,
            acked: AtomicU64::new(0),
            is_resetting: AtomicBool::new(false),
            shared: Shared::new(worker),
            seat: Seat::new(&SideCore::new(poll), Weak::<Self>::new(), false),
            throttle: Throttle::default(),
            largest_batch: Mechanisms::default().largest_batch(),
        }
    }

    /// The same with these mechanisms.
    #[must_use]
    pub fn with_mechanisms(self, mechanisms: Mechanisms) -> Self {
        Self { largest_batch: mechanisms.largest_batch(), ..self }
    }

    /// The same as one of the devices that one thread polls for.
    #[must_use]
    pub fn joined(self, core: &Arc<SideCore>) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| Self { seat: Seat::new(core, this.clone(), false), ..self })
    }

    /// Does something between two batches.
    fn control<T>(&self, act: impl FnOnce(&mut Worker) -> T) -> T {
        let worker = &mut *self.shared.control();
        let ran = worker.queues[REQUEST_QUEUE].is_some();
        let outcome = act(worker);
        // The thread that polled may have stopped meanwhile, and left the ring to this one. While guest memory changes, the
        // ring may be out of reach until the next change.
        if ran && self.ask_for_kicks(worker) == Ok(Rearmed::Pending) {
            self.rouse();
        }
        outcome
    }

    /// Whether the driver accepted `bit`.
    fn negotiated(&self, bit: u64) -> bool {
        self.acked.load(Ordering::Relaxed) & bit != 0
    }

    fn config(&self) -> Config {
        Config {
            page_size_mask: iommu_calgary::PAGE_SIZE.into(),
            input_range_start: 0.into(),
            input_range_end: (self.iommu.window() - 1).into(),
            domain_range_start: 0.into(),
            domain_range_end: LAST_DOMAIN.into(),
            probe_size: PROBE_SIZE.into(),
            bypass: u8::from(self.iommu.bypass()),
            reserved: [0; 3],
        }
    }

    /// Leaves a ring alone that cannot be used. It is the driver's doing, or the front end's, so it is no error of ours.
    fn set_aside(&self, queue: &mut Queue, name: &str, cause: RingError) {
        queue.set_aside(cause);
        self.iommu.stats().ring_errors.fetch_add(1, Ordering::Relaxed);
        match cause {
            RingError::Fault(_) => warn_throttled!(
                self.throttle,
                "iommu: the {name} queue rests until the driver kicks or guest memory changes: {cause}"
            ),
            RingError::AvailIndex { .. } => {
                error!("iommu: the {name} queue stops until the driver resets the device: {cause}");
            }
        }
    }
}

impl Device for IommuDevice {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn ack_features(&self, features: u64) {
        self.acked.store(features, Ordering::Relaxed);
    }

    fn read_config(&self, offset: u32, bytes: &mut [u8]) {
        let config = self.config();
        let tail = config.as_bytes().get(offset as usize..).unwrap_or_default();
        let len = tail.len().min(bytes.len());
        bytes[..len].copy_from_slice(&tail[..len]);
        bytes[len..].fill(0);
    }

    fn write_config(&self, offset: u32, bytes: &[u8]) {
        let Some(bypass) = Config::bypass_written(offset as usize, bytes) else { return };
        if self.negotiated(iommu_feature::BYPASS_CONFIG) && bypass != self.iommu.bypass() {
            info!("iommu: the driver turns bypass of unattached endpoints {}", if bypass { "on" } else { "off" });
            self.iommu.set_bypass(bypass);
        }
    }

    fn set_memory(&self, ram: Arc<GuestRam>) {
        self.control(|worker| {
            worker.dma.set_memory(ram);
            worker.queues.iter_mut().flatten().for_each(Queue::try_again);
        });
    }

    fn activate(&self, queue: usize, layout: RingLayout, base: u16, interrupt: Arc<dyn Interrupt>) {
        self.control(|worker| {
            let ring = Ring::new(layout, base);
            if queue == REQUEST_QUEUE && base == 0 {
                // A ring that wraps to 0 while paused is told from a new one by what the device once wrote into it.
                let resumed = worker.taken > 0 && ring.has_history(&worker.dma.enter()).unwrap_or(false);
                if !resumed {
                    worker.taken = 0;
                    if !self.iommu.reset() {
                        error!("iommu: {STILL_BUSY}: its endpoint stays cut off, and a driver cannot use it, until a later reset finds it quiet");
                    }
                }
            }
            worker.queues[queue] = Some(Queue::new(ring, interrupt));
        });
    }

    fn stop(&self, queue: usize) -> Option<u16> {
        self.control(|worker| worker.queues[queue].take().map(|stopped| stopped.ring.next_avail()))
    }

    fn service(&self, queue: usize) {
        match queue {
            REQUEST_QUEUE => {
                self.iommu.stats().note_kick();
                self.seat.attend(self, Visit::Kick);
            }
            EVENT_QUEUE => self.seat.attend(self, Visit::Again),
            _ => {}
        }
    }

    fn wake_fd(&self) -> Option<RawFd> {
        Some(self.iommu.faults().as_raw_fd())
    }

    fn wake(&self) {
        self.iommu.faults().consume_wake();
        self.seat.attend(self, Visit::Again);
    }

    fn reset(&self) {
        self.control(|worker| worker.taken = 0);
        self.acked.store(0, Ordering::Relaxed);
        let is_quiet = self.iommu.reset();
        self.is_resetting.store(!is_quiet, Ordering::Relaxed);
        if !is_quiet {
            error!("iommu: {STILL_BUSY}: the reset is not done before it has ended");
        }
    }

    fn has_settled(&self) -> bool {
        let is_done = !self.is_resetting.load(Ordering::Relaxed) || self.iommu.reset();
        self.is_resetting.store(!is_done, Ordering::Relaxed);
        is_done
    }
}

impl Member for IommuDevice {
    fn turn(&self, visit: Visit) -> Turn {
        match self.shared.serve() {
            Some(mut worker) => self.serve_requests(&mut worker, visit),
            None => Turn::Busy,
        }
    }

    fn rearm(&self, asleep: bool) -> Rearmed {
        let Some(mut worker) = self.shared.look() else { return Rearmed::Busy };
        let rearmed = self.ask_for_kicks(&mut worker).unwrap_or_else(|cause| {
            self.stop_serving(&mut worker, cause);
            Rearmed::Asleep
        });
        if asleep && rearmed == Rearmed::Asleep {
            self.iommu.stats().note_sleep();
        }
        rearmed
    }

    fn suppress(&self) {
        if let Some(Worker { dma, queues: [Some(queue), _], .. }) = self.shared.look().as_deref_mut() {
            // A ring out of reach is found so when it is served.
            let _ = queue.ring.retract_kicks(&dma.enter());
        }
    }

    fn rouse(&self) {
        self.iommu.faults().wake();
    }
}
