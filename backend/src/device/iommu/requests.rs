//! The request queue: one drain is one batch (virtio 1.2 §5.13.6).

use frontend_spec::iommu::{
    AttachFlags, MAX_READABLE_BYTES, MapFlags, MapRequest, ProbeBuffer, REQUEST_QUEUE, Request, ResvMemSubtype, Status,
    Tail, UnmapRequest, feature,
};
use iommu_calgary::{
    AttachError, Calgary, DetachError, DomainId, DomainKind, EndpointId, Iova, MapError, Permissions, RealAddr,
    Request as Taking, UnmapError,
};

use super::batch::{Answer, Batch, MAX_ANSWER, Malformed, Recent, Shape, Slot, TAIL_BYTES, tail_bytes};
use super::{IommuDevice, LAST_DOMAIN, PROBE_SIZE, ReservedKind, Worker};
use crate::device::Queue;
use crate::device::side_core::{Rearmed, Turn, Visit};
use crate::device::throttle::warn_throttled;
use crate::dma::{Piece, Window};
use crate::ring::{Chain, Pair, RingError};

/// Requests of which one step is done before the next: as many as can have their lines under way at once.
const BLOCK: usize = 16;

impl IommuDevice {
    /// Serves the requests that are in the queue, as one batch, and tells of faults.
    pub(super) fn serve_requests(&self, worker: &mut Worker, visit: Visit) -> Turn {
        let polled = matches!(visit, Visit::Poll(_));
        worker.queues.iter_mut().flatten().for_each(|queue| queue.visited(visit));
        // While a thread polls, nobody else looks at the event queue.
        let tells = self.iommu.faults().is_pending() && (!polled || worker.has_room_for_events());
        if tells {
            self.deliver_events(worker);
        }
        let Some(queue) = worker.queues[REQUEST_QUEUE].as_mut().filter(|queue| queue.is_usable()) else {
            return Turn::Stopped;
        };
        let pending = queue.ring.pending(&worker.dma.enter());
        if pending == Ok(0) {
            if visit == Visit::Kick && queue.looks_unshared() {
                warn_throttled!(
                    self.throttle,
                    "iommu: the guest kicks but its request queue looks empty: if nothing works, guest memory is not \
                     shared with this daemon; start the VMM with share=on (QEMU: -object \
                     memory-backend-memfd,share=on; cloud-hypervisor: --memory shared=on)"
                );
            }
            return if polled && tells { Turn::Served } else { Turn::Nothing };
        }
        self.seat.visited(visit);
        if let Err(cause) = pending.and_then(|pending| self.serve_batch(worker, pending.min(self.largest_batch))) {
            self.stop_serving(worker, cause);
            return Turn::Stopped;
        }
        if polled {
            self.iommu.stats().note_poll();
        }
        Turn::Served
    }

    pub(super) fn stop_serving(&self, worker: &mut Worker, cause: RingError) {
        if let Some(queue) = &mut worker.queues[REQUEST_QUEUE] {
            self.set_aside(queue, "request", cause);
        }
    }

    /// Asks for a kick at the next request, and at the next event buffer if there is something to tell.
    pub(super) fn ask_for_kicks(&self, worker: &mut Worker) -> Result<Rearmed, RingError> {
        let untold = self.iommu.faults().is_pending() && worker.ask_for_event_buffers();
        let Worker { dma, queues: [requests, _], .. } = worker;
        let Some(queue) = requests.as_mut().filter(|queue| queue.is_usable()) else { return Ok(Rearmed::Asleep) };
        let pending = queue.ring.request_kicks(&dma.enter())?;
        Ok(if pending > 0 || untold { Rearmed::Pending } else { Rearmed::Asleep })
    }

