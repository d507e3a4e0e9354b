//! Hardware that makes a right driver behave like a wrong one.

use std::io;

use iommu_calgary::chip::Hardware;
use iommu_calgary::chip::model::{Model, ModelTable};
use iommu_calgary::registers::bits::{config_rw, pmcr, pmdr};
use iommu_calgary::registers::{PhbIndex, PhbRegister as R, Register32, Register64, RegisterWindow, Variant};
use iommu_calgary::{Access, Iova, PAGE_SIZE, Permissions, RealAddr, TableSize, Tce};

use crate::machine::Modelled;

/// What a driver's author forgot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    NoFlushOfMaps,
    NoFlushOfUnmaps,
    EverySecondFlushOnly,
    NoInvalidation,
    InvalidationBeforeTheStores,
    /// The harness's part: it tells the client before it asks the driver.
    AcknowledgedBeforeTheWork,
    ReuseBeforeInvalidation,
    PermissionsWidenedWithoutInvalidation,
    SwappedEntry,
    SwappedTar,
    WrongSizeCode,
    TornTar,
    EnabledBeforeTheTable,
    MisalignedTable,
    ArbitrationLeftOn,
    SplitsNotAwaited,
    SoftStopSkipped,
    SoftStopFaultIgnored,
    HardStopNotEntered,
    PollLimitIgnored,
    ArbitrationNotRestored,
    SoftStopNotLeft,
    EnableNotReadBack,
    RestoreNotReadBack,
    WindowOverlooked,
    ReservedEntryBit,
    ValidBitOfTar,
    EntryBeyondMemory,
    TableOfAnotherDomain,
    EachLineFlushedTwice,
    EachInvalidationTwice,
    NeverEnabled,
}

pub(crate) struct Faulty {
    model: Model,
    fault: Option<Fault>,
    /// What the driver wrote to each TAR, which is what it reads back.
    tars: [u64; PhbIndex::COUNT],
    /// The same before it was changed on the way.
    tar_given: [Option<u64>; PhbIndex::COUNT],
    frees: Vec<(ModelTable, usize, usize)>,
    /// Since the last of `frees`.
    invalidated: bool,
    last_was_fill: bool,
    filled_since_invalidation: bool,
    same_page_filled: bool,
    flushes: u64,
    busy_polls: u32,
    last_written: Option<(Register32, u32)>,
}

