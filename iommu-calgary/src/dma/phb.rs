//! The soft PHB: registers in memory, and the accesses of the device behind them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fence::Fences;
use super::pins::PinSet;
use super::port::DmaPort;
use super::protocol::{EpochSlot, Generation, PinSlot};
use super::quiesce::{Quiesce, Rosters};
use super::registry::Registry;
use crate::addr::EndpointId;
use crate::chip::Target;
use crate::registers::{Tar, config_rw};
use crate::table::TceTable;

/// The PCI host bridge that one endpoint sits behind. The device that does the DMA shares it with the control plane.
///
/// A translation reads the two registers and one entry of the table:
///
/// | CONFIG_RW                | TAR              | an access |
/// |--------------------------|------------------|-----------|
/// | slots disabled           | any              | faults: [`SlotDisabled`](crate::FaultReason::SlotDisabled) |
/// | TCE enable off           | any              | goes to the IOVA itself: bypass |
/// | TCE enable on            | base 0           | faults: [`NotAttached`](crate::FaultReason::NotAttached) |
/// | TCE enable on            | base of a table  | is translated |
#[derive(Debug)]
pub struct Phb {
    registers: Registers,
    endpoint: EndpointId,
    ports: Registry<EpochSlot>,
    pins: Registry<PinSlot>,
    tables: Mutex<Tables>,
    /// Whether there are retired tables. Only the control plane writes or reads it.
    has_retired: AtomicBool,
}

/// Read by every access and seldom written, so they share no cache line with anything that changes more often.
#[derive(Debug)]
#[repr(align(128))]
struct Registers {
    config_rw: AtomicU32,
    fences: Fences,
    tar: AtomicU64,
    generation: Generation,
}

/// Keeps alive what the TAR holds the address of.
///
/// Invariant: an address in the TAR, or one that a port inside an epoch took from it, belongs to the table of `target`,
/// to one in `retired`, or to one that a [`Quiesce`] of this PHB carries.
#[derive(Debug)]
struct Tables {
    target: Target<TceTable>,
    retired: Vec<Arc<TceTable>>,
}

/// What programming a PHB did to the translations that were there before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reprogrammed {
    /// Nothing changed, or nothing was reachable before.
    NothingLost,
    /// Old translations are gone and may still be in use.
    Lost,
}

impl Phb {
    pub(crate) fn new(endpoint: EndpointId, fences: Fences) -> Self {
        Self {
            registers: Registers {
                config_rw: AtomicU32::new(config_rw::TCE_ENABLE),
                fences,
                tar: AtomicU64::new(Tar::NO_TABLE.value()),
                generation: Generation::new(),
            },
            endpoint,
            ports: Registry::new(),
            pins: Registry::new(),
            tables: Mutex::new(Tables { target: Target::Nothing, retired: Vec::new() }),
            has_retired: AtomicBool::new(false),
        }
    }

    /// The endpoint behind this PHB.
    #[must_use]
    pub fn endpoint(&self) -> EndpointId {
        self.endpoint
    }

    /// Whether the slots are disabled because accesses did not end in time. Only a reset enables them again.
    #[must_use]
    pub fn is_slot_disabled(&self) -> bool {
        self.config_rw() & config_rw::SLOT_DISABLE != 0
    }

    /// A way into the memory of the guest, for one thread of the device.
    #[must_use]
    pub fn new_port(self: &Arc<Self>) -> DmaPort {
        DmaPort::new(Arc::clone(self))
    }

    /// An empty set of pins, for one request at a time.
    #[must_use]
    pub fn new_pins(self: &Arc<Self>) -> PinSet {
        PinSet::new(Arc::clone(self))
    }

    pub(crate) fn ports(&self) -> &Registry<EpochSlot> {
        &self.ports
    }

    pub(crate) fn pins(&self) -> &Registry<PinSlot> {
        &self.pins
    }

    #[inline]
    pub(crate) fn generation(&self) -> &Generation {
        &self.registers.generation
    }

    #[inline]
    pub(crate) fn fences(&self) -> Fences {
        self.registers.fences
    }

