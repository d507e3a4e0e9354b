//! The queue's thread: takes requests, answers those that do not wait, and gives the others to workers.

use std::sync::atomic::Ordering;
use std::time::Instant;

use log::error;
use virtio_9p::{FileSystem, Outcome, Patience, Readable, Started, Writable};

use super::claims::Claims;
use super::core::{Copied, Job};
use super::flights::Stage;
use super::taking::{Place, Taken};
use super::wake::TRY_LOCKS_EVERY;
use super::{Queue, ShareDevice, Worker};
use crate::device::side_core::{Rearmed, Turn, Visit};
use crate::device::throttle::warn_throttled;
use crate::dma::DmaFault;
use crate::ring::{ChainError, RingError};

/// Most requests in one turn, so that other devices have theirs.
const REQUESTS_PER_TURN: usize = 16;

impl<F: FileSystem> ShareDevice<F> {
    /// Serves some of what there is to do.
    pub(super) fn serve(&self, worker: &mut Worker, visit: Visit) -> Turn {
        let Some(queue) = &mut worker.queue else { return Turn::Stopped };
        queue.visited(visit);
        if !queue.is_usable() {
            return Turn::Stopped;
        }
        let pending = !worker.flights.is_full() && queue.ring.pending(&worker.dma.enter()) != Ok(0);
        let locks_due = worker.flights.parked() > 0 && Instant::now() >= worker.try_locks_at;
        if !(pending || locks_due || self.core.has_finished() || !worker.returned.is_empty()) {
            if visit == Visit::Kick && queue.looks_unshared() {
                warn_throttled!(
                    self.throttle,
                    "{}: the guest kicks but its queue looks empty: guest memory may not be shared with this daemon; \
                     start the VMM with share=on",
                    self.identity.name
                );
            }
            return Turn::Nothing;
        }
        self.seat.visited(visit);
        let outcome = self.drain(worker, locks_due);
        self.signal_the_rest(worker);
        self.try_locks_regularly(worker);
        match outcome {
            Ok(()) => Turn::Served,
            Err(cause) => {
                self.stop_serving(worker, cause);
                Turn::Stopped
            }
        }
    }

    /// Asks for a kick at the next request.
    pub(super) fn ask_for_kicks(&self, worker: &mut Worker) -> Result<Rearmed, RingError> {
        let Worker { dma, queue: Some(queue), flights, returned, .. } = worker else { return Ok(Rearmed::Asleep) };
        // What is finished waits for a ring that takes it, however long: nobody is to poll for that.
        if !queue.is_usable() {
            return Ok(Rearmed::Asleep);
        }
        if self.core.has_finished() || !returned.is_empty() {
            return Ok(Rearmed::Pending);
        }
        // Where no request may be taken, the end of one wakes the thread.
        if flights.is_full() {
            return Ok(Rearmed::Asleep);
        }
        let pending = queue.ring.request_kicks(&dma.enter())?;
        Ok(if pending > 0 { Rearmed::Pending } else { Rearmed::Asleep })
    }

    pub(super) fn stop_serving(&self, worker: &mut Worker, cause: RingError) {
        let Some(queue) = &mut worker.queue else { return };
        queue.set_aside(cause);
        match cause {
            RingError::Fault(fault) => self.report(fault),
            RingError::AvailIndex { .. } => {
                error!("{}: the queue stops until the driver resets the device: {cause}", self.identity.name);
            }
        }
    }

    /// Tries the parked locks if they are due, and serves some of what is in the queue.
    fn drain(&self, worker: &mut Worker, locks_due: bool) -> Result<(), RingError> {
        let Worker { dma, queue: Some(queue), .. } = worker else { return Ok(()) };
        let window = dma.enter();
        queue.ring.check(&window)?;
        queue.ring.suppress_kicks(&window)?;
        drop(window);
        self.return_owed(worker)?;
        // Not before it is known that the ring takes an answer back: a lock that is granted is not asked for again.
        if locks_due {
            // Before the timer's next wake, which would be in vain otherwise.
            worker.try_locks_at = Instant::now() + TRY_LOCKS_EVERY / 2;
            self.try_locks(worker)?;
        }
        let mut pending = 0;
        for served in 0..REQUESTS_PER_TURN {
            if self.core.has_finished() {
                self.collect(worker)?;
            }
            if worker.flights.is_full() || (self.shared.is_wanted() && served > 0) {
                return Ok(());
            }
            let Some(taken) = self.take(worker, &mut pending)? else { return Ok(()) };
            worker.taken += 1;
            self.answer(worker, taken)?;
        }
        Ok(())
    }

    /// Answers a request, or sees to it that it is answered later.
    fn answer(&self, worker: &mut Worker, taken: Taken) -> Result<(), RingError> {
        let Taken { head, place } = taken;
        if !self.is_brief(&worker.hand.chain) {
            self.signal_the_rest(worker);
        }
        let used = match place.and_then(|place| Ok(self.begin(worker, head, place)?)) {
            Ok(used) => used,
            Err(cause) => {
                self.refuse(cause);
                worker.let_go();
                Some(0)
            }
        };
        // What this request ended goes back before it does.
        let settled = self.settle_parked(worker);
        match used {
            Some(used) => {
                worker.ahead.replied(head, used);
                settled.and(self.give_back(worker, head, used))
            }
            None => settled,
        }
    }

