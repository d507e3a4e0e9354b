//! The request queue and the life of the device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::events::EventQueue;
use super::requests::{Kicks, Reply, RequestQueue};
use super::wire::{
    F_BYPASS_CONFIG, F_DOMAIN_RANGE, F_INPUT_RANGE, F_MAP_UNMAP, F_PROBE, FaultEvent, IommuConfig, Request,
    ReservedRegion, Status, TAIL_BYTES,
};
use crate::guest::address::GuestPhys;
use crate::guest::dma::{Direct, DmaError};
use crate::guest::memory::{GuestMemory, MemoryError};
use crate::guest::queue::{
    QueueError, RawExchange, RawReply, RingBytes, RingPlacement, SplitQueue, VirtQueue, Waiting,
};
use crate::guest::transport::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Transport, TransportError};

/// Index of the request queue.
pub const REQUEST_QUEUE: usize = 0;
/// Index of the event queue.
pub const EVENT_QUEUE: usize = 1;

/// Properties beyond this are taken for a fault of the device.
const MAX_PROBE_BYTES: u32 = 64 << 10;

/// Why an IOMMU operation failed.
#[derive(Debug, thiserror::Error)]
pub enum IommuError {
    /// The device answered with a status other than OK.
    #[error("the IOMMU answered {status:?} to {request:?}")]
    Refused {
        /// The request.
        request: Request,
        /// The status.
        status: Status,
    },
    /// An UNMAP that nobody waited for failed.
    #[error("the IOMMU answered {0:?} to an UNMAP that was put off")]
    DeferredUnmap(Status),
    /// The used length was not that of an answered request, so Linux would not see the status.
    #[error("the IOMMU wrote {got} bytes where an answer has {expected}")]
    UsedLength {
        /// Used length in bytes.
        got: u32,
        /// What it must be.
        expected: u32,
    },
    /// The properties of an endpoint are malformed.
    #[error("the IOMMU returned malformed properties: {0}")]
    BadProperties(&'static str),
    /// An event is malformed.
    #[error("the IOMMU reported a malformed event: {0}")]
    BadEvent(&'static str),
    /// The configuration makes no sense.
    #[error("the IOMMU's configuration is unusable: {0}")]
    BadConfig(&'static str),
    /// The queue failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Guest memory is short.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A raw request could not be made.
    #[error("a raw request failed: {0}")]
    Raw(Box<DmaError>),
}

/// How to drive the device.
#[derive(Clone, Copy, Debug)]
pub struct IommuOptions {
    /// Entries of both rings; twice as many where the device knows no indirect descriptors and each request takes two.
    pub queue_size: u16,
    /// Features to accept where offered. Linux' set by default, which leaves out the old BYPASS.
    pub features: u64,
    /// How to wait for requests; Linux polls.
    pub waiting: Waiting,
    /// Buffers for events kept with the device; with 0 all its reports are lost.
    pub event_buffers: u16,
}

impl Default for IommuOptions {
    fn default() -> Self {
        Self {
            queue_size: 128,
            features: F_VERSION_1
                | F_INDIRECT_DESC
                | F_EVENT_IDX
                | F_INPUT_RANGE
                | F_DOMAIN_RANGE
                | F_MAP_UNMAP
                | F_PROBE
                | F_BYPASS_CONFIG,
            waiting: Waiting::Poll,
            event_buffers: 64,
        }
    }
}

/// The driver of one virtio-iommu, to be shared by the drivers of all endpoints behind it.
///
/// As in Linux, one lock covers the request queue and is held while a request is out.
#[derive(Debug)]
pub struct Iommu {
    device: Mutex<Box<dyn Transport>>,
    memory: Arc<GuestMemory>,
    config: IommuConfig,
    features: u64,
    queue_size: u16,
    requests: Mutex<RequestQueue>,
    events: Mutex<EventQueue>,
}

impl Iommu {
    /// Negotiate, read the configuration, start both queues and fill the event queue.
    ///
    /// # Errors
    /// [`IommuError::Transport`] when the device lacks MAP_UNMAP, [`IommuError::BadConfig`] when
    /// Linux would refuse its configuration, and others when the set-up fails.
    pub fn start(
        mut device: Box<dyn Transport>,
        memory: Arc<GuestMemory>,
        options: &IommuOptions,
    ) -> Result<Self, IommuError> {
        let features = device.negotiate(options.features)?;
        for (bit, name) in [(F_VERSION_1, "VERSION_1"), (F_MAP_UNMAP, "MAP_UNMAP")] {
            if features & options.features & bit == 0 && options.features & bit != 0 {
                return Err(TransportError::Missing(name).into());
            }
        }
        let config = read_config(device.as_mut(), features)?;
        let indirect = features & F_INDIRECT_DESC != 0;
        let size = if indirect { options.queue_size } else { options.queue_size.saturating_mul(2) };
        let mut open = |index, waiting| -> Result<VirtQueue, IommuError> {
            let run = memory.take_run(RingBytes::of(size).total())?;
            let ring = RingPlacement::contiguous(run, run.into(), size);
            let event_idx = features & F_EVENT_IDX != 0;
            let ring_state = SplitQueue::new(Arc::clone(&memory), ring, size, event_idx)?;
            let doorbell = device.start_queue(index, &ring, size, 0)?;
            Ok(VirtQueue::new(ring_state, doorbell, waiting)?)
        };
        let requests = RequestQueue::new(open(REQUEST_QUEUE, options.waiting)?, Arc::clone(&memory), indirect)?;
        let mut events =
            EventQueue::new(open(EVENT_QUEUE, Waiting::Interrupt)?, Arc::clone(&memory), options.event_buffers, size)?;
        events.announce()?;
        Ok(Self {
            device: Mutex::new(device),
            memory,
            config,
            features,
            queue_size: size,
            requests: Mutex::new(requests),
            events: Mutex::new(events),
        })
    }

    /// The configuration as read at the start. Fields of features that are not there are replaced
    /// by what they mean: the whole range.
    #[must_use]
    pub fn config(&self) -> &IommuConfig {
        &self.config
    }

    /// The negotiated features.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Send one request and wait for it.
    ///
    /// # Errors
    /// [`IommuError::UsedLength`] or [`IommuError::Queue`]; a status other than OK is a value.
    pub fn request(&self, request: Request) -> Result<Status, IommuError> {
        let mut reply = [Reply::NONE];
        lock(&self.requests).run(&[request], &mut reply, Kicks::Together)?;
        reply[0].status()
    }

    /// Send one request, wait for it, and insist on OK.
    ///
    /// # Errors
    /// [`IommuError::Refused`], or as [`Iommu::request`].
    pub fn execute(&self, request: Request) -> Result<(), IommuError> {
        match self.request(request)? {
            Status::Ok => Ok(()),
            status => Err(IommuError::Refused { request, status }),
        }
    }

    /// Send `requests` with one kick (more if the ring is smaller) and wait for all. A PROBE among
    /// them gets room for the tail only; see [`Iommu::probe`].
    ///
    /// # Errors
    /// [`IommuError::Queue`]; statuses and used lengths are values.
    pub fn batch(&self, requests: &[Request]) -> Result<Vec<Reply>, IommuError> {
        let mut replies = Vec::new();
        self.batch_into(requests, &mut replies, Kicks::Together)?;
        Ok(replies)
    }

    /// [`Iommu::batch`] with a list that is used again and again, whose former content goes, and with so many kicks.
    ///
    /// # Errors
    /// As [`Iommu::batch`].
    pub fn batch_into(&self, requests: &[Request], replies: &mut Vec<Reply>, kicks: Kicks) -> Result<(), IommuError> {
        replies.clear();
        replies.resize(requests.len(), Reply::NONE);
        lock(&self.requests).run(requests, replies, kicks)
    }

    /// Make a request visible to the device without kick and without waiting, as Linux does with
    /// lazy UNMAPs. The next request that is waited for carries it along.
    ///
    /// # Errors
    /// [`IommuError::Queue`].
    pub fn defer(&self, request: Request) -> Result<(), IommuError> {
        lock(&self.requests).defer(&request)
    }

    /// Wait for everything deferred.
    ///
    /// # Errors
    /// [`IommuError::DeferredUnmap`] when one of them failed, or [`IommuError::Queue`].
    pub fn sync(&self) -> Result<(), IommuError> {
        lock(&self.requests).sync(&mut [])
    }

    /// ATTACH `endpoint` to `domain`.
    ///
    /// # Errors
    /// As [`Iommu::execute`].
    pub fn attach(&self, domain: u32, endpoint: u32, flags: u32) -> Result<(), IommuError> {
        self.execute(Request::Attach { domain, endpoint, flags })
    }

    /// DETACH `endpoint` from `domain`.
    ///
    /// # Errors
    /// As [`Iommu::execute`].
    pub fn detach(&self, domain: u32, endpoint: u32) -> Result<(), IommuError> {
        self.execute(Request::Detach { domain, endpoint })
    }

    /// MAP IOVAs `first..=last` to memory from `target` on.
    ///
    /// # Errors
    /// As [`Iommu::execute`].
    pub fn map(&self, domain: u32, first: u64, last: u64, target: GuestPhys, flags: u32) -> Result<(), IommuError> {
        self.execute(Request::Map { domain, first, last, target, flags })
    }

    /// UNMAP everything inside `first..=last`.
    ///
    /// # Errors
    /// As [`Iommu::execute`].
    pub fn unmap(&self, domain: u32, first: u64, last: u64) -> Result<(), IommuError> {
        self.execute(Request::Unmap { domain, first, last })
    }

    /// PROBE `endpoint`: the regions that must not be mapped for it.
    ///
    /// # Errors
    /// [`IommuError::Refused`], [`IommuError::UsedLength`] or [`IommuError::BadProperties`].
    pub fn probe(&self, endpoint: u32) -> Result<Vec<ReservedRegion>, IommuError> {
        let request = Request::Probe { endpoint };
        let expected = self.config.probe_bytes + 4;
        let reply = self.exchange(&RawExchange::new(&request.to_bytes(), expected))?;
        if reply.used_bytes != expected {
            return Err(IommuError::UsedLength { got: reply.used_bytes, expected });
        }
        let (properties, tail) = reply.writable.split_at(reply.writable.len() - TAIL_BYTES);
        match Status::from(tail[0]) {
            Status::Ok => ReservedRegion::parse_all(properties).map_err(IommuError::BadProperties),
            status => Err(IommuError::Refused { request, status }),
        }
    }

    /// Send arbitrary bytes in arbitrary pieces.
    ///
    /// # Errors
    /// [`IommuError::Queue`] or [`IommuError::Raw`]; what the device answers is a value.
    pub fn exchange(&self, exchange: &RawExchange) -> Result<RawReply, IommuError> {
        let mut requests = lock(&self.requests);
        requests.sync(&mut [])?;
        exchange.run(&mut requests.queue, &self.memory, &Direct).map_err(|error| match error {
            DmaError::Queue(error) => error.into(),
            error => IommuError::Raw(Box::new(error)),
        })
    }

    /// The faults reported so far, without waiting.
    ///
    /// # Errors
    /// [`IommuError::BadEvent`] or [`IommuError::Queue`].
    pub fn take_faults(&self) -> Result<Vec<FaultEvent>, IommuError> {
        lock(&self.events).collect()
    }

    /// Wait for one fault report at most `timeout`.
    ///
    /// # Errors
    /// [`IommuError::BadEvent`] or [`IommuError::Queue`].
    pub fn wait_fault(&self, timeout: Duration) -> Result<Option<FaultEvent>, IommuError> {
        lock(&self.events).wait(timeout)
    }

    /// Read the bypass byte of the configuration.
    ///
    /// # Errors
    /// [`IommuError::Transport`].
    pub fn bypass(&self) -> Result<u8, IommuError> {
        let mut bytes = [0; IommuConfig::BYTES];
        lock(&self.device).read_config(0, &mut bytes)?;
        Ok(IommuConfig::parse(&bytes).bypass)
    }

    /// Write the bypass byte of the configuration.
    ///
    /// # Errors
    /// [`IommuError::Transport`].
    pub fn set_bypass(&self, value: u8) -> Result<(), IommuError> {
        Ok(lock(&self.device).write_config(IommuConfig::BYPASS_OFFSET, &[value])?)
    }

    /// Use the request queue directly: for hostile rings and for statistics.
    pub fn with_requests<T>(&self, act: impl FnOnce(&mut VirtQueue) -> T) -> T {
        act(&mut lock(&self.requests).queue)
    }

    /// Use the device directly.
    pub fn with_device<T>(&self, act: impl FnOnce(&mut dyn Transport) -> T) -> T {
        act(lock(&self.device).as_mut())
    }

    /// Stop both queues, as for a pause. Returns where they stopped, for [`Iommu::resume`].
    ///
    /// # Errors
    /// [`IommuError::Transport`].
    pub fn stop(&self) -> Result<[u16; 2], IommuError> {
        let mut device = lock(&self.device);
        let requests = device.stop_queue(REQUEST_QUEUE)?;
        let events = device.stop_queue(EVENT_QUEUE)?;
        Ok([requests, events])
    }

    /// Start both queues where [`Iommu::stop`] left them.
    ///
    /// # Errors
    /// [`IommuError::Transport`].
    pub fn resume(&self, bases: [u16; 2]) -> Result<(), IommuError> {
        let mut requests = lock(&self.requests);
        let mut events = lock(&self.events);
        let mut device = lock(&self.device);
        let queues = [&mut requests.queue, events.queue()];
        for (index, (queue, base)) in queues.into_iter().zip(bases).enumerate() {
            let placement = *queue.ring().placement();
            let doorbell = device.start_queue(index, &placement, self.queue_size, base)?;
            queue.set_doorbell(doorbell);
        }
        Ok(())
    }

    /// Start both queues, which are stopped, as a new driver does after a reboot: rings zeroed,
    /// base 0, nothing attached.
    ///
    /// # Errors
    /// [`IommuError::Transport`] or [`IommuError::Queue`].
    pub fn restart(&self) -> Result<(), IommuError> {
        lock(&self.requests).reset()?;
        lock(&self.events).reset()?;
        self.resume([0, 0])?;
        lock(&self.events).announce()
    }

    /// Drop the connection and make a new one; both queues are then stopped.
    ///
    /// # Errors
    /// [`IommuError::Transport`].
    pub fn reconnect(&self) -> Result<(), IommuError> {
        Ok(lock(&self.device).reconnect()?)
    }
}

fn read_config(device: &mut dyn Transport, features: u64) -> Result<IommuConfig, IommuError> {
    let mut bytes = [0; IommuConfig::BYTES];
    device.read_config(0, &mut bytes)?;
    let mut config = IommuConfig::parse(&bytes);
    let granule = config.granule();
    if granule == 0 || granule > 4096 {
        return Err(IommuError::BadConfig("page_size_mask is 0 or its granule exceeds 4096"));
    }
    if features & F_INPUT_RANGE == 0 {
        (config.input_first, config.input_last) = (0, u64::MAX);
    }
    if features & F_DOMAIN_RANGE == 0 {
        (config.domain_first, config.domain_last) = (0, u32::MAX);
    }
    if features & F_PROBE == 0 {
        config.probe_bytes = 0;
    }
    if config.input_last < config.input_first || config.domain_last < config.domain_first {
        return Err(IommuError::BadConfig("a range is inverted"));
    }
    if config.probe_bytes > MAX_PROBE_BYTES {
        return Err(IommuError::BadConfig("probe_size exceeds 64 KiB"));
    }
    Ok(config)
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
