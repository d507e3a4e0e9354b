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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use log::{error, info};
use zerocopy::IntoBytes;

use frontend_spec::iommu::{Config, EVENT_QUEUE, REQUEST_QUEUE, feature as iommu_feature};
use frontend_spec::virtio::{DEVICE_ID_IOMMU, feature};

use self::batch::Batch;
use super::poll::Poller;
use super::throttle::Throttle;
use super::{Mechanisms, PollPolicy, Queue, Shared};
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

const FEATURES: u64 = feature::VERSION_1
    | feature::INDIRECT_DESC
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
    shared: Shared<Worker>,
    throttle: Throttle,
    largest_batch: u16,
}

/// What the thread that serves the queues works with.
struct Worker {
    dma: Dma,
    queues: [Option<Queue>; 2],
    batch: Batch,
    poller: Poller,
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
        let worker = Worker {
            dma: Dma::direct(),
            queues: [None, None],
            batch: Batch::default(),
            poller: Poller::new(poll),
            taken: 0,
        };
        Self {
            identity,
            iommu,
            acked: AtomicU64::new(0),
            shared: Shared::new(worker),
            throttle: Throttle::default(),
            largest_batch: Mechanisms::default().largest_batch(),
        }
    }

    /// The same with these mechanisms.
    #[must_use]
    pub fn with_mechanisms(self, mechanisms: Mechanisms) -> Self {
        Self { largest_batch: mechanisms.largest_batch(), ..self }
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

    /// A ring error ends the queue until it is started anew; it is the driver's doing, so it is no error of ours.
    fn give_up(&self, queue: &mut Queue, name: &str, cause: RingError) {
        queue.broken = true;
        self.iommu.stats().ring_errors.fetch_add(1, Ordering::Relaxed);
        error!("iommu: the {name} queue stops until the driver resets the device: {cause}");
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
        self.shared.control().dma.set_memory(ram);
    }

    fn activate(&self, queue: usize, layout: RingLayout, base: u16, interrupt: Arc<dyn Interrupt>) {
        let mut worker = self.shared.control();
        let ring = Ring::new(layout, base);
        if queue == REQUEST_QUEUE && base == 0 {
            // A ring that wraps to 0 while paused is told from a new one by what the device once wrote into it.
            let resumed = worker.taken > 0 && ring.has_history(&worker.dma.enter()).unwrap_or(false);
            if !resumed {
                worker.taken = 0;
                self.iommu.reset();
            }
        }
        worker.queues[queue] = Some(Queue::new(ring, interrupt));
    }

    fn is_active(&self, queue: usize) -> bool {
        self.shared.control().queues[queue].is_some()
    }

    fn stop(&self, queue: usize) -> Option<u16> {
        self.shared.control().queues[queue].take().map(|stopped| stopped.ring.next_avail())
    }

    fn service(&self, queue: usize) {
        match queue {
            REQUEST_QUEUE => {
                self.iommu.stats().note_kick();
                self.shared.serve().poller.woken();
                self.shared.serve_while(|worker| self.serve_requests(worker));
                self.iommu.stats().note_sleep();
                self.shared.serve().poller.sleeping();
            }
            EVENT_QUEUE => self.deliver_events(&mut self.shared.serve()),
            _ => {}
        }
    }

    fn wake_fd(&self) -> Option<RawFd> {
        Some(self.iommu.faults().as_raw_fd())
    }

    fn wake(&self) {
        self.iommu.faults().consume_wake();
        let worker = &mut *self.shared.serve();
        self.deliver_events(worker);
    }

    fn reset(&self) {
        self.shared.control().taken = 0;
        self.iommu.reset();
    }
}