    /// Carries out a request, as long as nothing is to be waited for; `None` if it stays in flight.
    fn begin(&self, worker: &mut Worker, head: u16, place: Place) -> Result<Option<u32>, DmaFault> {
        let mut claims = None;
        if worker.flights.aloft() > 0 {
            let found = self.claims(worker, place)?;
            self.give_up(worker, &found);
            if worker.flights.hold_back(&found) {
                if place == Place::Guest {
                    self.place_copy(worker)?;
                }
                self.hold(worker, head, found, false);
                return Ok(None);
            }
            claims = Some(found);
        }
        self.announce(worker, place);
        let ticket = worker.flights.ticket();
        let mut started = match place {
            Place::Guest => self.start_in_place(worker, ticket),
            Place::Copy => self.start_copy(worker, ticket),
        };
        let mut place = place;
        if let (Err(needed), Place::Guest) = (started, place) {
            self.place_copy(worker)?;
            place = Place::Copy;
            if needed <= Patience::Disk {
                started = self.start_copy(worker, ticket);
            }
        }
        match started {
            Ok(Started::Done(Outcome::Reply(len))) if place == Place::Copy => Ok(Some(self.send(worker, len))),
            Ok(Started::Done(outcome)) => Ok(Some(self.used(outcome))),
            Ok(Started::Parked) => {
                worker.flights.add(head, &worker.hand.chain.writable, Claims::default(), Stage::Parked);
                Ok(None)
            }
            Err(_) => {
                let claims = match claims {
                    Some(claims) => claims,
                    None => self.claims(worker, place)?,
                };
                self.hold(worker, head, claims, true);
                Ok(None)
            }
        }
    }

    /// Lets the server work on the guest's own pages. Behind the IOMMU they are pinned, so that nothing may wait.
    fn start_in_place(&self, worker: &mut Worker, ticket: u64) -> Result<Started, Patience> {
        let patience = if self.is_translated() { Patience::None } else { Patience::Disk };
        let (from, to) = (Readable::new(&worker.hand.readable), Writable::new(&worker.hand.writable));
        let started = self.core.server.start_within(&from, &to, ticket, patience);
        worker.let_go();
        started
    }

    /// Lets the server work on the copy.
    fn start_copy(&self, worker: &mut Worker, ticket: u64) -> Result<Started, Patience> {
        let (request, reply) = worker.hand.copy();
        self.core.server.start_bytes_within(request, reply, ticket, Patience::Disk)
    }

    /// Puts the copied request in hand among those in flight: to a worker if it is `free`, else to wait for earlier ones.
    fn hold(&self, worker: &mut Worker, head: u16, claims: Claims, free: bool) {
        self.stats.offloaded.fetch_add(1, Ordering::Relaxed);
        let (request, reply) = worker.hand.detach();
        let copied = Copied { ticket: worker.flights.ticket(), request, reply };
        let reply_to = &worker.hand.chain.writable;
        if free {
            worker.flights.add(head, reply_to, claims, Stage::Working);
            self.hand_over(Job::Answer(copied));
        } else {
            worker.flights.add(head, reply_to, claims, Stage::Queued(copied));
        }
    }

    /// Sends the first `len` bytes of the reply in hand; returns the used length.
    fn send(&self, worker: &mut Worker, len: usize) -> u32 {
        let Worker { dma, hand, .. } = worker;
        self.deliver(dma, &hand.chain.writable, hand.reply(len))
    }

    /// The used length of a request whose reply is in place.
    pub(super) fn used(&self, outcome: Outcome) -> u32 {
        match outcome {
            Outcome::Reply(len) => u32::try_from(len).unwrap_or(0),
            Outcome::Dropped => {
                self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                0
            }
        }
    }

    /// Notes a request that could not be read.
    fn refuse(&self, cause: ChainError) {
        self.stats.dropped.fetch_add(1, Ordering::Relaxed);
        match cause {
            ChainError::Fault(fault) => self.report(fault),
            cause => warn_throttled!(self.throttle, "{}: malformed request: {cause}", self.identity.name),
        }
    }

    /// Gives a chain back to the driver, now or when the ring is in reach again. Whether the driver wants an interrupt may be
    /// left to [`ShareDevice::signal_the_rest`].
    pub(super) fn give_back(&self, worker: &mut Worker, head: u16, used: u32) -> Result<(), RingError> {
        worker.returned.push_back((head, used));
        self.return_owed(worker)
    }

    /// Gives back what is to go back next.
    pub(super) fn return_owed(&self, worker: &mut Worker) -> Result<(), RingError> {
        let Worker { dma, queue: Some(queue), returned, .. } = worker else { return Ok(()) };
        while let Some(&(head, used)) = returned.front() {
            let window = dma.enter();
            queue.ring.complete(&window, head, used)?;
            returned.pop_front();
            if queue.ring.wants_interrupt_already(&window)? {
                self.signal(queue);
            }
        }
        Ok(())
    }

    /// Interrupts the driver if it wants that for anything that was given back: at the end of a turn, and before a request
    /// that it would have to wait for.
    pub(super) fn signal_the_rest(&self, worker: &mut Worker) {
        let Worker { dma, queue: Some(queue), .. } = worker else { return };
        // A ring that cannot be reached is found so by whoever serves it.
        if queue.ring.wants_interrupt(&dma.enter()) == Ok(true) {
            self.signal(queue);
        }
    }

    fn signal(&self, queue: &Queue) {
        self.stats.interrupts.fetch_add(1, Ordering::Relaxed);
        queue.interrupt.signal();
    }
}
