//! The request queue: one drain is one batch (virtio 1.2 §5.13.6).

use frontend_spec::iommu::{
    AttachFlags, MAX_READABLE_BYTES, MapFlags, ParseError, ProbeBuffer, REQUEST_QUEUE, Request, ResvMemSubtype, Status,
    Tail, feature,
};
use iommu_calgary::{
    AttachError, Calgary, DetachError, DomainId, DomainKind, EndpointId, Iova, MapError, Permissions, RealAddr,
    UnmapError,
};
use zerocopy::IntoBytes;

use super::{IommuDevice, LAST_DOMAIN, PROBE_SIZE, ReservedKind, Worker};
use crate::device::poll::PollEnd;
use crate::device::throttle::warn_throttled;
use crate::device::{Left, Queue};
use crate::dma::Window;
use crate::ring::{Chain, RingError};

/// Longest answer: the properties of a PROBE and its tail.
const MAX_ANSWER: usize = PROBE_SIZE as usize + Tail::SIZE;

/// Requests between the available and the used ring. Its memory is kept from drain to drain.
#[derive(Default)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    used: usize,
    pub(super) event_chain: Chain,
}

/// One request and its answer.
#[derive(Default)]
struct Entry {
    head: u16,
    chain: Chain,
    answer: Answer,
    /// Took something away: must not be called done if the commit fails.
    removes: bool,
}

#[derive(Default)]
enum Answer {
    /// Nothing is written; the used length is 0.
    #[default]
    Silent,
    /// The request is loaded and not executed yet.
    Pending,
    /// Only a tail.
    Tail(Status),
    /// `PROBE_SIZE` bytes of properties, then a tail.
    Probe(Status, Box<[u8; MAX_ANSWER]>),
    /// A tail of `INVAL` in the last four bytes of a writable part too short for the properties.
    ShortProbe,
}

impl Batch {
    fn next(&mut self) -> &mut Entry {
        if self.used == self.entries.len() {
            self.entries.push(Entry::default());
        }
        self.used += 1;
        &mut self.entries[self.used - 1]
    }
}

impl IommuDevice {
    /// Serves the request queue until it is empty and stays so for as long as the policy polls.
    pub(super) fn serve_requests(&self, worker: &mut Worker) -> Left {
        let mut served = 0;
        let left = match self.serve_and_poll(worker, &mut served) {
            Ok(left) => left,
            Err(cause) => {
                if let Some(queue) = &mut worker.queues[REQUEST_QUEUE] {
                    self.give_up(queue, "request", cause);
                }
                Left::Nothing
            }
        };
        worker.taken += served;
        if worker.queues[REQUEST_QUEUE].as_mut().is_some_and(|queue| served == 0 && queue.looks_unshared()) {
            warn_throttled!(
                self.throttle,
                "iommu: the guest kicks but its request queue looks empty: if nothing works, guest memory is not shared \
                 with this daemon; start the VMM with share=on (QEMU: -object memory-backend-memfd,share=on; \
                 cloud-hypervisor: --memory shared=on)"
            );
        }
        left
    }

    fn serve_and_poll(&self, worker: &mut Worker, served: &mut u64) -> Result<Left, RingError> {
        while worker.queues[REQUEST_QUEUE].as_ref().is_some_and(|queue| !queue.broken) {
            *served += self.drain(worker)?;
            // Nobody else looks at the event queue while this thread polls.
            if self.iommu.faults().is_pending() {
                self.deliver_events(worker);
            }
            if self.poll(worker) == PollEnd::Found {
                self.iommu.stats().note_poll();
                continue;
            }
            let Worker { dma, queues, .. } = worker;
            let Some(queue) = &mut queues[REQUEST_QUEUE] else { break };
            if queue.ring.request_kicks(&dma.enter())? == 0 {
                break;
            }
            if self.shared.is_wanted() {
                return Ok(Left::Some);
            }
        }
        Ok(Left::Nothing)
    }

