//! What a share counts.

use std::sync::atomic::{AtomicU64, Ordering};

use virtio_9p::{FileSystem, Server};

/// Counters of the queue; the server has its own.
#[derive(Debug, Default)]
pub struct ShareStats {
    pub(super) kicks: AtomicU64,
    pub(super) interrupts: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) faults: AtomicU64,
    pub(super) offloaded: AtomicU64,
}

/// A copy of the counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShareStatsSnapshot {
    /// 9P requests answered.
    pub requests: u64,
    /// Of these, with an error.
    pub errors: u64,
    /// File bytes read.
    pub bytes_read: u64,
    /// File bytes written.
    pub bytes_written: u64,
    /// Fids in use.
    pub fids: u64,
    /// Requests that had to wait for something slow, or for one that did.
    pub offloaded: u64,
    /// Locks that wait.
    pub parked: u64,
    /// Calls to serve the queue.
    pub kicks: u64,
    /// Interrupts sent.
    pub interrupts: u64,
    /// Requests returned without an answer.
    pub dropped: u64,
    /// Accesses refused by the IOMMU or outside RAM.
    pub faults: u64,
}

impl ShareStats {
    pub(super) fn snapshot<F: FileSystem>(&self, server: &Server<F>) -> ShareStatsSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let served = server.stats();
        ShareStatsSnapshot {
            requests: served.total(),
            errors: served.errors,
            bytes_read: served.bytes_read,
            bytes_written: served.bytes_written,
            fids: server.fid_count() as u64,
            offloaded: get(&self.offloaded),
            parked: server.parked_count() as u64,
            kicks: get(&self.kicks),
            interrupts: get(&self.interrupts),
            dropped: get(&self.dropped),
            faults: get(&self.faults),
        }
    }
}
