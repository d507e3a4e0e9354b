//! The register file: posted writes, and what reads and writes cause.

use super::memory::TableMemory;
use super::{Home, Model, ModelTable, Rule};
use crate::addr::Iova;
use crate::permissions::{Access, Permissions};
use crate::registers::bits::{config_rw, pmcr, pmdr, split};
use crate::registers::{
    PhbIndex, PhbRegister as R, Register32, Register64, RegisterWindow, Tar, Variant, WINDOW_BYTES,
};
use crate::table::{TableSize, Tce};

/// Non-idle polls after which Linux's driver goes on all the same.
const LINUX_POLL_LIMIT: u32 = 100;

/// A write on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct PostedWrite {
    pub(super) due: u64,
    write: Write,
}

#[derive(Clone, Copy, Debug)]
enum Write {
    Half(Register32, u32),
    Whole(Register64, u64),
}

/// The window's bytes, big-endian.
#[derive(Debug)]
pub(super) struct RegisterFile(Vec<u8>);

impl RegisterFile {
    /// After power-on: arbitration is on, nothing else.
    pub(super) fn new() -> Self {
        let mut file = Self(vec![0; WINDOW_BYTES]);
        for phb in PhbIndex::ALL {
            file.put32(phb.register(R::Aer).offset(), 0xFFFF_0000);
        }
        file
    }

    pub(super) fn get32(&self, offset: u32) -> u32 {
        u32::from_be_bytes(self.bytes(offset))
    }

    pub(super) fn get64(&self, offset: u32) -> u64 {
        u64::from_be_bytes(self.bytes(offset))
    }

    pub(super) fn put32(&mut self, offset: u32, value: u32) {
        self.0[offset as usize..][..4].copy_from_slice(&value.to_be_bytes());
    }

    pub(super) fn put64(&mut self, offset: u32, value: u64) {
        self.0[offset as usize..][..8].copy_from_slice(&value.to_be_bytes());
    }

    fn bytes<const N: usize>(&self, offset: u32) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[offset as usize..][..N]);
        bytes
    }
}

impl RegisterWindow for Model {
    fn read32(&mut self, register: Register32) -> u32 {
        self.counters.mmio_reads += 1;
        self.tick();
        self.deliver_all();
        let value = self.file.get32(register.offset());
        for phb in PhbIndex::ALL {
            if register == phb.register(R::Pmcr) {
                self.enter_hard_stop(phb);
            }
        }
        value
    }

    fn write32(&mut self, register: Register32, value: u32) {
        self.post(Write::Half(register, value));
    }

    fn read64(&mut self, register: Register64) -> u64 {
        self.counters.mmio_reads += 1;
        self.tick();
        self.deliver_all();
        let Some(phb) = PhbIndex::ALL.into_iter().find(|phb| register == phb.split_queue()) else {
            return self.file.get64(register.offset());
        };
        self.counters.polls += 1;
        let state = &mut self.phbs[phb.get()];
        let queue = state.split_queue();
        state.busy_polls = if split::is_idle(queue) { 0 } else { state.busy_polls + 1 };
        queue
    }

    fn write64(&mut self, register: Register64, value: u64) {
        self.post(Write::Whole(register, value));
    }
}

impl Model {
    /// Puts a value where the BIOS would have: no posted write, no effect, no tick.
    pub fn preset32(&mut self, register: Register32, value: u32) {
        self.file.put32(register.offset(), value);
    }

    fn post(&mut self, write: Write) {
        self.counters.mmio_writes += 1;
        self.tick();
        self.posted.push_back(PostedWrite { due: self.clock.saturating_add(self.knobs.posted_ticks), write });
        self.deliver_due();
    }

    pub(super) fn deliver_due(&mut self) {
        while let Some(&PostedWrite { due, write }) = self.posted.front()
            && due <= self.clock
        {
            self.posted.pop_front();
            self.deliver(write);
        }
    }

    fn deliver_all(&mut self) {
        while let Some(posted) = self.posted.pop_front() {
            self.deliver(posted.write);
        }
    }

