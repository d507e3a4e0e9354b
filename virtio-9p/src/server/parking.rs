//! Requests that are answered later: locks that another owner holds.

use super::reply::{Reply, Terms, least_room};
use super::{Outcome, Server};
use crate::errno::Errno;
use crate::fs::{FileSystem, LockOwner, LockRequest, Patience};
use crate::segment::{Readable, Writable};
use crate::session::{Answer, Finished, Waiting};
use crate::wire::{Dialect, LockStatus, Rlock};

/// What became of a request that may be answered later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It is finished.
    Done(Outcome),
    /// It waits; [`Server::next_completed`] will name its ticket.
    Parked,
}

/// A parked request whose wait is over.
#[derive(Debug)]
#[must_use = "the client waits for the descriptor of this request"]
pub struct Completed(Finished);

impl Completed {
    /// The ticket that the request came with.
    pub fn ticket(&self) -> u64 {
        self.0.ticket
    }

    /// Writes the reply into the request's reply buffer, resolved anew. [`Outcome::Dropped`] if the request was
    /// flushed, or if the buffer is too small by now: the descriptor goes back with length 0.
    pub fn finish(&self, reply: &Writable<'_>) -> Outcome {
        // Only 9P2000.L has locks.
        let dialect = Dialect::Linux;
        if reply.len() < least_room(dialect) {
            return Outcome::Dropped;
        }
        // Nothing of this can be parked or kept waiting again.
        let terms = Terms { ticket: None, patience: Patience::Endless, era: 0 };
        let reply = Reply::new(self.0.tag, dialect, *reply, self.0.limit, terms);
        // Fits: shorter than an error.
        let answer = |status| Outcome::Reply(reply.send(&Rlock { status }).unwrap_or(0));
        match self.0.answer {
            Answer::Granted => answer(LockStatus::SUCCESS),
            Answer::AskAgain => answer(LockStatus::BLOCKED),
            Answer::Failed(error) => Outcome::Reply(reply.error(error)),
            Answer::Cancelled => Outcome::Dropped,
        }
    }
}

impl<F: FileSystem> Server<F> {
    /// As [`Server::handle`], but a lock that has to wait (`Tlock` with `BLOCK`) is parked under `ticket` and answered
    /// as soon as it is free, where `handle` would answer `BLOCKED` and leave it to the client to ask again.
    ///
    /// A caller that has a queue of requests, such as a virtio ring, keeps to this:
    ///
    /// 1. The ticket is a number of its own by which it finds the request again (the head of the descriptor chain).
    ///    [`Started::Parked`] means: not answered yet. The server keeps nothing of the request's memory, so the caller
    ///    may unpin and unmap it, and must not give the descriptor back.
    /// 2. After every call of `start` and [`Server::retry_parked`], and **before** it publishes what that call
    ///    answered, it takes all of [`Server::next_completed`]. For each it resolves the reply buffer of the ticket
    ///    anew, calls [`Completed::finish`], and gives the descriptor back with the length of the outcome (0 if it was
    ///    dropped, or if the buffer cannot be resolved any more). A client relies on this order: when an `Rflush` or
    ///    `Rversion` arrives, the descriptor of the flushed request has come back before, with its reply or empty, and
    ///    its memory and tag are free.
    /// 3. While [`Server::parked_count`] is not 0 it calls `retry_parked` from time to time (every 10 to 100 ms): a
    ///    lock that a program of the host or another session gives up makes no request here. Locks given up through
    ///    this server are noticed at once.
    /// 4. [`Server::reset`] drops what is parked and completed; the caller forgets its tickets.
    ///
    /// With several threads, steps 1 and 2 are done under one lock. A parked request occupies a place in the queue:
    /// [`Options::max_parked_locks`](crate::Options::max_parked_locks) leaves room for the request that gives up the
    /// lock, and beyond it a lock is answered `BLOCKED`.
    pub fn start(&self, request: &Readable<'_>, reply: &Writable<'_>, ticket: u64) -> Started {
        match self.start_within(request, reply, ticket, Patience::Endless) {
            Ok(started) => started,
            // Endless patience is enough for any request.
            Err(_) => Started::Done(Outcome::Dropped),
        }
    }

    /// As [`Server::start`], for a thread that must not wait longer than `patience` allows: a request that would have
    /// to has not begun, and can be given to a thread that may.
    ///
    /// # Errors
    /// The patience that the request needs, more than was given.
    pub fn start_within(
        &self,
        request: &Readable<'_>,
        reply: &Writable<'_>,
        ticket: u64,
        patience: Patience,
    ) -> Result<Started, Patience> {
        self.answer(request, reply, Some(ticket), patience)
    }

    /// Ends the wait of all parked requests with the answer `BLOCKED`: their clients ask again. For a caller that has
    /// to answer everything that it has taken, such as a queue that stops. False, and nothing is done, while another
    /// thread tries them, which the file system may keep.
    #[must_use]
    pub fn return_parked(&self) -> bool {
        self.session.parked.return_all()
    }

    /// Tries the parked requests again.
    pub fn retry_parked(&self) {
        if self.session.parked.len() > 0 {
            self.session.parked.retry(|request| self.attempt(request));
        }
    }

    /// The next parked request whose wait is over.
    pub fn next_completed(&self) -> Option<Completed> {
        self.session.parked.next_finished().map(Completed)
    }

    /// How many requests are parked.
    pub fn parked_count(&self) -> usize {
        self.session.parked.len()
    }

    fn attempt(&self, request: &Waiting<F>) -> Option<Answer> {
        let still = self
            .session
            .fids
            .get(request.fid)
            .is_ok_and(|now| std::ptr::eq(&raw const *now, &raw const *request.state));
        if !still {
            return Some(Answer::Failed(Errno::EBADF));
        }
        let owner = LockOwner { proc_id: request.proc_id, client_id: &request.client_id };
        let wanted = LockRequest { kind: request.kind, range: request.range, owner };
        match request.state.handle().and_then(|handle| self.fs.lock(handle, &wanted)) {
            Ok(true) => Some(Answer::Granted),
            Ok(false) => None,
            Err(error) => Some(Answer::Failed(error)),
        }
    }
}