    /// Looks for requests, and for room to tell of faults, without being kicked.
    fn poll(&self, worker: &mut Worker) -> PollEnd {
        let Worker { dma, queues, poller, .. } = worker;
        let [Some(requests), events] = &*queues else { return PollEnd::Idle };
        let window = dma.enter();
        let look = || {
            let room = || events.as_ref().is_some_and(|events| matches!(events.ring.pending(&window), Ok(1..)));
            requests.ring.pending(&window) != Ok(0) || self.iommu.faults().is_pending() && room()
        };
        poller.poll(look, || self.shared.is_wanted())
    }

    /// Serves what is in the request queue; returns how many requests that was.
    fn drain(&self, worker: &mut Worker) -> Result<u64, RingError> {
        let Worker { dma, queues, batch, .. } = worker;
        let Some(queue) = &mut queues[REQUEST_QUEUE] else { return Ok(0) };
        let window = dma.enter();
        queue.ring.resolve_host(&window);
        queue.ring.suppress_kicks(&window)?;
        let mut served = 0;
        loop {
            let pending = queue.ring.pending(&window)?;
            if pending == 0 || self.shared.is_wanted() && served > 0 {
                return Ok(served);
            }
            served += u64::from(pending);
            self.apply(queue, &window, batch, pending)?;
            self.publish(queue, &window, batch)?;
            if queue.ring.wants_interrupt(&window)? {
                self.iommu.stats().note_interrupt();
                queue.interrupt.signal();
            }
        }
    }

    /// Takes `pending` requests, applies them in order, and makes them true.
    fn apply(&self, queue: &mut Queue, window: &Window<'_>, batch: &mut Batch, pending: u16) -> Result<(), RingError> {
        batch.used = 0;
        for _ in 0..pending {
            let head = queue.ring.take(window)?;
            queue.ring.prefetch_head(head);
            let entry = batch.next();
            entry.head = head;
            entry.removes = false;
        }
        queue.ring.prefetch_used(pending);
        let entries = &mut batch.entries[..batch.used];
        for entry in &*entries {
            queue.ring.prefetch_chain(window, entry.head);
        }
        for entry in &mut *entries {
            entry.answer = match queue.ring.load_chain(window, entry.head, &mut entry.chain) {
                Ok(()) => {
                    let _ = entry.chain.fetch_readable(window);
                    let _ = entry.chain.fetch_writable(window);
                    Answer::Pending
                }
                Err(cause) => {
                    warn_throttled!(self.throttle, "iommu: malformed request: {cause}");
                    self.iommu.stats().note_malformed();
                    Answer::Silent
                }
            };
        }
        let mut calgary = self.iommu.calgary();
        for entry in entries.iter_mut().filter(|entry| matches!(entry.answer, Answer::Pending)) {
            entry.answer = self.execute(&mut calgary, window, &entry.chain, &mut entry.removes);
        }
        self.iommu.stats().note_batch(u64::from(pending));
        if !self.iommu.commit(&mut calgary) {
            for entry in entries.iter_mut().filter(|entry| entry.removes) {
                entry.answer = Answer::Tail(Status::DevErr);
            }
        }
        Ok(())
    }

