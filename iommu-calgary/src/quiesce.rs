//! Waiting until a changed translation is out of use.
//!
//! The chip's rule: stop new grants, wait until the split queue is idle, drop the cached TCEs. Here the splits are the
//! process's own accesses, and they are of two kinds: those inside an epoch, and those that hold a pin.
//!
//! # Why it is enough
//!
//! ```text
//! port (reader)                          control plane (writer)
//! R1  epoch := odd          Release      W1  clear entries, rewrite TAR and CONFIG_RW
//! R2  fence SeqCst                       W2  fence SeqCst
//! R3  load CONFIG_RW, TAR, entry         W3  load epoch           Acquire
//! R4  access memory, or pin              W4  wait until it is even or another than in W3   Acquire
//! R5  epoch := even         Release      W5  look at the pins, wait until those that matter are released   Acquire
//! ```
//!
//! - Sequentially consistent fences have one total order. If R2 comes before W2, W3 sees R1 or later. If W2 comes before
//!   R2, R3 sees W1. So an epoch that W3 does not see uses the new translation, in its accesses and in its pins.
//! - An epoch that W3 sees is waited for. W4 reads R5, or a later epoch's R1 by the same port, both Release stores: the
//!   accesses of R4 happen before the wait ends, and a pin made in R4 is visible in W5. The same holds for earlier epochs
//!   when W3 reads an even value.
//! - W5 sees every pin made through an old translation, so it has to look once. A set seen holding such a pin is waited
//!   for until it changes its generation, a Release step after the last access. What is pinned later goes through the
//!   new translation, so the wait ends however busy the ports are.
//! - A port or pin set that registers after W3 took the registry's lock happens after W1.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use crate::phb::Phb;
use crate::pins::{PinSlot, Scope};
use crate::table::TceTable;

/// Whether a port is inside an epoch, on cache lines of its own: odd inside, even outside.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct EpochSlot(AtomicU64);

impl EpochSlot {
    /// R1 and R2. `epoch` is odd and was never used before.
    pub(crate) fn enter(&self, epoch: u64) {
        self.0.store(epoch, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// R5. `epoch` is even.
    pub(crate) fn leave(&self, epoch: u64) {
        self.0.store(epoch, Ordering::Release);
    }

    /// W3: the epoch that the port is inside of.
    fn inside(&self) -> Option<u64> {
        let epoch = self.0.load(Ordering::Acquire);
        (!epoch.is_multiple_of(2)).then_some(epoch)
    }
}

/// One PHB on its way to quiet.
///
/// It carries the tables that the PHB gave up; they are dropped once no epoch can hold their address, and go back to the
/// PHB if that does not come to pass.
#[derive(Debug)]
pub(crate) struct Quiesce<'a> {
    phb: &'a Phb,
    scope: Scope<'a>,
    retired: Vec<Arc<TceTable>>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Epochs(Vec<(Arc<EpochSlot>, u64)>),
    Pins(Vec<(Arc<PinSlot>, u64)>),
}

impl<'a> Quiesce<'a> {
    /// W2 and W3, for all changes that the calling thread made before.
    pub(crate) fn begin(phb: &'a Phb, scope: Scope<'a>) -> Self {
        let retired = phb.take_retired();
        fence(Ordering::SeqCst);
        Self { phb, scope, retired, stage: Stage::Epochs(phb.ports().collect(EpochSlot::inside)) }
    }

    /// W4 and W5 without waiting: whether the PHB is quiet.
    pub(crate) fn poll(&mut self) -> bool {
        if let Stage::Epochs(inside) = &mut self.stage {
            inside.retain(|(slot, epoch)| slot.inside() == Some(*epoch));
            if !inside.is_empty() {
                return false;
            }
            self.phb.drop_retired(std::mem::take(&mut self.retired));
            self.stage = Stage::Pins(self.phb.pins().collect(|slot| slot.held(self.scope)));
        }
        if let Stage::Pins(held) = &mut self.stage {
            held.retain(|(slot, generation)| slot.generation() == *generation);
            return held.is_empty();
        }
        false
    }
}

impl Drop for Quiesce<'_> {
    fn drop(&mut self) {
        self.phb.give_back_retired(std::mem::take(&mut self.retired));
    }
}

/// Polls until all are quiet or `limit` has passed; those that are not quiet then stay in the list. Returns the time
/// spent, zero if none was waited for.
pub(crate) fn wait<T>(waiting: &mut Vec<(T, Quiesce<'_>)>, limit: Duration) -> Duration {
    if waiting.is_empty() {
        return Duration::ZERO;
    }
    let start = Instant::now();
    let mut round = 0;
    loop {
        waiting.retain_mut(|(_, quiesce)| !quiesce.poll());
        let waited = start.elapsed();
        if waiting.is_empty() || waited >= limit {
            return waited;
        }
        pause(round);
        round = round.saturating_add(1);
    }
}

/// Most accesses are over within a microsecond or two; some wait for a disk.
fn pause(round: u32) {
    const SPINS: u32 = 64;
    const YIELDS: u32 = 64;
    const SLEEP: Duration = Duration::from_micros(50);
    if round < SPINS {
        std::hint::spin_loop();
    } else if round < SPINS + YIELDS {
        thread::yield_now();
    } else {
        thread::sleep(SLEEP);
    }
}
