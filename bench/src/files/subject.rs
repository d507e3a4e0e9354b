//! A server with its client.

use std::time::{Duration, Instant};

use super::work::Work;
use crate::failure::Failure;

/// Requests that can be out at once.
pub(super) const SLOTS: usize = 32;
/// Bytes of file data that each of them has room for.
pub(super) const ROOM: usize = 500 << 10;

/// Most operations in this process between two looks at the clock.
const BATCH: usize = 16;
/// Most bytes of file data of such operations: they should fit the nearer caches.
const BATCH_BYTES: u64 = 64 << 10;

/// What operations took.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    /// The time of all, without the check of file data where one operation runs at a time. In this process the time inside
    /// the calls.
    pub(super) wall: Duration,
    /// Each one's nanoseconds, where one operation of another process runs at a time.
    pub(super) each: Vec<f64>,
}

impl Times {
    /// One operation that began at `start` has ended.
    pub(super) fn ended(&mut self, start: Instant) {
        let time = start.elapsed();
        self.wall += time;
        self.each.push(time.as_secs_f64() * 1e9);
    }
}

/// So many operations in this process, as numbers of those that are timed together: two looks at the clock take 50 ns, and
/// the shortest operation takes 350.
pub(super) fn batches(work: Work, operations: u64) -> impl Iterator<Item = usize> {
    let fitting = BATCH_BYTES.checked_div(work.bytes()).and_then(|count| usize::try_from(count).ok());
    let batch = fitting.unwrap_or(BATCH).clamp(1, BATCH);
    let mut left = usize::try_from(operations).unwrap_or(usize::MAX);
    std::iter::from_fn(move || {
        let count = left.min(batch);
        left -= count;
        (count > 0).then_some(count)
    })
}

/// A server that can be given work.
pub(super) trait Subject {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// Whether it is a process of its own.
    fn is_process(&self) -> bool {
        true
    }

    /// Whether it can do `work`, `depth` at a time.
    fn can(&self, work: Work, depth: u16) -> bool;

    /// Does `work` so many times, `depth` at a time, and checks every answer.
    fn run(&mut self, work: Work, depth: u16, operations: u64, times: &mut Times) -> Result<(), Failure>;

    /// Processor time the server has used.
    fn cpu(&self) -> Result<Duration, Failure>;
}

/// Numbers that look random and are the same in every run (xorshift64).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Where the next read or write of a file goes.
#[derive(Clone, Debug)]
pub(super) struct Places {
    random: Random,
    next: u64,
}

impl Places {
    pub(super) fn new() -> Self {
        Self { random: Random::new(), next: 0 }
    }

    /// The offset of the next `bytes` bytes in a file of `size`: random for small ones, else the next.
    pub(super) fn next(&mut self, bytes: u32, size: u64) -> u64 {
        let bytes = u64::from(bytes);
        if bytes <= u64::from(super::work::SMALL) {
            return self.random.below(size / bytes) * bytes;
        }
        if self.next + bytes > size {
            self.next = 0;
        }
        let offset = self.next;
        self.next += bytes;
        offset
    }

    /// The same, but none of `taken`, which are fewer than the file has places.
    pub(super) fn next_but(&mut self, bytes: u32, size: u64, taken: impl Iterator<Item = u64> + Clone) -> u64 {
        loop {
            let offset = self.next(bytes, size);
            if taken.clone().all(|taken| taken != offset) {
                return offset;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_all_operations_and_hold_little_data() {
        assert_eq!(batches(Work::Getattr, 35).collect::<Vec<_>>(), [16, 16, 3]);
        assert_eq!(batches(Work::Read(16 << 10), 5).collect::<Vec<_>>(), [4, 1]);
        assert_eq!(batches(Work::Write(500 << 10), 2).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(batches(Work::Fsync, 0).count(), 0);
    }
}
