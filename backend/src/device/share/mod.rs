//! virtio-9p: one shared folder behind one queue.
//!
//! A request runs on the queue's own thread: its buffers are pinned while one window is open, the server moves data
//! between the file and the guest's pages, the pins are dropped, and only then does the used element appear, so that
//! a guest which unmaps after completion never waits for its own request.

mod stats;

pub use stats::{ShareStats, ShareStatsSnapshot};

use std::sync::Arc;
use std::sync::atomic::Ordering;

use iommu_calgary::{Access, Phb};
use log::{error, info};
use virtio_9p::{FileSystem, Outcome, Passthrough, Readable, Segment, Server, Writable};

use frontend_spec::ninep::{MountTag, feature as ninep_feature};
use frontend_spec::virtio::{DEVICE_ID_9P, feature};

use super::iommu::{FaultRecord, Iommu};
use super::poll::{PollEnd, Poller};
use super::throttle::{Throttle, warn_throttled};
use super::{Left, PollPolicy, Queue, Shared};
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
pub struct ShareDevice<F: FileSystem = Passthrough> {
    identity: Identity,
    config: Vec<u8>,
    server: Server<F>,
    max_message: u64,
    translated: Option<Translated>,
    shared: Shared<Worker>,
    stats: ShareStats,
    throttle: Throttle,
}

struct Worker {
    dma: Dma,
    queue: Option<Queue>,
    chain: Chain,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
    poller: Poller,
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
    #[must_use]
    pub fn new(tag: &MountTag, server: Server<F>, max_message: u32, attachment: Attachment, poll: PollPolicy) -> Self {
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
            poller: Poller::new(poll),
            taken: 0,
        };
        Self {
            identity,
            config: tag.config(),
            server,
            max_message: u64::from(max_message),
            translated,
            shared: Shared::new(worker),
            stats: ShareStats::default(),
            throttle: Throttle::default(),
        }
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> ShareStatsSnapshot {
        self.stats.snapshot(&self.server)
    }

    /// What answers the requests.
    #[must_use]
    pub fn server(&self) -> &Server<F> {
        &self.server
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

    /// Serves the queue until it is empty and stays so for as long as the policy polls.
    fn serve(&self, worker: &mut Worker) -> Left {
        let mut served = 0;
        let outcome = self.serve_and_poll(worker, &mut served);
        worker.taken += served;
        let Some(queue) = &mut worker.queue else { return Left::Nothing };
        match outcome {
            Ok(left) => {
                if served == 0 && queue.looks_unshared() {
                    warn_throttled!(
                        self.throttle,
                        "{}: the guest kicks but its queue looks empty: guest memory may not be shared with this daemon; \
                         start the VMM with share=on",
                        self.identity.name
                    );
                }
                return left;
            }
            // A translated ring may be out of reach for a while, say between two drivers; an index never lies in reach.
            Err(RingError::Fault(fault)) => self.report(fault),
            Err(cause @ RingError::AvailIndex { .. }) => {
                queue.broken = true;
                error!("{}: the queue stops until the driver resets the device: {cause}", self.identity.name);
            }
        }
        Left::Nothing
    }

    fn serve_and_poll(&self, worker: &mut Worker, served: &mut u64) -> Result<Left, RingError> {
        while worker.queue.as_ref().is_some_and(|queue| !queue.broken) {
            self.drain(worker, served)?;
            if self.poll(worker) == PollEnd::Found {
                continue;
            }
            let Worker { dma, queue: Some(queue), .. } = worker else { break };
            if queue.ring.request_kicks(&dma.enter())? == 0 {
                break;
            }
            if self.shared.is_wanted() {
                return Ok(Left::Some);
            }
        }
        Ok(Left::Nothing)
    }

    /// Looks for requests without being kicked. Each look is a window of its own, or an UNMAP would wait for the next
    /// request.
    fn poll(&self, worker: &mut Worker) -> PollEnd {
        let Worker { dma, queue: Some(queue), poller, .. } = worker else { return PollEnd::Idle };
        poller.poll(|| queue.ring.pending(&dma.enter()) != Ok(0), || self.shared.is_wanted())
    }

    /// Serves what is in the queue; counts it in `served`.
    fn drain(&self, worker: &mut Worker, served: &mut u64) -> Result<(), RingError> {
        let Worker { dma, queue: Some(queue), chain, readable, writable, .. } = worker else { return Ok(()) };
        {
            let window = dma.enter();
            queue.ring.suppress_kicks(&window)?;
        }
        let before = *served;
        loop {
            if self.shared.is_wanted() && *served > before {
                return Ok(());
            }
            let (head, loaded) = {
                let window = dma.enter();
                if queue.ring.pending(&window)? == 0 {
                    return Ok(());
                }
                let head = queue.ring.take(&window)?;
                let loaded = self.load(&window, &queue.ring, head, chain, readable, writable);
                (head, loaded)
            };
            *served += 1;
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
        ring: &Ring,
        head: u16,
        chain: &mut Chain,
        readable: &mut Vec<Segment>,
        writable: &mut Vec<Segment>,
    ) -> Result<(), ChainError> {
        ring.load_chain(window, head, chain)?;
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

impl<F: FileSystem> Device for ShareDevice<F> {
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
        self.shared.control().dma.set_memory(ram);
    }

    fn activate(&self, _queue: usize, layout: RingLayout, base: u16, interrupt: Arc<dyn Interrupt>) {
        let mut worker = self.shared.control();
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
        self.shared.control().queue.is_some()
    }

    fn stop(&self, _queue: usize) -> Option<u16> {
        self.shared.control().queue.take().map(|stopped| stopped.ring.next_avail())
    }

    fn service(&self, _queue: usize) {
        self.stats.kicks.fetch_add(1, Ordering::Relaxed);
        self.shared.serve().poller.woken();
        self.shared.serve_while(|worker| self.serve(worker));
        self.shared.serve().poller.sleeping();
    }

    fn reset(&self) {
        self.shared.control().taken = 0;
        self.server.reset();
    }
}
