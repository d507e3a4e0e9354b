//! Answers that come later: from workers, and from parked locks.

use std::sync::atomic::Ordering;
use std::time::Instant;

use log::warn;
use virtio_9p::wire::{Message, Rlerror, Tag};
use virtio_9p::{Errno, FileSystem, Outcome, Patience, Started, Work};

use super::claims::Claims;
use super::core::{Finished, Job};
use super::flights::Flight;
use super::{ShareDevice, Worker};
use crate::dma::Dma;
use crate::memory::host_len;
use crate::ring::{Buffer, RingError};

/// Bytes of a reply that are copied to the guest in one window, so that no UNMAP waits for long.
const DELIVERY: usize = 64 << 10;
/// Longest reply that is made here, in bytes: an `Rlerror`.
const LOCK_REPLY: usize = 11;

/// Room for a reply in `to`, of at most [`LOCK_REPLY`] bytes.
fn short_room(to: &[Buffer]) -> usize {
    let room = to.iter().map(|buffer| u64::from(buffer.len)).sum::<u64>();
    host_len(room.min(LOCK_REPLY as u64))
}

impl<F: FileSystem> ShareDevice<F> {
    /// Gives a job to a worker, or does it here if there is none to be had.
    pub(super) fn hand_over(&self, job: Job<F>) {
        if let Err(job) = self.pool.submit(job) {
            self.core.work(job);
        }
    }

    /// Forgets what the driver said: it is gone. No caller of this may be kept by the file system, and the session of the next
    /// driver need not wait for the files of the last one.
    pub(super) fn end_session(&self) {
        let ended = self.core.server.end_session();
        if self.core.server.file_system().needs(Work::Names) < Patience::Endless {
            self.core.server.close(ended);
        } else if !ended.is_empty() {
            self.hand_over(Job::Close(ended));
        }
    }

    /// Takes out the request that a flush names, if it has not begun: it goes back empty, before the flush is answered. What
    /// waited for it waits no longer.
    pub(super) fn give_up(&self, worker: &mut Worker, claims: &Claims) {
        if let Some(given_up) = claims.flushes.and_then(|tag| worker.flights.give_up(tag)) {
            self.stats.dropped.fetch_add(1, Ordering::Relaxed);
            worker.returned.push_back((given_up.head, 0));
            self.hand_over_free(worker);
        }
    }

    /// Hands over what waits for nothing in flight any more.
    fn hand_over_free(&self, worker: &mut Worker) {
        while let Some(copied) = worker.flights.next_free() {
            // It may be done here, and the driver would have to wait for it.
            self.signal_the_rest(worker);
            self.hand_over(Job::Answer(copied));
        }
    }

    /// Takes out everything in flight. What has not begun does not begin any more: it would find the fids of another session,
    /// and the driver has its answer or is gone.
    pub(super) fn give_up_all(&self, worker: &mut Worker) -> Vec<Flight> {
        self.pool.withdraw(|job| matches!(job, Job::Answer(_)));
        worker.flights.take_all()
    }

    /// Gives back what the workers have finished, and hands over what waited for it.
    pub(super) fn collect(&self, worker: &mut Worker) -> Result<(), RingError> {
        let mut outcome = Ok(());
        for finished in self.core.take_finished() {
            let Finished { copied, started } = finished;
            outcome = outcome.and(self.settle_parked(worker));
            match started {
                Started::Parked => worker.flights.park(copied.ticket),
                Started::Done(done) => {
                    // One that is not known was answered when the queue stopped.
                    if let Some(flight) = worker.flights.remove(copied.ticket) {
                        let used = match done {
                            Outcome::Reply(len) => {
                                let reply = copied.reply.get(..len).unwrap_or(&copied.reply);
                                self.deliver(&mut worker.dma, &flight.reply_to, reply)
                            }
                            Outcome::Dropped => self.used(done),
                        };
                        outcome = outcome.and(self.give_back(worker, flight.head, used));
                    }
                }
            }
        }
        outcome = outcome.and(self.settle_parked(worker));
        self.hand_over_free(worker);
        outcome
    }

    /// Gives back what was given up, and the locks whose wait is over.
    pub(super) fn settle_parked(&self, worker: &mut Worker) -> Result<(), RingError> {
        let mut outcome = self.return_owed(worker);
        if worker.flights.is_empty() {
            return outcome;
        }
        while let Some(completed) = self.core.server.next_completed() {
            let Some(Flight { head, reply_to, .. }) = worker.flights.remove(completed.ticket()) else { continue };
            let mut reply = [0; LOCK_REPLY];
            let used = match completed.finish_bytes(&mut reply[..short_room(&reply_to)]) {
                Outcome::Reply(len) => self.deliver(&mut worker.dma, &reply_to, reply.get(..len).unwrap_or(&reply)),
                Outcome::Dropped => self.used(Outcome::Dropped),
            };
            outcome = outcome.and(self.give_back(worker, head, used));
        }
        outcome
    }

    /// Copies a reply to where it goes, translated now; returns the used length, 0 if it cannot be reached any more.
    pub(super) fn deliver(&self, dma: &mut Dma, to: &[Buffer], reply: &[u8]) -> u32 {
        let mut rest = reply;
        for buffer in to {
            let (part, after) = rest.split_at((buffer.len as usize).min(rest.len()));
            rest = after;
            let mut address = buffer.address;
            for piece in part.chunks(DELIVERY) {
                if let Err(fault) = dma.enter().copy_out(address, piece) {
                    self.report(fault);
                    return self.used(Outcome::Dropped);
                }
                address = address.wrapping_add(piece.len() as u64);
            }
        }
        self.used(Outcome::Reply(reply.len()))
    }

    /// Tries the parked locks again.
    pub(super) fn try_locks(&self, worker: &mut Worker) -> Result<(), RingError> {
        if self.core.server.file_system().needs(Work::Names) < Patience::Endless {
            self.core.server.retry_parked();
        } else if self.core.begins_trying() {
            self.hand_over(Job::TryLocks);
        }
        self.settle_parked(worker)
    }

    /// Has this thread woken for parked locks as long as there are any.
    pub(super) fn try_locks_regularly(&self, worker: &mut Worker) {
        let wanted = worker.flights.parked() > 0;
        if wanted != worker.tries_locks {
            worker.tries_locks = wanted;
            self.core.wake.regularly(wanted);
        }
    }

    /// Answers everything that is in flight, so that the queue can stop: the index that it stops at tells the front end that
    /// all before it is completed. Parked locks are to be asked for again. What finds the ring out of reach goes back after
    /// the next start.
    pub(super) fn land(&self, worker: &mut Worker) {
        let until = Instant::now() + self.landing_limit;
        loop {
            // First what the workers have parked, then all that is parked: the last look is at both.
            let _ = self.collect(worker);
            let returned = self.core.server.return_parked();
            let _ = self.settle_parked(worker);
            let landed = returned && worker.flights.aloft() == 0;
            if landed || !self.core.wait_finished(until) {
                break;
            }
        }
        for Flight { head, reply_to, claims, .. } in self.give_up_all(worker) {
            warn!("{}: a request is still running as the queue stops; it is answered EIO", self.identity.name);
            let mut reply = [0; LOCK_REPLY];
            let room = &mut reply[..short_room(&reply_to)];
            let used = match (Rlerror { ecode: Errno::EIO.raw() }).emit(Tag(claims.tag), room) {
                Ok(len) => self.deliver(&mut worker.dma, &reply_to, &reply[..len]),
                Err(_) => self.used(Outcome::Dropped),
            };
            let _ = self.give_back(worker, head, used);
        }
    }
}