    #[inline]
    pub(crate) fn config_rw(&self) -> u32 {
        self.registers.config_rw.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn tar(&self) -> Tar {
        Tar::from_value(self.registers.tar.load(Ordering::Acquire))
    }

    /// Points the registers at `target`.
    ///
    /// An access may read CONFIG_RW before and TAR after the change, or the other way round. The order of the stores
    /// lets it see the old or the new target, or none, never a third one.
    pub(crate) fn program(&self, target: Target<TceTable>) -> Reprogrammed {
        let mut tables = self.tables();
        if tables.target.is_same(&target) {
            return Reprogrammed::NothingLost;
        }
        match &target {
            Target::Nothing => self.select(Tar::NO_TABLE),
            Target::Table(table) => self.select(table.tar()),
            // The TAR keeps the old table until nobody is inside: cleared now, it would make accesses fault that began
            // under the old target and are good under the new one.
            Target::Identity => {
                self.registers.config_rw.fetch_and(!config_rw::TCE_ENABLE, Ordering::Release);
            }
        }
        match std::mem::replace(&mut tables.target, target) {
            Target::Nothing => return Reprogrammed::NothingLost,
            Target::Identity => {}
            Target::Table(table) => {
                tables.retired.push(table);
                self.has_retired.store(true, Ordering::Relaxed);
            }
        }
        Reprogrammed::Lost
    }

    /// Switches the slots off, as Linux's watchdog does after a DMA error.
    pub(crate) fn disable_slots(&self) {
        self.registers.config_rw.fetch_or(config_rw::SLOT_DISABLE, Ordering::Release);
        self.program(Target::Nothing);
        self.registers.generation.step();
    }

    /// Switches the slots on again.
    pub(crate) fn enable_slots(&self) {
        self.registers.config_rw.fetch_and(!config_rw::SLOT_DISABLE, Ordering::Release);
    }

    /// Starts to wait for the accesses through translations that were changed before this call; `None` if there are none.
    /// `rosters` is kept from call to call.
    pub(crate) fn quiesce(self: &Arc<Self>, rosters: &mut Rosters) -> Option<Quiesce> {
        Quiesce::begin(self, rosters)
    }

    pub(crate) fn has_retired(&self) -> bool {
        self.has_retired.load(Ordering::Relaxed)
    }

    pub(crate) fn take_retired(&self) -> Vec<Arc<TceTable>> {
        self.has_retired.store(false, Ordering::Relaxed);
        std::mem::take(&mut self.tables().retired)
    }

    pub(crate) fn give_back_retired(&self, mut retired: Vec<Arc<TceTable>>) {
        if !retired.is_empty() {
            self.tables().retired.append(&mut retired);
            self.has_retired.store(true, Ordering::Relaxed);
        }
    }

    /// Drops tables that were taken with [`Phb::take_retired`], once every epoch that began before is over.
    pub(crate) fn drop_retired(&self, retired: Vec<Arc<TceTable>>) {
        if retired.is_empty() {
            return;
        }
        let tables = self.tables();
        if !matches!(tables.target, Target::Table(_)) {
            self.registers.tar.store(Tar::NO_TABLE.value(), Ordering::Release);
        }
        drop(tables);
        drop(retired);
    }

    /// The TAR first: whoever sees translation enabled sees the table it was enabled for.
    fn select(&self, tar: Tar) {
        self.registers.tar.store(tar.value(), Ordering::Release);
        self.registers.config_rw.fetch_or(config_rw::TCE_ENABLE, Ordering::Release);
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::Scope;
    use crate::table::TableSize;

    #[test]
    fn no_register_holds_the_address_of_a_table_that_is_gone() {
        let phb = Arc::new(Phb::new(EndpointId(1), Fences::Symmetric));
        let table = Arc::new(TceTable::new(TableSize::MiB32).unwrap());
        phb.program(Target::Table(Arc::clone(&table)));
        assert_eq!(phb.program(Target::Identity), Reprogrammed::Lost);
        assert_eq!(phb.tar(), table.tar(), "somebody may be on the way to it");
        assert!(phb.quiesce(&mut Rosters::new()).unwrap().poll(Scope::All));
        assert_eq!((phb.tar(), Arc::strong_count(&table)), (Tar::NO_TABLE, 1));
    }
}
