//! The state of one PHB beyond its registers.

use std::collections::VecDeque;

use super::cache::{Cached, TceCache};
use super::violation::Generations;
use super::{Expected, Home, Model, Rule};
use crate::addr::Iova;
use crate::permissions::Access;
use crate::registers::bits::{config_rw, pmcr};
use crate::registers::{PhbIndex, PhbRegister as R, Tar, Variant};
use crate::table::Tce;

/// Slots of the split queue.
pub(super) const SLOTS: usize = 8;

/// Accesses that agents keep waiting at a time; more are not begun.
const WAITING: usize = 32;

/// A read that was begun: translated, and not yet answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    pub(super) index: usize,
    pub(super) cached: Cached,
    pub(super) access: Access,
    /// When it completes.
    pub(super) due: u64,
}

#[derive(Debug, Default)]
pub(super) struct PhbModel {
    pub(super) cache: TceCache,
    pub(super) splits: [Option<Split>; SLOTS],
    pub(super) waiting: VecDeque<(Iova, Access)>,
    pub(super) hold_splits: bool,
    /// Polls that found splits outstanding since the bus was stopped.
    pub(super) busy_polls: u32,
    pub(super) stopped_since: Option<u64>,
    /// When the cache was dropped last.
    pub(super) dropped: Option<u64>,
}

impl PhbModel {
    pub(super) fn busy_slots(&self) -> usize {
        self.splits.iter().flatten().count()
    }

    /// The register's value: one bit for each free slot, in the byte at the lowest address.
    pub(super) fn split_queue(&self) -> u64 {
        let free = self.splits.iter().enumerate().filter(|(_, split)| split.is_none());
        free.fold(0, |byte, (slot, _)| byte | 1 << slot) << 56
    }

    pub(super) fn wait(&mut self, iova: Iova, access: Access) {
        if self.waiting.len() < WAITING {
            self.waiting.push_back((iova, access));
        }
    }
}

impl Model {
    /// Tells the oracle of a request that the driver is about to be given, and that will succeed.
    pub fn expect(&mut self, expected: Expected) {
        self.oracle.expect(expected);
    }

    /// Every request since the last call is about to be acknowledged to the client. Looks whether that is true.
    pub fn acknowledge(&mut self) {
        if !self.posted.is_empty() {
            let detail = format!("{} register writes have not arrived", self.posted.len());
            self.report(Rule::V10, None, None, detail);
        }
        let done = self.oracle.acknowledge();
        for phb in PhbIndex::ALL {
            let in_use = self.tar(phb).base() != 0 && self.register(phb, R::ConfigRw) & config_rw::SLOT_DISABLE == 0;
            if in_use && self.is_stopped(phb) {
                self.report(Rule::V9, Some(phb), None, "the bus was left stopped".to_owned());
            }
            if !self.is_translating(phb) {
                continue;
            }
            let Home::Domain(home) = self.oracle.home(phb) else {
                self.check_cache(phb);
                continue;
            };
            let mut concerned = false;
            for expected in &done {
                match *expected {
                    Expected::Map { domain, first, last, .. } | Expected::Unmap { domain, first, last }
                        if domain == home =>
                    {
                        concerned = true;
                        self.check_views(phb, first, last);
                    }
                    Expected::Move { phb: moved, .. } if moved == phb => concerned = true,
                    _ => {}
                }
            }
            if concerned {
                self.check_cache(phb);
            }
        }
    }

    /// Reports entries in the cache that the client was told are gone or changed.
    fn check_cache(&mut self, phb: PhbIndex) {
        let indexes: Vec<usize> = self.phbs[phb.get()].cache.indexes().collect();
        for index in indexes {
            let now = self.oracle.acknowledged(phb, index);
            let cached = self.phbs[phb.get()].cache.get(index).map_or(Tce::FREE, |cached| cached.tce);
            if now != cached {
                let detail = format!("{cached:?} is still cached, {now:?} was acknowledged");
                self.report(stale(cached, now), Some(phb), Some(index), detail);
            }
        }
    }

    /// Reports entries that are acknowledged and not yet where the walk finds them.
    fn check_views(&mut self, phb: PhbIndex, first: usize, last: usize) {
        let tar = self.tar(phb);
        for index in first..=last.min(tar.size().entries() - 1) {
            let seen = self.memory.cpu_view(tar.base(), index);
            if let (Some(seen), super::memory::Walked::Entry(walked)) = (seen, self.memory.walk(tar.base(), index))
                && seen != walked
            {
                let detail = format!("the processor sees {seen:?}, the walk {walked:?}");
                self.report(Rule::V3, Some(phb), Some(index), detail);
                return;
            }
        }
    }

    pub(super) fn tar(&self, phb: PhbIndex) -> Tar {
        Tar::from_value(self.file.get64(phb.tar().offset()))
    }

    pub(super) fn register(&self, phb: PhbIndex, register: R) -> u32 {
        self.file.get32(phb.register(register).offset())
    }

    /// Whether agents have to wait.
    pub(super) fn is_stopped(&self, phb: PhbIndex) -> bool {
        match self.variant {
            Variant::Calgary => self.register(phb, R::Aer) == 0,
            Variant::CalIoc2 => self.register(phb, R::Pmcr) & (pmcr::SOFT_STOP | pmcr::HARD_STOP) != 0,
        }
    }

    /// Whether accesses go through a table at all.
    pub(super) fn is_translating(&self, phb: PhbIndex) -> bool {
        self.register(phb, R::ConfigRw) & (config_rw::TCE_ENABLE | config_rw::SLOT_DISABLE) == config_rw::TCE_ENABLE
    }

    pub(super) fn generations(&self, phb: PhbIndex, index: usize) -> Generations {
        let table = self.memory.at(self.tar(phb).base());
        let phb = &self.phbs[phb.get()];
        Generations {
            written: table.and_then(|table| table.written(index)),
            freed: table.and_then(|table| table.freed(index)),
            cached: phb.cache.get(index).map(|cached| cached.filled),
            dropped: phb.dropped,
        }
    }

    pub(super) fn count_stopped(&mut self, phb: PhbIndex) {
        let stopped = self.is_stopped(phb);
        let state = &mut self.phbs[phb.get()];
        if !stopped {
            state.stopped_since = None;
            for (iova, access) in std::mem::take(&mut state.waiting) {
                self.dma(phb, iova, access);
            }
            return;
        }
        let since = *state.stopped_since.get_or_insert(self.clock);
        self.counters.stopped_ticks += 1;
        self.counters.longest_stop = self.counters.longest_stop.max(self.clock - since);
    }
}

/// The rule that a cached entry breaks where another is acknowledged.
pub(super) fn stale(cached: Tce, now: Tce) -> Rule {
    if now == Tce::FREE {
        Rule::V1
    } else if now.real() == cached.real() {
        Rule::V12
    } else {
        Rule::V2
    }
}
