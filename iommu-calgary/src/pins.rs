//! Ranges that long accesses still use.
//!
//! A short copy stays inside an epoch. File I/O into guest pages may take long, so it pins the IOVAs it goes to and
//! leaves the epoch; only a removal that overlaps the pin waits for it. In the chip's terms each is a split that has not
//! completed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::addr::EndpointId;
use crate::phb::Phb;
use crate::range::{IovaRange, RangeList};

/// Ranges that one pin set remembers one by one, enough for every page of a 2 MiB transfer. Beyond, it pins their hull:
/// removals nearby then may wait although they had no need.
const PINNED_RANGES: usize = 512;

/// Which pins a removal has to wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope<'a> {
    /// All of the PHB: its whole address space changed.
    All,
    /// Those that overlap what was removed.
    Removed(&'a RangeList),
}

/// The shared half of a pin set.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct PinSlot {
    /// Odd while ranges are pinned; steps when the first is pinned and when all are released. Changes under the lock.
    generation: AtomicU64,
    ranges: Mutex<RangeList>,
}

impl PinSlot {
    /// The generation if a pin within `scope` is held.
    pub(crate) fn held(&self, scope: Scope<'_>) -> Option<u64> {
        if !self.generation().is_multiple_of(2) {
            let ranges = self.ranges();
            let held = match scope {
                Scope::All => !ranges.is_empty(),
                Scope::Removed(removed) => ranges.intersects(removed),
            };
            return held.then(|| self.generation());
        }
        None
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn pin(&self, range: IovaRange) {
        let mut ranges = self.ranges();
        if ranges.is_empty() {
            self.generation.fetch_add(1, Ordering::Release);
        }
        ranges.insert(range);
    }

    fn release(&self) {
        if self.generation.load(Ordering::Relaxed).is_multiple_of(2) {
            return;
        }
        let mut ranges = self.ranges();
        if !ranges.is_empty() {
            ranges.clear();
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    fn ranges(&self) -> MutexGuard<'_, RangeList> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pins of one request in flight. Reusable: after [`PinSet::release`] it is empty and can serve the next request.
///
/// Made by [`Phb::new_pins`], filled by [`Epoch::pin`](crate::Epoch::pin). While ranges are pinned, a commit that removes
/// a translation inside them waits. Release them as soon as the access is over, before the request is reported
/// complete: a guest that unmaps at once then finds nothing to wait for.
#[derive(Debug)]
pub struct PinSet {
    phb: Arc<Phb>,
    slot: Arc<PinSlot>,
}

impl PinSet {
    pub(crate) fn new(phb: Arc<Phb>) -> Self {
        let slot =
            Arc::new(PinSlot { generation: AtomicU64::new(0), ranges: Mutex::new(RangeList::new(PINNED_RANGES)) });
        phb.pins().add(Arc::clone(&slot));
        Self { phb, slot }
    }

    /// Ends all pins of the set: from here on nothing reached through them may be touched.
    pub fn release(&self) {
        self.slot.release();
    }

    /// The endpoint whose DMA the set belongs to.
    #[must_use]
    pub fn endpoint(&self) -> EndpointId {
        self.phb.endpoint()
    }

    pub(crate) fn belongs_to(&self, phb: &Arc<Phb>) -> bool {
        Arc::ptr_eq(&self.phb, phb)
    }

    pub(crate) fn pin(&self, range: IovaRange) {
        self.slot.pin(range);
    }
}

impl Drop for PinSet {
    fn drop(&mut self) {
        self.release();
        self.phb.pins().remove(&self.slot);
    }
}