    fn deliver(&mut self, write: Write) {
        match write {
            Write::Whole(register, value) => match PhbIndex::ALL.into_iter().find(|phb| register == phb.tar()) {
                Some(phb) => self.write_tar(phb, value),
                None => self.file.put64(register.offset(), value),
            },
            Write::Half(register, value) => {
                let offset = register.offset();
                let torn = PhbIndex::ALL.into_iter().find(|phb| phb.tar().offset() == offset & !7);
                if let Some(phb) = torn {
                    self.report(Rule::V5, Some(phb), None, "the TAR is written in halves".to_owned());
                    self.file.put32(offset, value);
                    self.write_tar(phb, self.tar(phb).value());
                    return;
                }
                let owner =
                    PhbIndex::ALL.into_iter().find(|phb| offset & !0xFFF == phb.register(R::Csr).offset() & !0xFFF);
                match owner {
                    Some(phb) => self.write_phb(phb, register, value),
                    None => self.file.put32(offset, value),
                }
            }
        }
    }

    fn write_phb(&mut self, phb: PhbIndex, register: Register32, value: u32) {
        if register == phb.register(R::ConfigRw) && value & config_rw::TCE_ENABLE != 0 && self.tar(phb).base() == 0 {
            self.report(Rule::V5, Some(phb), None, "translation is enabled without a table".to_owned());
        }
        if register == phb.register(R::Pmcr) {
            self.write_pmcr(phb, value);
            return;
        }
        if register == phb.register(R::Aer) {
            self.phbs[phb.get()].busy_polls = 0;
        }
        self.file.put32(register.offset(), value);
    }

    /// Run, soft stop, hard stop. While the stop settles, a request may slip in.
    fn write_pmcr(&mut self, phb: PhbIndex, value: u32) {
        let (pmcr, pmdr) = (phb.register(R::Pmcr).offset(), phb.register(R::Pmdr).offset());
        self.file.put32(pmdr, self.file.get32(pmdr) & !pmdr::SOFT_STOP_FAULT);
        if value & pmcr::SOFT_STOP == 0 {
            self.phbs[phb.get()].busy_polls = 0;
            self.file.put32(pmcr, value);
            return;
        }
        let running = !self.is_stopped(phb);
        self.file.put32(pmcr, pmcr::RUN);
        if self.dice.percent(self.knobs.slip_percent) {
            let own: Vec<usize> = self.traffic.iter().filter(|(of, _)| *of == phb).map(|(_, page)| *page).collect();
            if !own.is_empty() {
                let page = own[self.dice.below(own.len())];
                self.dma(phb, Iova::of_page(page), Access::Read);
            }
            self.file.put32(pmdr, self.file.get32(pmdr) | pmdr::SOFT_STOP_FAULT);
        }
        if running {
            self.phbs[phb.get()].busy_polls = 0;
        }
        self.file.put32(pmcr, value | pmcr::SOFT_STOP);
    }

    /// A read of PMCR, while the PHB is softly stopped and idle, stops it hard.
    fn enter_hard_stop(&mut self, phb: PhbIndex) {
        let pmcr = phb.register(R::Pmcr).offset();
        let fault = self.register(phb, R::Pmdr) & pmdr::SOFT_STOP_FAULT != 0;
        if self.file.get32(pmcr) & pmcr::SOFT_STOP != 0 && self.phbs[phb.get()].busy_slots() == 0 && !fault {
            self.file.put32(pmcr, self.file.get32(pmcr) | pmcr::HARD_STOP);
        }
    }

    /// A new table, or the old one again: either way the cache is dropped. Splits that are still outstanding bring their
    /// entries back when they complete.
    fn write_tar(&mut self, phb: PhbIndex, value: u64) {
        let before = self.tar(phb);
        let tar = Tar::from_value(value);
        if self.is_translating(phb) {
            self.counters.invalidations += 1;
            self.check_quiet(phb);
            self.check_use(phb, before, tar);
        }
        self.check_tar(phb, tar);
        self.file.put64(phb.tar().offset(), value);
        let state = &mut self.phbs[phb.get()];
        state.cache.clear();
        state.dropped = Some(self.clock);
    }

