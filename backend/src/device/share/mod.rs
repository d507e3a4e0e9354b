//! virtio-9p: one shared folder behind one queue.
//!
//! A request runs on the queue's own thread: its buffers are pinned while one window is open, the server moves data
//! between the file and the guest's pages, the pins are dropped, and only then does the used element appear, so that
//! a guest which unmaps after completion never waits for its own request.

mod stats;

pub use stats::{ShareStats, ShareStatsSnapshot};

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommu_calgary::{Access, Phb};
use log::{error, info};
use virtio_9p::{Outcome, Passthrough, Readable, Segment, Server, Writable};

use frontend_spec::ninep::{MountTag, feature as ninep_feature};
use frontend_spec::virtio::{DEVICE_ID_9P, feature};

use super::Queue;
use super::iommu::{FaultRecord, Iommu};
use super::throttle::{Throttle, warn_throttled};
use crate::dma::{Dma, DmaFault};
use crate::memory::GuestRam;
use crate::ring::{Buffer, Chain, ChainError, Ring, RingError, RingLayout};
use crate::transport::{Device, Identity, Interrupt};

/// Largest queue size offered. Linux asks for 128; crosvm's default limit is far larger and is accepted up to this.
pub const MAX_QUEUE_SIZE: u16 = 1024;
/// Most memory pieces of one direction of a request: what one `preadv2` takes.
const MAX_SEGMENTS: usize = 1024;
/// Bytes of each direction of a request that are looked at, beyond the largest message.
const SLACK: u64 = 64 * 1024;

/// An endpoint behind the IOMMU.
struct Translated {
    endpoint: u32,
    iommu: Arc<Iommu>,
}

/// The device model.
pub struct ShareDevice {
    identity: Identity,
    config: Vec<u8>,
    server: Server<Passthrough>,
    max_message: u64,
    translated: Option<Translated>,
    worker: Mutex<Worker>,
    stats: ShareStats,
    throttle: Throttle,
}

struct Worker {
    dma: Dma,
    queue: Option<Queue>,
    chain: Chain,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
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

impl ShareDevice {
    /// A device that shows `server` under `tag`; messages are at most `max_message` bytes.
    #[must_use]
    pub fn new(tag: &MountTag, server: Server<Passthrough>, max_message: u32, attachment: Attachment) -> Self {
        let identity = Identity {
            name: format!("share {tag}"),
            virtio_id: u32::from(DEVICE_ID_9P),
            queue_sizes: vec![MAX_QUEUE_SIZE],
        };
        let (dma, translated) = match attachment {
            Attachment::Direct => (Dma::direct(), None),
            Attachment::Behind { iommu, endpoint, phb } => {
                (Dma::translated(&phb), Some(Translated { endpoint, iommu }))
            }
        };
        let worker = Worker {
            dma,
            queue: None,
            chain: Chain::default(),
            readable: Vec::with_capacity(MAX_SEGMENTS),
            writable: Vec::with_capacity(MAX_SEGMENTS),
            taken: 0,
        };
        Self {
            identity,
            config: tag.config(),
            server,
            max_message: u64::from(max_message),
            translated,
            worker: Mutex::new(worker),
            stats: ShareStats::default(),
            throttle: Throttle::default(),
        }
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> ShareStatsSnapshot {
        self.stats.snapshot(&self.server)
    }

    /// Whether DMA goes through the IOMMU.
    #[must_use]
    pub fn is_translated(&self) -> bool {
        self.translated.is_some()
    }

    fn worker(&self) -> MutexGuard<'_, Worker> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Serves until the queue is empty; returns how many requests there were.
    fn drain(&self, worker: &mut Worker) -> Result<u64, RingError> {
        let Worker { dma, queue: Some(queue), chain, readable, writable, .. } = worker else { return Ok(0) };
        let mut served = 0;
        queue.ring.suppress_kicks(&dma.enter())?;
        loop {
            let (head, loaded) = {
                let window = dma.enter();
                if queue.ring.pending(&window)? == 0 && queue.ring.request_kicks(&window)? == 0 {
                    return Ok(served);
                }
                let head = queue.ring.take(&window)?;
                let loaded = self.load(&window, &queue.ring.layout(), head, chain, readable, writable);
                (head, loaded)
            };
            served += 1;
            let used = match loaded {
                Ok(()) => match self.server.handle(&Readable::new(readable), &Writable::new(writable)) {
                    Outcome::Reply(len) => u32::try_from(len).unwrap_or(0),
                    Outcome::Dropped => {
                        self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                        0
                    }
                },
                Err(cause) => {
                    self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                    match cause {
                        ChainError::Fault(fault) => self.report(fault),
                        cause => warn_throttled!(self.throttle, "{}: malformed request: {cause}", self.identity.name),
                    }
                    0
                }
            };
            readable.clear();
            writable.clear();
            dma.unpin();
            let window = dma.enter();
            queue.ring.push_used(&window, head, used)?;
            queue.ring.publish(&window)?;
            if queue.ring.wants_interrupt(&window)? {
                self.stats.interrupts.fetch_add(1, Ordering::Relaxed);
                queue.interrupt.signal();
            }
        }
    }

    /// Follows the chain at `head` and pins its memory.
    fn load(
        &self,
        window: &crate::dma::Window<'_>,
        layout: &RingLayout,
        head: u16,
        chain: &mut Chain,
        readable: &mut Vec<Segment>,
        writable: &mut Vec<Segment>,
    ) -> Result<(), ChainError> {
        chain.load(window, layout, head)?;
        let limit = self.max_message + SLACK;
        pin(window, &chain.readable, limit, Access::Read, readable)?;
        pin(window, &chain.writable, limit, Access::Write, writable)?;
        Ok(())
    }
}

/// Pins the first `limit` bytes of `buffers`.
fn pin(
    window: &crate::dma::Window<'_>,
    buffers: &[Buffer],
    limit: u64,
    access: Access,
    segments: &mut Vec<Segment>,
) -> Result<(), DmaFault> {
    let mut left = limit;
    for buffer in buffers {
        let len = u64::from(buffer.len).min(left);
        window.pin_segments(buffer.address, len, access, MAX_SEGMENTS, segments)?;
        left -= len;
    }
    Ok(())
}

impl Device for ShareDevice {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn features(&self) -> u64 {
        let platform = if self.is_translated() { feature::ACCESS_PLATFORM } else { 0 };
        feature::VERSION_1 | feature::INDIRECT_DESC | feature::EVENT_IDX | ninep_feature::MOUNT_TAG | platform
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
        self.worker().dma.set_memory(ram);
    }

