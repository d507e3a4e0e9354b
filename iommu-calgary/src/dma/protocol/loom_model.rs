//! The protocol in every interleaving, on loom's atomics. Loom knows no `membarrier`, so this is the symmetric form.
//!
//! A page is a cell whose accesses loom checks for races. A port reads it while it finds the entry set; the control plane
//! clears the entry, waits as a commit does, and then writes the cell, as a guest that was told of the removal would. If
//! the protocol let it through too early, the two accesses would race.

use std::fmt::Debug;
use std::sync::atomic::Ordering;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, fence};
use loom::{model, thread};

use super::{EpochSlot, Generation, Lock, PinSlot, Platform, Scope, Word};
use crate::addr::Iova;
use crate::dma::registry::{Registry, Roster};
use crate::range::{IovaRange, RangeList};

#[derive(Debug)]
struct Loom;

impl Platform for Loom {
    type Word = AtomicU64;
    type Lock<T: Debug> = loom::sync::Mutex<T>;
}

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }

    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }
}

impl<T: Debug> Lock<T> for loom::sync::Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.lock().unwrap())
    }
}

/// One PHB with one port, one pin set, one table entry, and the page that the entry leads to.
struct Unit {
    epoch: EpochSlot<Loom>,
    pins: PinSlot<Loom>,
    generation: Generation<Loom>,
    entry: AtomicU64,
    page: UnsafeCell<u64>,
}

/// What is removed, and a range beside it.
const RANGE: (Iova, Iova) = (Iova(0x1000), Iova(0x1fff));
const ELSEWHERE: (Iova, Iova) = (Iova(0x9000), Iova(0x9fff));

fn range((first, last): (Iova, Iova)) -> IovaRange {
    IovaRange::new(first, last).unwrap()
}

impl Unit {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: EpochSlot::new(),
            pins: PinSlot::new(4),
            generation: Generation::new(),
            entry: AtomicU64::new(1),
            page: UnsafeCell::new(0),
        })
    }

    /// R1 to R5. `fenced` says whether R2 is there.
    fn access(&self, epoch: u64, fenced: bool) {
        self.epoch.announce(epoch);
        if fenced {
            fence(Ordering::SeqCst);
        }
        if self.entry.load(Ordering::Acquire) != 0 {
            self.touch();
        }
        self.epoch.leave(epoch + 1);
    }

    /// The same, with the access after the epoch, under a pin.
    fn pinned_access(&self, epoch: u64) {
        self.epoch.announce(epoch);
        fence(Ordering::SeqCst);
        let reachable = self.entry.load(Ordering::Acquire) != 0;
        if reachable {
            self.pins.pin(range(RANGE));
        }
        self.epoch.leave(epoch + 1);
        if reachable {
            self.touch();
        }
        self.pins.release();
    }

    /// Two epochs of which the second uses what the first has found, if `check` says that it still holds.
    fn remembered_access(&self, check: impl Fn(u64, u64) -> bool) {
        self.epoch.announce(1);
        fence(Ordering::SeqCst);
        let found_in = self.generation.current();
        let reachable = self.entry.load(Ordering::Acquire) != 0;
        self.epoch.leave(2);
        self.epoch.announce(3);
        fence(Ordering::SeqCst);
        if reachable && check(found_in, self.generation.current()) {
            self.touch();
        }
        self.epoch.leave(4);
    }

    fn touch(&self) {
        // SAFETY: what is under test; loom panics if the control plane writes at the same time.
        self.page.with(|page| unsafe { std::ptr::read(page) });
    }

    /// W1 to W5, and then what a guest does with its page. `fenced` says whether W2 is there. Returns the generation of the
    /// pins that it waited for.
    fn remove(&self, fenced: bool) -> Option<u64> {
        self.entry.store(0, Ordering::Release);
        self.generation.step();
        if fenced {
            fence(Ordering::SeqCst);
        }
        if let Some(epoch) = self.epoch.inside() {
            while self.epoch.inside() == Some(epoch) {
                thread::yield_now();
            }
        }
        let mut removed = RangeList::new(4);
        removed.insert(range(RANGE));
        let held = self.pins.held(Scope::Removed(&removed));
        if let Some(generation) = held {
            while self.pins.generation() == generation {
                thread::yield_now();
            }
        }
        // SAFETY: what is under test.
        self.page.with_mut(|page| unsafe { std::ptr::write(page, 1) });
        held
    }
}