impl Faulty {
    pub(crate) fn new(model: Model, fault: Option<Fault>) -> Self {
        Self {
            model,
            fault,
            tars: [0; PhbIndex::COUNT],
            tar_given: [None; PhbIndex::COUNT],
            frees: Vec::new(),
            invalidated: false,
            last_was_fill: false,
            filled_since_invalidation: false,
            same_page_filled: false,
            flushes: 0,
            busy_polls: 0,
            last_written: None,
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Entries that a driver clears only after its invalidation. Devices go on in between.
    fn free_late(&mut self) {
        for (table, first, last) in std::mem::take(&mut self.frees) {
            for index in first..=last {
                for phb in &PhbIndex::ALL[..2] {
                    self.model.dma(*phb, Iova(index as u64 * PAGE_SIZE), Access::Write);
                }
            }
            self.model.free(&table, first, last);
            for line in first / 8..=last / 8 {
                self.model.flush_line(&table, line);
            }
        }
    }

    /// Whether this write of a TAR, one that selects the same table again, is forgotten.
    fn forgets_invalidation(&self) -> bool {
        match self.fault {
            Some(Fault::NoInvalidation) => true,
            Some(Fault::ReuseBeforeInvalidation) => self.filled_since_invalidation,
            Some(Fault::PermissionsWidenedWithoutInvalidation) => self.same_page_filled,
            _ => false,
        }
    }
}

impl Modelled for Faulty {
    fn model(&mut self) -> &mut Model {
        &mut self.model
    }
}

fn phb_of(register: Register32, name: R) -> Option<PhbIndex> {
    PhbIndex::ALL.into_iter().find(|phb| phb.register(name) == register)
}

impl RegisterWindow for Faulty {
    fn read32(&mut self, register: Register32) -> u32 {
        let restored = match self.last_written {
            Some((written, value)) if written == register => {
                let restores = phb_of(register, R::Aer).is_some() && value != 0
                    || phb_of(register, R::Pmcr).is_some() && value == pmcr::RUN;
                let enables = phb_of(register, R::ConfigRw).is_some();
                let skipped =
                    restores && self.is(Fault::RestoreNotReadBack) || enables && self.is(Fault::EnableNotReadBack);
                skipped.then_some(value)
            }
            _ => None,
        };
        self.last_written = None;
        if let Some(value) = restored {
            return value;
        }
        if phb_of(register, R::Pmcr).is_some() && self.is(Fault::HardStopNotEntered) {
            return pmcr::SOFT_STOP | pmcr::HARD_STOP;
        }
        let value = self.model.read32(register);
        if phb_of(register, R::Pmdr).is_some() && self.is(Fault::SoftStopFaultIgnored) {
            return value & !pmdr::SOFT_STOP_FAULT;
        }
        if phb_of(register, R::Mem1Low).is_some() && self.is(Fault::WindowOverlooked) {
            return 0;
        }
        if phb_of(register, R::Aer).is_some() && self.invalidated {
            self.free_late();
        }
        value
    }

    fn write32(&mut self, register: Register32, value: u32) {
        self.last_written = Some((register, value));
        let stops = value & pmcr::SOFT_STOP != 0;
        let forgotten = match self.fault {
            Some(Fault::ArbitrationLeftOn) => phb_of(register, R::Aer).is_some(),
            Some(Fault::ArbitrationNotRestored) => phb_of(register, R::Aer).is_some() && value != 0,
            Some(Fault::SoftStopSkipped) => phb_of(register, R::Pmcr).is_some() && stops,
            Some(Fault::SoftStopNotLeft) => phb_of(register, R::Pmcr).is_some() && !stops,
            _ => false,
        };
        if forgotten {
            return;
        }
        let kept = if phb_of(register, R::ConfigRw).is_some() && self.is(Fault::NeverEnabled) {
            value & !config_rw::TCE_ENABLE
        } else {
            value
        };
        self.model.write32(register, kept);
    }

    fn read64(&mut self, register: Register64) -> u64 {
        if let Some(phb) = PhbIndex::ALL.into_iter().find(|phb| phb.tar() == register) {
            let read = self.model.read64(register);
            return if self.tar_given[phb.get()].is_some() { self.tars[phb.get()] } else { read };
        }
        if PhbIndex::ALL.iter().any(|phb| phb.split_queue() == register) {
            if self.is(Fault::SplitsNotAwaited) {
                return u64::MAX;
            }
            let queue = self.model.read64(register);
            self.busy_polls = if queue >> 56 == 0xFF { 0 } else { self.busy_polls + 1 };
            if self.is(Fault::PollLimitIgnored) && self.busy_polls >= 100 {
                return u64::MAX;
            }
            return queue;
        }
        self.model.read64(register)
    }

    fn write64(&mut self, register: Register64, value: u64) {
        let Some(phb) = PhbIndex::ALL.into_iter().find(|phb| phb.tar() == register) else {
            self.model.write64(register, value);
            return;
        };
        let again = self.tars[phb.get()] == value && self.tar_given[phb.get()].is_some();
        if again && self.forgets_invalidation() {
            self.filled_since_invalidation = false;
            self.same_page_filled = false;
            return;
        }
        (self.filled_since_invalidation, self.same_page_filled) = (false, false);
        self.invalidated = true;
        self.tars[phb.get()] = value;
        let given = match self.fault {
            Some(Fault::SwappedTar) => value.swap_bytes(),
            Some(Fault::WrongSizeCode) => value & !7 | ((value & 7) / 2),
            Some(Fault::ValidBitOfTar) => value | 8,
            Some(Fault::TableOfAnotherDomain) if phb.get() == 0 => self.tar_given[1].unwrap_or(value),
            _ => value,
        };
        self.tar_given[phb.get()] = Some(given);
        if self.is(Fault::TornTar) {
            let halves = [register.offset(), register.offset() + 4].map(|offset| Register32::at(offset).unwrap());
            #[expect(clippy::cast_possible_truncation, reason = "the halves of the value")]
            for (half, bits) in halves.into_iter().zip([(given >> 32) as u32, given as u32]) {
                self.model.write32(half, bits);
            }
            return;
        }
        if self.is(Fault::EnabledBeforeTheTable) {
            let config = phb.register(R::ConfigRw);
            let enabled = self.model.read32(config) | config_rw::TCE_ENABLE;
            self.model.write32(config, enabled);
        }
        self.model.write64(register, given);
        if self.is(Fault::EachInvalidationTwice) {
            self.model.write64(register, given);
        }
    }
}

impl Hardware for Faulty {
    type Table = ModelTable;

    fn variant(&self) -> Variant {
        self.model.variant()
    }

    fn allocate(&mut self, size: TableSize) -> io::Result<ModelTable> {
        let table = self.model.allocate(size)?;
        Ok(if self.is(Fault::MisalignedTable) { table.displaced(0x8000) } else { table })
    }

    fn load(&self, table: &ModelTable, index: usize) -> Tce {
        self.model.load(table, index)
    }

    fn fill(&mut self, table: &ModelTable, first: usize, last: usize, tce: Tce) {
        self.last_was_fill = true;
        let before = self.model.load(table, first);
        self.filled_since_invalidation |= before != Tce::FREE;
        self.same_page_filled |= before.real() == tce.real() && before.permissions() == Permissions::READ;
        for index in first..=last {
            let right = Tce::from_value(tce.value() + (index - first) as u64 * PAGE_SIZE);
            let stored = match self.fault {
                Some(Fault::SwappedEntry) => Tce::from_value(right.value().swap_bytes()),
                Some(Fault::ReservedEntryBit) => Tce::from_value(right.value() | 0x4),
                Some(Fault::EntryBeyondMemory) => Tce::from_value(right.value() | 1 << 45),
                _ => right,
            };
            self.model.fill(table, index, index, stored);
        }
    }

    fn free(&mut self, table: &ModelTable, first: usize, last: usize) {
        self.last_was_fill = false;
        if self.is(Fault::InvalidationBeforeTheStores) {
            self.frees.push((table.clone(), first, last));
            self.invalidated = false;
            return;
        }
        self.model.free(table, first, last);
    }

    fn flush_line(&mut self, table: &ModelTable, line: usize) {
        self.flushes += 1;
        let forgotten = match self.fault {
            Some(Fault::NoFlushOfMaps) => self.last_was_fill,
            Some(Fault::NoFlushOfUnmaps) => !self.last_was_fill,
            Some(Fault::EverySecondFlushOnly) => self.flushes.is_multiple_of(2),
            Some(Fault::InvalidationBeforeTheStores) => !self.last_was_fill,
            _ => false,
        };
        if forgotten {
            return;
        }
        self.model.flush_line(table, line);
        if self.is(Fault::EachLineFlushedTwice) {
            self.model.flush_line(table, line);
        }
    }

    fn fence(&mut self) {
        self.model.fence();
    }

    fn resolve(&mut self, real: RealAddr, pages: usize) -> io::Result<(RealAddr, usize)> {
        self.model.resolve(real, pages)
    }

    fn pause(&mut self, round: u32) {
        self.model.pause(round);
    }
}