    fn activate(&self, _queue: usize, layout: RingLayout, base: u16, interrupt: Arc<dyn Interrupt>) {
        let mut worker = self.worker();
        let ring = Ring::new(layout, base);
        if base == 0 {
            // A ring that wraps to 0 while paused is told from a new one by what the device once wrote into it.
            let resumed = worker.taken > 0 && ring.has_history(&worker.dma.enter()).unwrap_or(false);
            if !resumed {
                worker.taken = 0;
                self.server.reset();
            }
        }
        info!("{}: queue starts at {base}", self.identity.name);
        worker.queue = Some(Queue::new(ring, interrupt));
    }

    fn is_active(&self, _queue: usize) -> bool {
        self.worker().queue.is_some()
    }

    fn stop(&self, _queue: usize) -> Option<u16> {
        self.worker().queue.take().map(|stopped| stopped.ring.next_avail())
    }

    fn service(&self, _queue: usize) {
        let worker = &mut *self.worker();
        if worker.queue.as_ref().is_none_or(|queue| queue.broken) {
            return;
        }
        self.stats.kicks.fetch_add(1, Ordering::Relaxed);
        let outcome = self.drain(worker);
        let Some(queue) = &mut worker.queue else { return };
        match outcome {
            Ok(0) => {
                if queue.looks_unshared() {
                    warn_throttled!(
                        self.throttle,
                        "{}: the guest kicks but its queue looks empty: guest memory may not be shared with this \
                         daemon; start the VMM with share=on",
                        self.identity.name
                    );
                }
            }
            Ok(served) => worker.taken += served,
            // A translated ring may be out of reach for a while, say between two drivers; an index never lies in reach.
            Err(RingError::Fault(fault)) => self.report(fault),
            Err(cause @ RingError::AvailIndex { .. }) => {
                queue.broken = true;
                error!("{}: the queue stops until the driver resets the device: {cause}", self.identity.name);
            }
        }
    }

    fn reset(&self) {
        self.worker().taken = 0;
        self.server.reset();
    }
}