    fn check_quiet(&mut self, phb: PhbIndex) {
        let state = &self.phbs[phb.get()];
        let (busy, polls) = (state.busy_slots(), state.busy_polls);
        let stopped = match self.variant {
            Variant::Calgary => self.is_stopped(phb),
            Variant::CalIoc2 => self.register(phb, R::Pmcr) & pmcr::HARD_STOP != 0 || busy > 0 && self.is_stopped(phb),
        };
        if !stopped {
            self.report(Rule::V7, Some(phb), None, "the cache is dropped while the bus runs".to_owned());
        } else if busy > 0 {
            let rule = if polls >= LINUX_POLL_LIMIT { Rule::V8 } else { Rule::V7 };
            let detail = format!("the cache is dropped with {busy} splits outstanding, after {polls} polls");
            self.report(rule, Some(phb), None, detail);
        }
    }

    /// An invalidation that drops nothing: the same table, and no entry of it was lost since the last one.
    fn check_use(&mut self, phb: PhbIndex, before: Tar, tar: Tar) {
        let lossy = self.memory.at(tar.base()).and_then(|table| table.lossy);
        let dropped = self.phbs[phb.get()].dropped;
        if before == tar && lossy.is_none_or(|lossy| dropped.is_some_and(|dropped| dropped > lossy)) {
            self.report(Rule::V15, Some(phb), None, "the cache is dropped, and no entry was lost".to_owned());
        }
    }

    fn check_tar(&mut self, phb: PhbIndex, tar: Tar) {
        if tar.valid_bit() {
            self.report(Rule::V13, Some(phb), None, "bit 3 of the TAR is set".to_owned());
        }
        if tar.base() == 0 {
            return;
        }
        if !tar.base().is_multiple_of(tar.size().table_bytes() as u64) {
            let detail =
                format!("the table at {:#x} is not aligned to its {:#x} bytes", tar.base(), tar.size().table_bytes());
            self.report(Rule::V6, Some(phb), None, detail);
        }
        let size = self.memory.at(tar.base()).map(|table: &TableMemory| table.size);
        if size != Some(tar.size()) {
            let swapped = Tar::from_value(tar.value().swap_bytes());
            let detail = match size {
                Some(size) => format!("size code {} for a table of code {}", tar.size().code(), size.code()),
                None if self.memory.at(swapped.base()).is_some() => format!("{:#x} is byte-swapped", tar.value()),
                None => format!("there is no table at {:#x}", tar.base()),
            };
            self.report(Rule::V5, Some(phb), None, detail);
        }
    }

    /// A store of the driver's to a table.
    pub(super) fn store(&mut self, table: &ModelTable, index: usize, tce: Tce) {
        self.counters.stores += 1;
        let through = self.knobs.write_through;
        self.memory.store(table, index, tce, through, self.clock);
        if tce == Tce::FREE {
            return;
        }
        let clean = |tce: Tce| Tce::new(tce.real(), tce.permissions()) == tce;
        let swapped = Tce::from_value(tce.value().swap_bytes());
        if !clean(tce) {
            let (rule, what) = if clean(swapped) && tce.permissions() == Permissions::NONE {
                (Rule::V4, "is byte-swapped")
            } else {
                (Rule::V13, "has reserved bits set")
            };
            self.report(rule, None, Some(index), format!("{tce:?} {what}"));
        } else if !self.memory.is_memory(tce.real()) {
            self.report(Rule::V13, None, Some(index), format!("{tce:?} points beyond memory"));
        }
        if self.holes().any(|(first, last)| (first..=last).contains(&index)) {
            self.report(Rule::V11, None, Some(index), format!("{tce:?} lies in a range that is not translated"));
        }
    }

    /// Pages that no PHB in use translates, inclusive at both ends.
    pub(super) fn holes(&self) -> impl Iterator<Item = (usize, usize)> {
        let legacy = match self.variant {
            Variant::Calgary => (0xA0, 0xFF),
            Variant::CalIoc2 => (0, 0xFF),
        };
        let windows = PhbIndex::ALL.into_iter().filter_map(|phb| {
            let first = self.register(phb, R::Mem1Low) >> 12;
            let last = self.register(phb, R::Mem1Limit) >> 12;
            (first != 0).then_some((first as usize & !0xFF, last as usize | 0xFF))
        });
        std::iter::once(legacy).chain(windows)
    }

    /// Whether a PHB has a home, for what the client was told.
    pub(super) fn has_domain(&self, phb: PhbIndex) -> bool {
        matches!(self.oracle.home(phb), Home::Domain(_))
    }

    pub(super) fn table_size(&self, phb: PhbIndex) -> TableSize {
        self.tar(phb).size()
    }
}
