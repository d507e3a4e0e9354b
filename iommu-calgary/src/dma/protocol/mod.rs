//! The shared words of quiescence: what a port and a pin set announce, and what the control plane reads of it.
//!
//! Written over [`Platform`], so that loom can run the same code on its own atomics through every interleaving. Why the
//! protocol is right is told in [`quiesce`](super::quiesce).

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::addr::Iova;
use crate::range::{IovaRange, RangeList};

/// Atomics and locks.
pub(crate) trait Platform: Sized + Debug {
    type Word: Word;
    type Lock<T: Debug>: Lock<T>;
}

/// An atomic 64-bit word.
pub(crate) trait Word: Debug {
    fn new(value: u64) -> Self;
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
}

/// A mutex.
pub(crate) trait Lock<T>: Debug {
    fn new(value: T) -> Self;
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
}

/// The standard library's.
#[derive(Debug)]
pub(crate) struct Std;

impl Platform for Std {
    type Word = AtomicU64;
    type Lock<T: Debug> = Mutex<T>;
}

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }

    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }
}

impl<T: Debug> Lock<T> for Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // A list is whole between any two of its operations, also after a panic.
        f(&mut self.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a port is inside an epoch, on cache lines of its own: odd inside, even outside.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct EpochSlot<P: Platform = Std>(P::Word);

impl<P: Platform> EpochSlot<P> {
    pub(crate) fn new() -> Self {
        Self(P::Word::new(0))
    }

    /// R1; the fence of R2 is the caller's. `epoch` is odd and was never used before.
    #[inline]
    pub(crate) fn announce(&self, epoch: u64) {
        self.0.store(epoch, Ordering::Release);
    }

    /// R5. `epoch` is even.
    #[inline]
    pub(crate) fn leave(&self, epoch: u64) {
        self.0.store(epoch, Ordering::Release);
    }

    /// W3: the epoch that the port is inside of. After the fence of W2.
    pub(crate) fn inside(&self) -> Option<u64> {
        let epoch = self.0.load(Ordering::Acquire);
        (!epoch.is_multiple_of(2)).then_some(epoch)
    }
}

/// Which pins a removal has to wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope<'a> {
    /// All of the PHB: its whole address space changed.
    All,
    /// Those that overlap what was removed.
    Removed(&'a RangeList),
}

/// How often translations were taken away from a PHB. Written by the control plane alone.
#[derive(Debug)]
pub(crate) struct Generation<P: Platform = Std>(P::Word);

impl<P: Platform> Generation<P> {
    pub(crate) fn new() -> Self {
        Self(P::Word::new(0))
    }

    /// W1: after the last of its stores.
    pub(crate) fn step(&self) {
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// R3: before the first of its other loads.
    #[inline]
    pub(crate) fn current(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// The shared half of a pin set: written by one thread at a time, read by the control plane, without a lock.
///
/// While ranges are held they are only added to and widened, so a reader that comes to them late sees no less than what it
/// has to see. One that comes so late that they were released, and others put in their places, finds another generation.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct PinSlot<P: Platform = Std> {
    /// How often pins were released.
    generation: P::Word,
    /// Ranges held, at the start of `ranges`.
    count: P::Word,
    ranges: Box<[PinnedRange<P>]>,
}

#[derive(Debug)]
struct PinnedRange<P: Platform> {
    first: P::Word,
    last: P::Word,
}

impl<P: Platform> PinnedRange<P> {
    /// Nothing if it is being written.
    fn get(&self, order: Ordering) -> Option<IovaRange> {
        IovaRange::new(Iova(self.first.load(order)), Iova(self.last.load(order)))
    }

    #[inline]
    fn set(&self, range: IovaRange) {
        self.first.store(range.first().0, Ordering::Release);
        self.last.store(range.last().0, Ordering::Release);
    }
}

impl<P: Platform> PinSlot<P> {
    /// An empty set, which remembers `limit` ranges, at least 1: what comes beyond widens the last one.
    pub(crate) fn new(limit: usize) -> Self {
        let range = || PinnedRange { first: P::Word::new(0), last: P::Word::new(0) };
        let ranges = (0..limit.max(1)).map(|_| range()).collect();
        Self { generation: P::Word::new(0), count: P::Word::new(0), ranges }
    }

    /// R4: inside the epoch, on the thread of the set.
    #[inline]
    pub(crate) fn pin(&self, range: IovaRange) {
        let count = self.count.load(Ordering::Relaxed);
        let held = &self.ranges[..self.len(count)];
        // Neighbours arrive one after the other, upwards or downwards, so looking at the newest range finds them.
        if let Some(newest) = held.last()
            && let Some(old) = newest.get(Ordering::Relaxed)
            && (held.len() == self.ranges.len() || old.joins(range))
        {
            newest.set(old.hull(range));
            return;
        }
        self.ranges[held.len()].set(range);
        self.count.store(count + 1, Ordering::Release);
    }

    /// After the last access, on the thread of the set.
    #[inline]
    pub(crate) fn release(&self) {
        if self.is_held(Ordering::Relaxed) {
            self.count.store(0, Ordering::Release);
            self.generation.store(self.generation.load(Ordering::Relaxed) + 1, Ordering::Release);
        }
    }

    /// W5, the short form: whether anything is pinned.
    #[inline]
    pub(crate) fn is_any_held(&self) -> bool {
        self.is_held(Ordering::Acquire)
    }

    #[inline]
    fn is_held(&self, order: Ordering) -> bool {
        self.count.load(order) != 0
    }

    /// W5: the generation if a pin within `scope` is held.
    pub(crate) fn held(&self, scope: Scope<'_>) -> Option<u64> {
        let generation = self.generation();
        let held = &self.ranges[..self.len(self.count.load(Ordering::Acquire))];
        let concerned = match scope {
            Scope::All => !held.is_empty(),
            Scope::Removed(removed) => {
                held.iter().filter_map(|range| range.get(Ordering::Acquire)).any(|range| removed.overlaps(range))
            }
        };
        // What was read of a later generation was pinned through the new translation.
        (concerned && self.generation() == generation).then_some(generation)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn len(&self, count: u64) -> usize {
        usize::try_from(count).unwrap_or(usize::MAX).min(self.ranges.len())
    }
}

#[cfg(all(test, not(miri)))]
mod loom_model;

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> IovaRange {
        IovaRange::new(Iova(first), Iova(last)).unwrap()
    }

    fn holds(slot: &PinSlot, first: u64, last: u64) -> bool {
        let mut removed = RangeList::new(1);
        removed.insert(range(first, last));
        slot.held(Scope::Removed(&removed)).is_some()
    }

    #[test]
    fn a_full_set_widens_and_loses_nothing() {
        let slot = PinSlot::<Std>::new(4);
        for page in 1..100 {
            slot.pin(range(page * 0x10_000, page * 0x10_000 + 0xfff));
        }
        for page in 1..100 {
            assert!(holds(&slot, page * 0x10_000, page * 0x10_000), "{page}");
        }
        assert!(!holds(&slot, 0x2_1000, 0x2_ffff) && !holds(&slot, 0, 0xffff) && !holds(&slot, 0x64_0000, u64::MAX));
    }

    #[test]
    fn neighbours_take_one_place_and_a_release_empties_all() {
        let slot = PinSlot::<Std>::new(2);
        for page in [0x9000, 0x3000, 0x4000, 0x2000] {
            slot.pin(range(page, page + 0xfff));
        }
        assert!(holds(&slot, 0x9000, 0x9000) && holds(&slot, 0x2000, 0x2000) && holds(&slot, 0x4fff, 0x4fff));
        assert!(!holds(&slot, 0x5000, 0x8fff));
        let held = slot.held(Scope::All);
        slot.release();
        assert!(held.is_some_and(|generation| generation != slot.generation()));
        assert!(slot.held(Scope::All).is_none() && !holds(&slot, 0, u64::MAX));
        let quiet = slot.generation();
        slot.release();
        assert_eq!(slot.generation(), quiet, "nothing was held");
    }
}
