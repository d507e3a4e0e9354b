//! Waiting until a changed translation is out of use.
//!
//! The chip's rule: stop new grants, wait until the split queue is idle, drop the cached TCEs. Here the splits are the
//! process's own accesses, and they are of two kinds: those inside an epoch, and those that hold a pin.
//!
//! # Why it is enough
//!
//! ```text
//! port (reader)                          control plane (writer)
//! R0  enter the registry, when made
//! R1  epoch := odd          Release      W1  clear entries, rewrite TAR and CONFIG_RW, step the generation
//! R2  fence SeqCst                       W2  fence SeqCst
//! R3  load the generation, then          W3  load epoch           Acquire
//!     CONFIG_RW, TAR, entry
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
//! - What was translated in an earlier epoch may be used in R4 if R3 finds the generation of that epoch's R3 again: it is an
//!   entry of W1 like any other, stepped after them. An epoch that uses the new translation finds another one; and one that
//!   finds the new generation finds the other stores of W1 too, so nothing old is ever remembered under it.
//! - W3 asks the ports that it knows, and learns of others by the registry's version, which R0 steps. R0 happens before
//!   R2, so what holds of R1 holds of it: if R2 comes before W2, W3 sees the step and asks the port too.
//! - A pin set is asked if the registry's version tells of it, which its maker stepped before R1 and so before R5.
//! - With [`Fences::Asymmetric`](super::Fences) R2 holds back the compiler only, and W2 is `membarrier(2)`: every thread
//!   of the process passes a full fence between its start and its end. If a port's falls before R3, R3 sees W1; if it
//!   falls after, it falls after R1 too, and W3 sees that.
//!
//! The symmetric form is checked with loom, in every interleaving that the C11 model allows, on the very code of
//! [`protocol`](super::protocol).

use std::sync::Arc;

use super::phb::Phb;
use super::protocol::{EpochSlot, PinSlot, Scope};
use super::registry::Roster;
use crate::table::TceTable;

/// Who is to be asked about one PHB, kept from removal to removal.
#[derive(Debug)]
pub(crate) struct Rosters {
    ports: Roster<EpochSlot>,
    pins: Roster<PinSlot>,
}

impl Rosters {
    pub(crate) fn new() -> Self {
        Self { ports: Roster::new(), pins: Roster::new() }
    }
}

/// One PHB on its way to quiet.
///
/// It carries the tables that the PHB gave up; they are dropped once no epoch can hold their address, and go back to the
/// PHB if that does not come to pass.
#[derive(Debug)]
pub(crate) struct Quiesce {
    phb: Arc<Phb>,
    retired: Vec<Arc<TceTable>>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// W2 failed: nothing is known of the ports, and the PHB counts as busy for good.
    Unknown,
    Epochs(Vec<(Arc<EpochSlot>, u64)>),
    Pins(Vec<(Arc<PinSlot>, u64)>),
}

impl Quiesce {
    /// The last of W1, W2 and W3, for all changes that the calling thread made before. `None` if the PHB is quiet and has
    /// nothing to drop, as it mostly is.
    pub(crate) fn begin(phb: &Arc<Phb>, rosters: &mut Rosters) -> Option<Self> {
        phb.generation().step();
        if !phb.fences().in_commit() {
            return Some(Self { phb: Arc::clone(phb), retired: phb.take_retired(), stage: Stage::Unknown });
        }
        let ports = phb.ports().members(&mut rosters.ports).iter();
        let inside: Vec<_> = ports.filter_map(|slot| slot.inside().map(|epoch| (Arc::clone(slot), epoch))).collect();
        let mut pinned = || phb.pins().members(&mut rosters.pins).iter().any(|slot| slot.is_any_held());
        if inside.is_empty() && !phb.has_retired() && !pinned() {
            return None;
        }
        Some(Self { phb: Arc::clone(phb), retired: phb.take_retired(), stage: Stage::Epochs(inside) })
    }

    /// W4 and W5 without waiting: whether the accesses are over that `scope` concerns. The scope is the same each time.
    pub(crate) fn poll(&mut self, scope: Scope<'_>) -> bool {
        if let Stage::Epochs(inside) = &mut self.stage {
            inside.retain(|(slot, epoch)| slot.inside() == Some(*epoch));
            if !inside.is_empty() {
                return false;
            }
            self.phb.drop_retired(std::mem::take(&mut self.retired));
            self.stage = Stage::Pins(self.phb.pins().collect(|slot| slot.held(scope)));
        }
        if let Stage::Pins(held) = &mut self.stage {
            held.retain(|(slot, generation)| slot.generation() == *generation);
            return held.is_empty();
        }
        false
    }
}

impl Drop for Quiesce {
    fn drop(&mut self) {
        self.phb.give_back_retired(std::mem::take(&mut self.retired));
    }
}
