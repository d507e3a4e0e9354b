//! Counters of what a server did.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::MessageType;

/// The live counters; relaxed, since they order nothing.
#[derive(Debug)]
pub(crate) struct Counters {
    requests: [AtomicU64; 128],
    errors: AtomicU64,
    dropped: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

impl Counters {
    pub(crate) fn new() -> Counters {
        Counters {
            requests: [const { AtomicU64::new(0) }; 128],
            errors: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
        }
    }

    pub(crate) fn request(&self, kind: MessageType) {
        self.requests[usize::from(kind.0 >> 1)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, bytes: u32) {
        self.bytes_read.fetch_add(u64::from(bytes), Ordering::Relaxed);
    }

    pub(crate) fn written(&self, bytes: u32) {
        self.bytes_written.fetch_add(u64::from(bytes), Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Stats {
        Stats {
            requests: std::array::from_fn(|at| self.requests[at].load(Ordering::Relaxed)),
            errors: self.errors.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
        }
    }
}

/// What a server did since it was made. Sessions do not reset it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    requests: [u64; 128],
    /// Requests answered with an `Rlerror`.
    pub errors: u64,
    /// Requests that could not be answered.
    pub dropped: u64,
    /// Bytes that reads of files returned.
    pub bytes_read: u64,
    /// Bytes that writes to files took.
    pub bytes_written: u64,
}

impl Stats {
    /// How many requests of a type came, those that failed included. A reply's type counts as its request's.
    pub fn requests(&self, kind: MessageType) -> u64 {
        self.requests[usize::from(kind.0 >> 1)]
    }

    /// Every message that came at least once, by name (`walk`), with its count.
    pub fn by_name(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        (0_u8..128).filter_map(|at| {
            let count = self.requests[usize::from(at)];
            (count > 0).then_some((MessageType(at << 1).name()?, count))
        })
    }

    /// How many requests came in all.
    pub fn total(&self) -> u64 {
        self.requests.iter().sum()
    }
}