    /// Writes the answers and hands the chains back, all visible at once.
    fn publish(&self, queue: &mut Queue, window: &Window<'_>, batch: &Batch) -> Result<(), RingError> {
        for entry in &batch.entries[..batch.used] {
            let written = match &entry.answer {
                Answer::Silent | Answer::Pending => Ok(0),
                Answer::Tail(status) => {
                    self.iommu.stats().note_status(*status);
                    let tail = Tail::new(*status);
                    match entry.chain.fetch_writable(window).and_then(|piece| piece.copy_out(tail.as_bytes())) {
                        Some(written) => Ok(written),
                        None => entry.chain.copy_out(window, tail.as_bytes()),
                    }
                }
                Answer::Probe(status, bytes) => {
                    self.iommu.stats().note_status(*status);
                    entry.chain.copy_out(window, &bytes[..])
                }
                Answer::ShortProbe => {
                    self.iommu.stats().note_status(Status::Inval);
                    write_last(window, &entry.chain, Tail::new(Status::Inval).as_bytes())
                }
            };
            let len = written.unwrap_or_else(|fault| {
                warn_throttled!(self.throttle, "iommu: an answer buffer at {:#x} is not guest RAM", fault.address);
                0
            });
            let len = u32::try_from(len).unwrap_or(0);
            queue.ring.push_used(window, entry.head, len)?;
        }
        queue.ring.publish(window)
    }

    /// Applies one request to the tables.
    fn execute(&self, calgary: &mut Calgary, window: &Window<'_>, chain: &Chain, removes: &mut bool) -> Answer {
        let mut bytes = [0; MAX_READABLE_BYTES];
        let silent = |reason: &dyn std::fmt::Display| {
            warn_throttled!(self.throttle, "iommu: malformed request: {reason}");
            self.iommu.stats().note_malformed();
            Answer::Silent
        };
        let copied = match chain.fetch_readable(window) {
            Some(piece) => Ok(piece.copy_in(&mut bytes)),
            None => chain.copy_in(window, &mut bytes),
        };
        let request = match copied {
            Ok(len) => Request::parse(&bytes[..len]),
            Err(fault) => return silent(&format_args!("its bytes at {:#x} are not guest RAM", fault.address)),
        };
        let request = match request {
            Ok(request) => request,
            Err(cause @ (ParseError::UnknownType(_) | ParseError::TooShort { .. })) => return silent(&cause),
        };
        let writable = chain.writable_len();
        if writable < Tail::SIZE as u64 {
            return silent(&format_args!("{writable} writable bytes have no room for a tail"));
        }
        let feature_needed = match request {
            Request::Map { .. } | Request::Unmap { .. } => feature::MAP_UNMAP,
            Request::Probe { .. } => feature::PROBE,
            _ => 0,
        };
        if feature_needed != 0 && !self.negotiated(feature_needed) {
            return silent(&"its feature was not negotiated");
        }
        self.iommu.stats().note_request(&request);
        let status = match request {
            Request::Attach { domain, endpoint, flags, reserved_nonzero } => {
                *removes = true;
                self.attach(calgary, domain, endpoint, flags, reserved_nonzero)
            }
            Request::Detach { domain, endpoint } => {
                *removes = true;
                detach(calgary, domain, endpoint)
            }
            Request::Map { domain, virt_start, virt_end, phys_start, flags } => {
                self.map(calgary, domain, virt_start, virt_end, phys_start, flags)
            }
            Request::Unmap { domain, virt_start, virt_end } => {
                *removes = true;
                unmap(calgary, domain, virt_start, virt_end)
            }
            Request::Probe { endpoint } => return self.probe(calgary, endpoint, writable),
        };
        Answer::Tail(status)
    }

    fn attach(
        &self,
        calgary: &mut Calgary,
        domain: u32,
        endpoint: u32,
        flags: AttachFlags,
        reserved_nonzero: bool,
    ) -> Status {
        let known = if self.negotiated(feature::BYPASS_CONFIG) { AttachFlags::BYPASS } else { AttachFlags::NONE };
        if reserved_nonzero || flags.exceeds(known) {
            return Status::Inval;
        }
        if domain > LAST_DOMAIN {
            return Status::Range;
        }
        let kind = if flags.contains(AttachFlags::BYPASS) { DomainKind::Bypass } else { DomainKind::Translated };
        match calgary.attach(DomainId(domain), EndpointId(endpoint), kind) {
            Ok(()) => Status::Ok,
            Err(AttachError::NoEndpoint) => Status::NoEnt,
            Err(AttachError::KindMismatch) => Status::Inval,
            Err(cause @ (AttachError::TooManyDomains | AttachError::OutOfMemory(..))) => {
                warn_throttled!(self.throttle, "iommu: ATTACH of endpoint {endpoint:#x} to domain {domain}: {cause}");
                Status::NoMem
            }
        }
    }

