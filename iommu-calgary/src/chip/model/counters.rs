//! What a driver's work costs.

use std::time::Duration;

/// Counts since the model was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Reads of registers, polls among them.
    pub mmio_reads: u64,
    /// Writes of registers.
    pub mmio_writes: u64,
    /// Reads of a split queue.
    pub polls: u64,
    /// Writes of a TAR while translation is on: each drops a cache.
    pub invalidations: u64,
    /// Lines flushed.
    pub line_flushes: u64,
    /// Entries stored.
    pub stores: u64,
    /// Walks of the table.
    pub walks: u64,
    /// Accesses served from the cache.
    pub hits: u64,
    /// Of these, by an entry that memory no longer held.
    pub stale_hits: u64,
    /// Accesses that waited because the bus was stopped.
    pub held_up: u64,
    /// Errors signalled.
    pub errors: u64,
    /// Ticks in which a PHB was stopped, over all PHBs.
    pub stopped_ticks: u64,
    /// The longest that one was stopped at a time, in ticks.
    pub longest_stop: u64,
}

/// Assumed costs: none was ever published for this chip. Comparisons of batching use counts, not these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Costs {
    /// A register read: the processor waits for the answer.
    pub mmio_read: Duration,
    /// A register write: posted.
    pub mmio_write: Duration,
    /// A flush of a dirty line.
    pub line_flush: Duration,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            mmio_read: Duration::from_nanos(1000),
            mmio_write: Duration::from_nanos(100),
            line_flush: Duration::from_nanos(100),
        }
    }
}

impl Costs {
    /// Time that the driver's processor spends.
    #[must_use]
    pub fn of_driver(&self, counters: &Counters) -> Duration {
        let part = |cost: Duration, count: u64| Duration::from_secs_f64(cost.as_secs_f64() * count as f64);
        part(self.mmio_read, counters.mmio_reads)
            + part(self.mmio_write, counters.mmio_writes)
            + part(self.line_flush, counters.line_flushes)
    }
}

impl std::ops::Sub for Counters {
    type Output = Self;

    /// What was counted since `earlier`. The longest stop is that of all time.
    fn sub(self, earlier: Self) -> Self {
        Self {
            mmio_reads: self.mmio_reads - earlier.mmio_reads,
            mmio_writes: self.mmio_writes - earlier.mmio_writes,
            polls: self.polls - earlier.polls,
            invalidations: self.invalidations - earlier.invalidations,
            line_flushes: self.line_flushes - earlier.line_flushes,
            stores: self.stores - earlier.stores,
            walks: self.walks - earlier.walks,
            hits: self.hits - earlier.hits,
            stale_hits: self.stale_hits - earlier.stale_hits,
            held_up: self.held_up - earlier.held_up,
            errors: self.errors - earlier.errors,
            stopped_ticks: self.stopped_ticks - earlier.stopped_ticks,
            longest_stop: self.longest_stop,
        }
    }
}