fn check(device: impl Fn(&Unit) + Send + Sync + Copy + 'static, fenced: bool) {
    check_wait(device, fenced, |_| {});
}

fn check_wait(
    device: impl Fn(&Unit) + Send + Sync + Copy + 'static,
    fenced: bool,
    waited: impl Fn(Option<u64>) + Send + Sync + 'static,
) {
    model(move || {
        let unit = Unit::new();
        let device = {
            let unit = Arc::clone(&unit);
            thread::spawn(move || device(&unit))
        };
        waited(unit.remove(fenced));
        device.join().unwrap();
    });
}

#[test]
fn a_page_is_taken_back_only_after_the_last_access() {
    check(|unit| unit.access(1, true), true);
}

#[test]
fn a_port_that_enters_again_neither_slips_through_nor_prolongs_the_wait() {
    check(
        |unit| {
            unit.access(1, true);
            unit.access(3, true);
        },
        true,
    );
}

#[test]
fn a_pinned_page_is_taken_back_only_after_the_release() {
    check(|unit| unit.pinned_access(1), true);
}

#[test]
fn a_pin_set_in_use_again_is_waited_for_once() {
    check(
        |unit| {
            unit.pinned_access(1);
            unit.pinned_access(3);
        },
        true,
    );
}

/// A port that is made while the control plane works: it is in the registry or it sees the removal.
#[test]
fn a_port_made_meanwhile_is_asked_or_sees_the_removal() {
    model(|| {
        let registry: Arc<Registry<EpochSlot<Loom>, Loom>> = Arc::new(Registry::new());
        let unit = Unit::new();
        let device = {
            let (unit, registry) = (Arc::clone(&unit), Arc::clone(&registry));
            thread::spawn(move || {
                let slot = std::sync::Arc::new(EpochSlot::new());
                registry.add(std::sync::Arc::clone(&slot));
                slot.announce(1);
                fence(Ordering::SeqCst);
                if unit.entry.load(Ordering::Acquire) != 0 {
                    unit.touch();
                }
                slot.leave(2);
            })
        };
        let mut roster = Roster::new();
        unit.entry.store(0, Ordering::Release);
        fence(Ordering::SeqCst);
        for slot in registry.members(&mut roster) {
            while slot.inside() == Some(1) {
                thread::yield_now();
            }
        }
        // SAFETY: what is under test.
        unit.page.with_mut(|page| unsafe { std::ptr::write(page, 1) });
        device.join().unwrap();
    });
}

#[test]
fn a_pin_elsewhere_in_place_of_one_that_was_released_is_not_waited_for() {
    let device = |unit: &Unit| {
        unit.pinned_access(1);
        unit.pins.pin(range(ELSEWHERE));
    };
    check_wait(device, true, |generation| assert_ne!(generation, Some(1)));
}

#[test]
fn what_is_remembered_is_used_only_before_it_is_taken_back() {
    check(|unit| unit.remembered_access(|then, now| then == now), true);
}

#[test]
#[should_panic = "Causality violation"]
fn without_a_look_at_the_generation_it_is_wrong() {
    check(|unit| unit.remembered_access(|_, _| true), true);
}

/// That loom finds what is wrong without them shows that the tests above can fail.
#[test]
#[should_panic = "Causality violation"]
fn without_the_fence_of_the_port_it_is_wrong() {
    check(|unit| unit.access(1, false), true);
}

#[test]
#[should_panic = "Causality violation"]
fn without_the_fence_of_the_commit_it_is_wrong() {
    check(|unit| unit.access(1, true), false);
}
