//! The shared words of quiescence: what a port and a pin set announce, and what the control plane reads of it.
//!
//! Written over [`Platform`], so that loom can run the same code on its own atomics through every interleaving. Why the
//! protocol is right is told in [`quiesce`](super::quiesce).

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

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
    fn fetch_add(&self, value: u64, order: Ordering) -> u64;
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64;
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

    #[inline]
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_add(value, order)
    }

    #[inline]
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_sub(value, order)
    }
}

impl<T: Debug> Lock<T> for Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // A range list is whole between any two of its operations, also after a panic.
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

/// How many pin sets of a PHB hold pins: while it is 0, a commit looks at none of them.
///
/// A set is counted before its first range is entered, inside the epoch, and taken off after its last access. Both are
/// read-modify-writes with release, so a commit that reads 0 with acquire happens after the last access of every set that
/// was ever counted.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct HeldPins<P: Platform = Std>(P::Word);

impl<P: Platform> HeldPins<P> {
    pub(crate) fn new() -> Self {
        Self(P::Word::new(0))
    }

    /// W5, the short form.
    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }
}

/// The shared half of a pin set.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct PinSlot<P: Platform = Std> {
    /// Odd while ranges are pinned; steps when the first is pinned and when all are released. Changes under the lock.
    generation: P::Word,
    ranges: P::Lock<RangeList>,
}

impl<P: Platform> PinSlot<P> {
    /// An empty set, which remembers up to `limit` ranges one by one.
    pub(crate) fn new(limit: usize) -> Self {
        Self { generation: P::Word::new(0), ranges: P::Lock::new(RangeList::new(limit)) }
    }

    /// R4: inside the epoch.
    pub(crate) fn pin(&self, held: &HeldPins<P>, range: IovaRange) {
        self.ranges.with(|ranges| {
            if ranges.is_empty() {
                held.0.fetch_add(1, Ordering::Release);
                self.generation.fetch_add(1, Ordering::Release);
            }
            ranges.insert(range);
        });
    }

    /// After the last access.
    pub(crate) fn release(&self, held: &HeldPins<P>) {
        if self.generation.load(Ordering::Relaxed).is_multiple_of(2) {
            return;
        }
        self.ranges.with(|ranges| {
            if !ranges.is_empty() {
                ranges.clear();
                self.generation.fetch_add(1, Ordering::Release);
                held.0.fetch_sub(1, Ordering::Release);
            }
        });
    }

    /// W5: the generation if a pin within `scope` is held.
    pub(crate) fn held(&self, scope: Scope<'_>) -> Option<u64> {
        if self.generation().is_multiple_of(2) {
            return None;
        }
        self.ranges.with(|ranges| {
            let held = match scope {
                Scope::All => !ranges.is_empty(),
                Scope::Removed(removed) => ranges.intersects(removed),
            };
            held.then(|| self.generation())
        })
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

#[cfg(all(test, not(miri)))]
mod loom_model;