    /// A driver may never look at the status of a MAP (Linux does not since 6.8), so a refusal is logged.
    fn map(&self, calgary: &mut Calgary, domain: u32, first: u64, last: u64, phys: u64, flags: MapFlags) -> Status {
        let known = if self.negotiated(feature::MMIO) { MapFlags(0b111) } else { MapFlags::READ_WRITE };
        if flags.exceeds(known) {
            return Status::Inval;
        }
        let permissions = Permissions::new(flags.contains(MapFlags::READ), flags.contains(MapFlags::WRITE));
        let Err(cause) = calgary.map(DomainId(domain), Iova(first), Iova(last), RealAddr(phys), permissions) else {
            return Status::Ok;
        };
        warn_throttled!(
            self.throttle,
            "iommu: MAP of {first:#x}..={last:#x} to {phys:#x} in domain {domain} refused: {cause}"
        );
        match cause {
            MapError::NoDomain => Status::NoEnt,
            MapError::Bypass | MapError::Overlap | MapError::Reserved => Status::Inval,
            MapError::Unaligned | MapError::Inverted | MapError::OutsideWindow | MapError::BadAddress => Status::Range,
        }
    }

    fn probe(&self, calgary: &Calgary, endpoint: u32, writable: u64) -> Answer {
        if writable < MAX_ANSWER as u64 {
            return Answer::ShortProbe;
        }
        let mut answer = Box::new([0; MAX_ANSWER]);
        let (properties, tail) = answer.split_at_mut(PROBE_SIZE as usize);
        let status = if calgary.endpoints().any(|known| known == EndpointId(endpoint)) {
            let mut buffer = ProbeBuffer::new(properties);
            let complete = self.iommu.reserved().iter().all(|region| {
                let subtype = match region.kind {
                    ReservedKind::Hole => ResvMemSubtype::Reserved,
                    ReservedKind::Msi => ResvMemSubtype::Msi,
                };
                buffer.resv_mem(subtype, region.first, region.last).is_ok()
            });
            if complete { Status::Ok } else { Status::DevErr }
        } else {
            Status::NoEnt
        };
        tail.copy_from_slice(Tail::new(status).as_bytes());
        Answer::Probe(status, answer)
    }
}

fn detach(calgary: &mut Calgary, domain: u32, endpoint: u32) -> Status {
    match calgary.detach(DomainId(domain), EndpointId(endpoint)) {
        Ok(()) => Status::Ok,
        Err(DetachError::NoEndpoint) => Status::NoEnt,
        Err(DetachError::NotAttached) => Status::Inval,
    }
}

fn unmap(calgary: &mut Calgary, domain: u32, first: u64, last: u64) -> Status {
    match calgary.unmap(DomainId(domain), Iova(first), Iova(last)) {
        Ok(_) => Status::Ok,
        Err(UnmapError::NoDomain) => Status::NoEnt,
        Err(UnmapError::Bypass) => Status::Inval,
        Err(UnmapError::Split | UnmapError::Inverted) => Status::Range,
    }
}

/// Writes `bytes` into the last bytes of the writable part, and counts everything before them as written, since a
/// used length counts from the start (§2.7.8.2).
fn write_last(window: &Window<'_>, chain: &Chain, bytes: &[u8]) -> Result<usize, crate::dma::DmaFault> {
    let total = usize::try_from(chain.writable_len()).unwrap_or(usize::MAX).min(MAX_ANSWER);
    let mut all = [0; MAX_ANSWER];
    all[total - bytes.len()..total].copy_from_slice(bytes);
    chain.copy_out(window, &all[..total])
}
