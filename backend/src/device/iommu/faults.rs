//! Refused accesses between the share that met them and the event queue that tells the guest.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use iommu_calgary::FaultReason;

use crate::dma::{DmaFault, DmaFaultReason};

/// Faults kept for a driver that is slow to provide buffers. Further ones are counted and dropped.
const CAPACITY: usize = 128;

/// One refused access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRecord {
    /// Endpoint id of the device that tried.
    pub endpoint: u32,
    /// The access.
    pub fault: DmaFault,
}

/// A bounded queue of faults with a descriptor that wakes the IOMMU's thread.
pub struct FaultLog {
    pending: Mutex<VecDeque<FaultRecord>>,
    wake: EventFd,
    /// Length of `pending`.
    waiting: AtomicUsize,
    /// By reason, in the order of [`FaultLog::REASONS`].
    recorded: [AtomicU64; 5],
    dropped: AtomicU64,
}

impl FaultLog {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            pending: Mutex::new(VecDeque::with_capacity(CAPACITY)),
            wake: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            waiting: AtomicUsize::new(0),
            recorded: Default::default(),
            dropped: AtomicU64::new(0),
        })
    }

    /// Records a fault and wakes the IOMMU's thread. Called by the thread whose DMA was refused; never blocks for long.
    pub fn record(&self, record: FaultRecord) {
        self.recorded[reason_index(record.fault.reason)].fetch_add(1, Ordering::Relaxed);
        {
            let mut pending = self.pending();
            if pending.len() == CAPACITY {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            pending.push_back(record);
            self.waiting.store(pending.len(), Ordering::Relaxed);
        }
        self.wake();
    }

    /// Wakes the IOMMU's thread.
    pub(super) fn wake(&self) {
        // A full counter would mean that a wake is pending already.
        let _ = self.wake.write(1);
    }

    /// Faults recorded since the start.
    #[must_use]
    pub fn recorded(&self) -> u64 {
        self.by_reason().map(|(_, count)| count).sum()
    }

    /// Names of the reasons, as the log gives them.
    const REASONS: [&'static str; 5] = ["not attached", "not mapped", "denied", "slot disabled", "not RAM"];

    /// Faults recorded since the start, by reason.
    pub fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::REASONS.into_iter().zip(self.recorded.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Faults that no event told of, because the guest gave no buffers.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Whether there is a fault that no event has told of. Cheap: one load.
    pub(super) fn is_pending(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }

    pub(super) fn next(&self) -> Option<FaultRecord> {
        self.pending().front().copied()
    }

    pub(super) fn pop(&self) {
        let mut pending = self.pending();
        pending.pop_front();
        self.waiting.store(pending.len(), Ordering::Relaxed);
    }

    pub(super) fn clear(&self) {
        self.pending().clear();
        self.waiting.store(0, Ordering::Relaxed);
    }

    pub(super) fn consume_wake(&self) {
        let _ = self.wake.read();
    }

    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, VecDeque<FaultRecord>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Place of a reason in [`FaultLog::REASONS`].
fn reason_index(reason: DmaFaultReason) -> usize {
    match reason {
        DmaFaultReason::Table(FaultReason::NotAttached) => 0,
        DmaFaultReason::Table(FaultReason::NotMapped) => 1,
        DmaFaultReason::Table(FaultReason::Denied) => 2,
        DmaFaultReason::Table(FaultReason::SlotDisabled) => 3,
        DmaFaultReason::NotRam => 4,
    }
}

#[cfg(test)]
mod tests {
    use iommu_calgary::Access;

    use super::*;

    #[test]
    fn faults_are_counted_by_reason_and_beyond_the_capacity() {
        let log = FaultLog::new().unwrap();
        let fault = |reason| DmaFault { address: 0x1000, access: Access::Read, reason };
        for _ in 0..CAPACITY + 5 {
            log.record(FaultRecord { endpoint: 1, fault: fault(DmaFaultReason::NotRam) });
        }
        log.record(FaultRecord { endpoint: 1, fault: fault(DmaFaultReason::Table(FaultReason::Denied)) });
        let counts: Vec<u64> = log.by_reason().map(|(_, count)| count).collect();
        assert_eq!(counts, [0, 0, 1, 0, CAPACITY as u64 + 5]);
        assert_eq!((log.recorded(), log.dropped()), (CAPACITY as u64 + 6, 6));
    }
}
