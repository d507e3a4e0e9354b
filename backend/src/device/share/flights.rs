//! Requests that were taken from the ring and have not gone back: those that workers carry out, those that wait for these,
//! and parked locks.

use super::claims::Claims;
use super::core::Copied;
use crate::ring::Buffer;

/// A request in flight.
pub(super) struct Flight {
    /// By what the server and the workers know it.
    pub(super) ticket: u64,
    /// The head of its chain.
    pub(super) head: u16,
    /// Where its reply goes, in the device's address space: translated when the reply is there, and not before.
    pub(super) reply_to: Vec<Buffer>,
    pub(super) claims: Claims,
    pub(super) stage: Stage,
}

/// What a request in flight waits for.
pub(super) enum Stage {
    /// For earlier ones, by its claims.
    Queued(Copied),
    /// For a worker.
    Working,
    /// For a lock; it claims nothing any more.
    Parked,
}

/// See the module. In the order in which they were taken.
pub(super) struct Flights {
    list: Vec<Flight>,
    parked: usize,
    limit: usize,
    next_ticket: u64,
}

impl Flights {
    /// Room for `limit` requests besides parked locks.
    pub(super) fn new(limit: usize) -> Self {
        Self { list: Vec::new(), parked: 0, limit, next_ticket: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Requests in flight, besides parked locks.
    pub(super) fn aloft(&self) -> usize {
        self.list.len() - self.parked
    }

    pub(super) fn parked(&self) -> usize {
        self.parked
    }

    /// Whether no further request may be taken.
    pub(super) fn is_full(&self) -> bool {
        self.aloft() >= self.limit
    }

    /// The ticket of the request at hand, should it be added.
    pub(super) fn ticket(&self) -> u64 {
        self.next_ticket
    }

    /// Adds a request under [`Flights::ticket`].
    pub(super) fn add(&mut self, head: u16, reply_to: &[Buffer], claims: Claims, stage: Stage) {
        self.parked += usize::from(matches!(stage, Stage::Parked));
        let reply_to = reply_to.to_vec();
        self.list.push(Flight { ticket: self.next_ticket, head, reply_to, claims, stage });
        self.next_ticket += 1;
    }

    /// Whether a request with `claims` has to wait for one in flight.
    pub(super) fn hold_back(&self, claims: &Claims) -> bool {
        holds_back(&self.list, claims)
    }

    /// Takes out the request with a ticket.
    pub(super) fn remove(&mut self, ticket: u64) -> Option<Flight> {
        let index = self.list.iter().position(|flight| flight.ticket == ticket)?;
        let flight = self.list.remove(index);
        self.parked -= usize::from(matches!(flight.stage, Stage::Parked));
        Some(flight)
    }

    /// Takes out a request that has not begun and has a tag.
    pub(super) fn give_up(&mut self, tag: u16) -> Option<Flight> {
        let queued = |flight: &Flight| flight.claims.tag == tag && matches!(flight.stage, Stage::Queued(_));
        let index = self.list.iter().position(queued)?;
        Some(self.list.remove(index))
    }

    /// Notes that a request waits for a lock now.
    pub(super) fn park(&mut self, ticket: u64) {
        if let Some(flight) = self.list.iter_mut().find(|flight| flight.ticket == ticket)
            && !matches!(flight.stage, Stage::Parked)
        {
            flight.stage = Stage::Parked;
            self.parked += 1;
        }
    }

    /// A queued request that no earlier one holds back any more; it counts as worked on from now on.
    pub(super) fn next_free(&mut self) -> Option<Copied> {
        let free = |at: usize| {
            let (earlier, flight) = (&self.list[..at], &self.list[at]);
            matches!(flight.stage, Stage::Queued(_)) && !holds_back(earlier, &flight.claims)
        };
        let at = (0..self.list.len()).find(|at| free(*at))?;
        match std::mem::replace(&mut self.list[at].stage, Stage::Working) {
            Stage::Queued(copied) => Some(copied),
            Stage::Working | Stage::Parked => None,
        }
    }

    /// Takes out all.
    pub(super) fn take_all(&mut self) -> Vec<Flight> {
        self.parked = 0;
        std::mem::take(&mut self.list)
    }
}

fn holds_back(earlier: &[Flight], claims: &Claims) -> bool {
    earlier.iter().any(|flight| !matches!(flight.stage, Stage::Parked) && claims.waits_for(&flight.claims))
}
