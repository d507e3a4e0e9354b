//! What the IOMMU counts.

use std::sync::atomic::{AtomicU64, Ordering};

use frontend_spec::iommu::{Request, Status};
use iommu_calgary::Commit;

/// Statuses OK (0) to NOMEM (8).
const STATUSES: usize = 9;

/// Classes of batch size: 1, 2 to 3, 4 to 7, and so on to 1,024 and more.
const BATCH_CLASSES: usize = 11;

/// Counters, written by the IOMMU's thread and read by anyone.
#[derive(Debug, Default)]
pub struct IommuStats {
    /// ATTACH, DETACH, MAP, UNMAP, PROBE.
    requests: [AtomicU64; 5],
    statuses: [AtomicU64; STATUSES],
    /// Requests answered without a status: unknown type, or a chain that is none.
    malformed: AtomicU64,
    batches: AtomicU64,
    batch_sizes: [AtomicU64; BATCH_CLASSES],
    largest_batch: AtomicU64,
    kicks: AtomicU64,
    polls: AtomicU64,
    sleeps: AtomicU64,
    interrupts: AtomicU64,
    pub(super) ring_errors: AtomicU64,
    invalidations: AtomicU64,
    waits: AtomicU64,
    longest_wait_ns: AtomicU64,
    broken: AtomicU64,
}

/// A copy of the counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IommuStatsSnapshot {
    /// ATTACH requests.
    pub attaches: u64,
    /// DETACH requests.
    pub detaches: u64,
    /// MAP requests.
    pub maps: u64,
    /// UNMAP requests.
    pub unmaps: u64,
    /// PROBE requests.
    pub probes: u64,
    /// Requests answered with OK.
    pub ok: u64,
    /// Requests answered with another status.
    pub refused: u64,
    /// Requests answered without a status.
    pub malformed: u64,
    /// Drains of the request queue that found something.
    pub batches: u64,
    /// The same by size: class `n` counts drains of 2^n to 2^(n+1) - 1 requests, the last one all larger ones.
    pub batch_sizes: [u64; BATCH_CLASSES],
    /// Most requests in one drain.
    pub largest_batch: u64,
    /// Calls to serve the request queue.
    pub kicks: u64,
    /// Times that the polling thread found work which no kick told of.
    pub polls: u64,
    /// Times that nobody was left to look for work, and a kick was asked for.
    pub sleeps: u64,
    /// Interrupts sent.
    pub interrupts: u64,
    /// Times that a ring could not be used.
    pub ring_errors: u64,
    /// Times that an endpoint's accesses were brought to quiet because a translation was removed: once for each batch and
    /// endpoint concerned.
    pub invalidations: u64,
    /// Commits that had to wait for a DMA in flight.
    pub waits: u64,
    /// Longest such wait, in nanoseconds.
    pub longest_wait_ns: u64,
    /// Endpoints cut off because a DMA outlived its translation.
    pub broken: u64,
}

impl IommuStats {
    #[inline]
    pub(super) fn note_request(&self, request: &Request) {
        let index = match request {
            Request::Attach { .. } => 0,
            Request::Detach { .. } => 1,
            Request::Map { .. } => 2,
            Request::Unmap { .. } => 3,
            Request::Probe { .. } => 4,
        };
        bump(&self.requests[index], 1);
    }

    #[inline]
    pub(super) fn note_status(&self, status: Status) {
        bump(&self.statuses[(status as usize).min(STATUSES - 1)], 1);
    }

    pub(super) fn note_malformed(&self) {
        bump(&self.malformed, 1);
    }

    pub(super) fn note_kick(&self) {
        bump(&self.kicks, 1);
    }

    pub(super) fn note_poll(&self) {
        bump(&self.polls, 1);
    }

    pub(super) fn note_sleep(&self) {
        bump(&self.sleeps, 1);
    }

    pub(super) fn note_interrupt(&self) {
        bump(&self.interrupts, 1);
    }

    pub(super) fn note_batch(&self, requests: u64) {
        bump(&self.batches, 1);
        let class = requests.checked_ilog2().map_or(0, |class| class as usize);
        bump(&self.batch_sizes[class.min(BATCH_CLASSES - 1)], 1);
        if requests > self.largest_batch.load(Ordering::Relaxed) {
            self.largest_batch.store(requests, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn note_commit(&self, commit: &Commit) {
        if !commit.waited.is_zero() {
            let nanoseconds = u64::try_from(commit.waited.as_nanos()).unwrap_or(u64::MAX);
            bump(&self.waits, 1);
            self.longest_wait_ns.fetch_max(nanoseconds, Ordering::Relaxed);
        }
        if commit.invalidated > 0 {
            bump(&self.invalidations, commit.invalidated as u64);
            bump(&self.broken, commit.broken.len() as u64);
        }
    }

    /// Names of the statuses, as the log gives them (virtio 1.2 §5.13.6.2).
    const STATUSES: [&'static str; STATUSES] =
        ["OK", "IOERR", "UNSUPP", "DEVERR", "INVAL", "RANGE", "NOENT", "FAULT", "NOMEM"];

    /// Answers since the start, by status.
    pub fn by_status(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::STATUSES.into_iter().zip(self.statuses.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// The counters now. Each is exact; together they may straddle a batch.
    #[must_use]
    pub fn snapshot(&self) -> IommuStatsSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        IommuStatsSnapshot {
            attaches: get(&self.requests[0]),
            detaches: get(&self.requests[1]),
            maps: get(&self.requests[2]),
            unmaps: get(&self.requests[3]),
            probes: get(&self.requests[4]),
            ok: get(&self.statuses[0]),
            refused: self.statuses[1..].iter().map(get).sum(),
            malformed: get(&self.malformed),
            batches: get(&self.batches),
            batch_sizes: std::array::from_fn(|class| get(&self.batch_sizes[class])),
            largest_batch: get(&self.largest_batch),
            kicks: get(&self.kicks),
            polls: get(&self.polls),
            sleeps: get(&self.sleeps),
            interrupts: get(&self.interrupts),
            ring_errors: get(&self.ring_errors),
            invalidations: get(&self.invalidations),
            waits: get(&self.waits),
            longest_wait_ns: get(&self.longest_wait_ns),
            broken: get(&self.broken),
        }
    }
}

/// Each counter has one writer at a time (the serving thread, or whoever holds the tables), so a load and a store lose
/// nothing.
#[inline]
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_status() {
        let stats = IommuStats::default();
        for status in [Status::Ok, Status::Inval, Status::NoMem, Status::Inval, Status::Inval, Status::Ok] {
            stats.note_status(status);
        }
        let counted: Vec<_> = stats.by_status().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("OK", 2), ("INVAL", 3), ("NOMEM", 1)]);
        assert_eq!((stats.snapshot().ok, stats.snapshot().refused), (2, 4));
    }

    #[test]
    fn batches_are_counted_by_powers_of_two() {
        let stats = IommuStats::default();
        for requests in [1, 1, 2, 3, 4, 127, 128, 1023, 1024, 4000] {
            stats.note_batch(requests);
        }
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.batch_sizes, [2, 2, 1, 0, 0, 0, 1, 1, 0, 1, 2]);
        assert_eq!((snapshot.batches, snapshot.largest_batch), (10, 4000));
    }
}