    /// Serves `pending` requests.
    fn serve_batch(&self, worker: &mut Worker, pending: u16) -> Result<(), RingError> {
        let Worker { dma, queues, batch, taken } = worker;
        let Some(queue) = &mut queues[REQUEST_QUEUE] else { return Ok(()) };
        let window = dma.enter();
        queue.ring.suppress_kicks(&window)?;
        // Nothing is taken from a ring that takes no answer back.
        queue.ring.fetch_ahead(&window, pending)?;
        *taken += u64::from(pending);
        let mut slots = batch.take_slots();
        batch.start();
        self.apply(queue, &window, batch, &mut slots, pending)?;
        self.publish(queue, &window, batch, &slots)?;
        batch.keep_slots(slots);
        if queue.ring.wants_interrupt(&window)? {
            self.iommu.stats().note_interrupt();
            queue.interrupt.signal();
        }
        Ok(())
    }

    /// Takes `pending` requests, applies them in order, and makes them true.
    ///
    /// The lines of a request lie in the guest's processor, which has just written them, and say one after the other where
    /// the next one is. So each step is done for a block of requests, and between two steps of one block come those of others.
    fn apply<'w>(
        &self,
        queue: &mut Queue,
        window: &'w Window<'_>,
        batch: &mut Batch,
        slots: &mut Vec<Slot<'w>>,
        pending: u16,
    ) -> Result<(), RingError> {
        let few = Recent::matter_for(pending);
        if few {
            batch.recent.fetch();
        }
        // A lock waits for every load before it; so far there are only hints.
        let mut calgary = self.iommu.calgary_or_wait(|| self.seat.before_long());
        let cut_off = calgary.any_broken();
        slots.reserve(usize::from(pending));
        queue.ring.take_all(window, pending, |head| slots.push(Slot::new(head)))?;
        let pairs = queue.ring.pairs(window);
        let (mut placed, mut found, mut executed) = (0, 0, 0);
        while executed < slots.len() {
            // What the round before got so far; each step is a block behind the one before it.
            let (ready, readable) = (placed, found);
            placed = (placed + BLOCK).min(slots.len());
            for slot in &mut slots[ready..placed] {
                if let Some(place) = pairs.place(window, slot.head) {
                    slot.shape = Shape::Placed(place);
                }
            }
            for slot in &mut slots[readable..ready] {
                self.find(queue, window, batch, slot, few);
            }
            found = ready;
            let ready = &mut slots[executed..readable];
            if cut_off {
                ready.iter_mut().for_each(|slot| self.execute_after_cut(&mut calgary, window, batch, slot));
            } else {
                ready.iter_mut().for_each(|slot| self.execute(&mut calgary, window, batch, slot));
            }
            executed = readable;
        }
        self.iommu.stats().note_batch(slots.len() as u64);
        if !self.iommu.commit_or_wait(&mut calgary, || self.seat.before_long()) {
            for slot in slots.iter_mut().filter(|slot| slot.removes) {
                slot.answer = Answer::Tail(Status::DevErr);
            }
        }
        Ok(())
    }

    /// Finds out where the bytes of a request and its answer are; `note` says whether to remember the place.
    #[inline]
    fn find<'w>(&self, queue: &Queue, window: &'w Window<'_>, batch: &mut Batch, slot: &mut Slot<'w>, note: bool) {
        if let Shape::Placed(place) = slot.shape
            && let Some(pair) = place.pair(window)
        {
            if note {
                batch.recent.note(place, pair);
            }
            slot.shape = Shape::Pair(pair);
            return;
        }
        self.find_chain(queue, window, batch, slot);
    }

    #[cold]
    fn find_chain(&self, queue: &Queue, window: &Window<'_>, batch: &mut Batch, slot: &mut Slot<'_>) {
        let (number, chain) = batch.next_chain();
        slot.shape = match queue.ring.load_chain(window, slot.head, chain) {
            Ok(()) => Shape::Chain(number),
            Err(cause) => {
                self.refuse(&cause);
                Shape::Malformed
            }
        };
    }

    /// Applies the request of `slot` to the tables.
    #[inline]
    fn execute(&self, calgary: &mut Calgary, window: &Window<'_>, batch: &mut Batch, slot: &mut Slot<'_>) {
        let Some((request, writable)) = read(window, batch, slot) else { return };
        match request.and_then(|request| self.request(calgary, batch, request, writable)) {
            Ok((answer, removes)) => (slot.answer, slot.removes) = (answer, removes),
            Err(cause) => self.refuse(&cause),
        }
    }

    /// The same while some endpoint is cut off. What such an endpoint may go on using is not said to be taken away: it did not
    /// stop when an earlier batch waited for it.
    #[cold]
    #[inline(never)]
    fn execute_after_cut(&self, calgary: &mut Calgary, window: &Window<'_>, batch: &mut Batch, slot: &mut Slot<'_>) {
        let Some((request, writable)) = read(window, batch, slot) else { return };
        let outcome = request.and_then(|request| {
            let still_used = is_used_by_broken(calgary, &request);
            let (answer, removes) = self.request(calgary, batch, request, writable)?;
            Ok((if still_used { answer.but_failed() } else { answer }, removes))
        });
        match outcome {
            Ok((answer, removes)) => (slot.answer, slot.removes) = (answer, removes),
            Err(cause) => self.refuse(&cause),
        }
    }

    #[cold]
    fn refuse(&self, cause: &dyn std::fmt::Display) {
        warn_throttled!(self.throttle, "iommu: malformed request: {cause}");
        self.iommu.stats().note_malformed();
    }

    /// Writes the answers and hands the chains back, all visible at once.
    fn publish(
        &self,
        queue: &mut Queue,
        window: &Window<'_>,
        batch: &mut Batch,
        slots: &[Slot<'_>],
    ) -> Result<(), RingError> {
        queue.ring.push_all(window, slots.iter().map(|slot| (slot.head, self.answer(window, batch, slot))))?;
        queue.ring.publish(window)
    }

    /// Writes the answer to one request; returns the used length.
    #[inline]
    fn answer(&self, window: &Window<'_>, batch: &mut Batch, slot: &Slot<'_>) -> u32 {
        match slot.answer {
            Answer::Silent => 0,
            Answer::Tail(status) => {
                self.iommu.stats().note_status(status);
                let tail = tail_bytes(status);
                match slot.shape {
                    Shape::Pair(pair) if pair.writable.write(0, tail).is_some() => TAIL_BYTES,
                    _ => self.answer_in_pieces(window, batch, slot, &tail),
                }
            }
            Answer::Probe(status, number) => {
                self.iommu.stats().note_status(status);
                self.answer_in_pieces(window, batch, slot, &batch.probes[usize::from(number)])
            }
            Answer::ShortProbe(writable) => {
                self.iommu.stats().note_status(Status::Inval);
                // In the last four bytes; everything before them counts as written, since a used length counts from the
                // start (§2.7.8.2).
                let end = usize::from(writable);
                let mut all = [0; MAX_ANSWER];
                all[end - Tail::SIZE..end].copy_from_slice(&tail_bytes(Status::Inval));
                self.answer_in_pieces(window, batch, slot, &all[..end])
            }
        }
    }

    #[cold]
    fn answer_in_pieces(&self, window: &Window<'_>, batch: &Batch, slot: &Slot<'_>, bytes: &[u8]) -> u32 {
        let written = batch.copy_out(window, slot.shape, bytes).unwrap_or_else(|fault| {
            warn_throttled!(self.throttle, "iommu: an answer buffer at {:#x} is not guest RAM", fault.address);
            0
        });
        u32::try_from(written).unwrap_or(0)
    }

    /// Applies a request to the tables; says whether it may take something away. In line in both places: a third more time
    /// for each request of a batch goes into handing it over.
    #[inline(always)]
    fn request(
        &self,
        calgary: &mut Calgary,
        batch: &mut Batch,
        request: Request,
        writable: u64,
    ) -> Result<(Answer, bool), Malformed> {
        if writable < Tail::SIZE as u64 {
            return Err(Malformed::NoRoom(writable));
        }
        let feature_needed = match request {
            Request::Map { .. } | Request::Unmap { .. } => feature::MAP_UNMAP,
            Request::Probe { .. } => feature::PROBE,
            _ => 0,
        };
        if feature_needed != 0 && !self.negotiated(feature_needed) {
            return Err(Malformed::NotNegotiated);
        }
        self.iommu.stats().note_request(&request);
        let (status, removes) = match request {
            Request::Map { domain, virt_start, virt_end, phys_start, flags } => {
                (self.map(calgary, domain, virt_start, virt_end, phys_start, flags), false)
            }
            Request::Unmap { domain, virt_start, virt_end } => (unmap(calgary, domain, virt_start, virt_end), true),
            Request::Attach { domain, endpoint, flags, reserved_nonzero } => {
                (self.attach(calgary, domain, endpoint, flags, reserved_nonzero), true)
            }
            Request::Detach { domain, endpoint } => (detach(calgary, domain, endpoint), true),
            Request::Probe { endpoint } => return Ok((self.probe(calgary, batch, endpoint, writable), false)),
        };
        Ok((Answer::Tail(status), removes))
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
        match calgary.attach(DomainId(domain), EndpointId(endpoint), kind(flags)) {
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

    fn probe(&self, calgary: &Calgary, batch: &mut Batch, endpoint: u32, writable: u64) -> Answer {
        if writable < MAX_ANSWER as u64 {
            #[expect(clippy::cast_possible_truncation, reason = "below MAX_ANSWER")]
            return Answer::ShortProbe(writable as u16);
        }
        let (number, answer) = batch.next_probe();
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
        tail.copy_from_slice(&tail_bytes(status));
        Answer::Probe(status, number)
    }
}

/// Decodes a request of one piece. Nearly all are a MAP or an UNMAP, copied without a look at their length.
#[inline(always)]
fn parse(readable: Piece<'_>) -> Result<Request, Malformed> {
    if let Some(bytes) = readable.exactly::<{ size_of::<MapRequest>() }>() {
        return Ok(Request::parse(&bytes)?);
    }
    if let Some(bytes) = readable.exactly::<{ size_of::<UnmapRequest>() }>() {
        return Ok(Request::parse(&bytes)?);
    }
    let mut bytes = [0; MAX_READABLE_BYTES];
    let len = readable.copy_in(&mut bytes);
    Ok(Request::parse(&bytes[..len])?)
}

/// The same for any chain; and its writable bytes.
#[cold]
fn parse_chain(chain: &Chain, window: &Window<'_>) -> (Result<Request, Malformed>, u64) {
    let mut bytes = [0; MAX_READABLE_BYTES];
    let request = match chain.copy_in(window, &mut bytes) {
        Ok(len) => Request::parse(&bytes[..len]).map_err(Malformed::from),
        Err(fault) => Err(Malformed::Unreachable(fault.address)),
    };
    (request, chain.writable_len())
}

/// Copies the request of `slot`, and says how many bytes there are for its answer; nothing if it has no buffers.
/// In line, as [`IommuDevice::request`].
#[inline(always)]
fn read(window: &Window<'_>, batch: &Batch, slot: &Slot<'_>) -> Option<(Result<Request, Malformed>, u64)> {
    match slot.shape {
        Shape::Pair(Pair { readable, writable }) => Some((parse(readable), writable.bytes() as u64)),
        Shape::Chain(number) => Some(parse_chain(&batch.chains[usize::from(number)], window)),
        Shape::Placed(_) | Shape::Malformed => None,
    }
}

/// Whether an endpoint that was cut off may go on using what a request is about to take away.
fn is_used_by_broken(calgary: &Calgary, request: &Request) -> bool {
    let taking = match *request {
        Request::Unmap { domain, virt_start, virt_end } => {
            Taking::Unmap { domain: DomainId(domain), first: Iova(virt_start), last: Iova(virt_end) }
        }
        Request::Attach { domain, endpoint, flags, .. } => {
            Taking::Attach { domain: DomainId(domain), endpoint: EndpointId(endpoint), kind: kind(flags) }
        }
        Request::Detach { domain, endpoint } => {
            Taking::Detach { domain: DomainId(domain), endpoint: EndpointId(endpoint) }
        }
        Request::Map { .. } | Request::Probe { .. } => return false,
    };
    calgary.broken_user(&taking).is_some()
}

fn kind(flags: AttachFlags) -> DomainKind {
    if flags.contains(AttachFlags::BYPASS) { DomainKind::Bypass } else { DomainKind::Translated }
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
