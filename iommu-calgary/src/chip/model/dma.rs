//! Accesses of devices, and what the oracle says of them.

use super::cache::Cached;
use super::memory::{TRAP, Walked, trap};
use super::phb::{Split, stale};
use super::{Model, Rule};
use crate::addr::{Iova, RealAddr};
use crate::permissions::{Access, Permissions};
use crate::registers::bits::{config_rw, csr, plssr};
use crate::registers::{PhbIndex, PhbRegister as R};
use crate::table::Tce;

/// The agent that the model's devices are.
const AGENT: u32 = 1;

/// Violations kept: a driver that is wrong once is wrong all the time.
const KEPT: usize = 1000;

/// What became of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dma {
    /// It went here. A read's data arrives when its split completes.
    Reached(RealAddr),
    /// It was refused: an error is latched in CSR. A read returns all ones, a write is dropped.
    Refused,
    /// The slots are disabled.
    Aborted,
    /// The bus is stopped or the split queue full: it will be tried again.
    Waiting,
}

/// How a translation was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Cached,
    Walked,
    InSplit,
}

impl Model {
    /// A device behind `phb` accesses memory.
    pub fn dma(&mut self, phb: PhbIndex, iova: Iova, access: Access) -> Dma {
        let config = self.register(phb, R::ConfigRw);
        if config & config_rw::SLOT_DISABLE != 0 {
            return Dma::Aborted;
        }
        let slot = self.phbs[phb.get()].splits.iter().position(Option::is_none);
        if self.is_stopped(phb) || access == Access::Read && slot.is_none() {
            self.counters.held_up += 1;
            self.phbs[phb.get()].wait(iova, access);
            return Dma::Waiting;
        }
        if config & config_rw::TCE_ENABLE == 0 {
            if !self.oracle.may_bypass(phb) {
                self.report_access(Rule::Escape, phb, iova.page(), "translation is off".to_owned());
            }
            return Dma::Reached(RealAddr(iova.0));
        }
        let index = iova.page();
        if self.holes().any(|(first, last)| (first..=last).contains(&index)) {
            return Dma::Reached(RealAddr(iova.0));
        }
        if iova.0 >> 32 != 0 && config & config_rw::DAC_DISABLE != 0 || index >= self.table_size(phb).entries() {
            if self.oracle.candidates(phb, index).iter().all(|tce| tce.permissions().allows(access)) {
                self.report_access(
                    Rule::V5,
                    phb,
                    index,
                    "an acknowledged mapping is beyond the table's end".to_owned(),
                );
            }
            return self.refuse(phb);
        }
        let (cached, found) = self.translate(phb, index);
        let permitted = cached.tce.permissions().allows(access);
        self.judge(phb, index, cached.tce, access, found);
        if !permitted {
            return self.refuse(phb);
        }
        if let Some(slot) = slot
            && access == Access::Read
        {
            let limit = usize::try_from(self.knobs.split_ticks).unwrap_or(usize::MAX).max(1);
            let due = self.clock + 1 + self.dice.below(limit) as u64;
            self.phbs[phb.get()].splits[slot] = Some(Split { index, cached, access, due });
        }
        Dma::Reached(RealAddr(cached.tce.real().0 | iova.offset_in_page()))
    }

    fn refuse(&mut self, phb: PhbIndex) -> Dma {
        self.counters.errors += 1;
        let status = self.register(phb, R::Csr) | csr::ERROR_SEEN | AGENT << 16;
        self.file.put32(phb.register(R::Csr).offset(), status);
        let beside = self.register(phb, R::Plssr) | plssr::ERROR_SEEN;
        self.file.put32(phb.register(R::Plssr).offset(), beside);
        Dma::Refused
    }

    fn translate(&mut self, phb: PhbIndex, index: usize) -> (Cached, Found) {
        let base = self.tar(phb).base();
        let walked = self.memory.walk(base, index);
        if let Some(cached) = self.phbs[phb.get()].cache.get(index) {
            self.counters.hits += 1;
            if !matches!(walked, Walked::Entry(tce) if tce == cached.tce) {
                self.counters.stale_hits += 1;
            }
            return (cached, Found::Cached);
        }
        self.counters.walks += 1;
        let tce = match walked {
            Walked::Entry(tce) => tce,
            Walked::Trap => {
                let detail = format!("the walk leaves the table at {base:#x} and finds what leads to {TRAP}");
                self.report_access(Rule::V5, phb, index, detail);
                trap()
            }
        };
        let cached = Cached { tce, filled: self.clock };
        self.cache(phb, index, cached);
        (cached, Found::Walked)
    }

    fn cache(&mut self, phb: PhbIndex, index: usize, cached: Cached) {
        if cached.tce.permissions() != Permissions::NONE {
            self.phbs[phb.get()].cache.insert(index, cached, self.knobs.cache_entries, &mut self.dice);
        }
    }

    /// Completes the splits that are due. Their entries are in the cache afterwards, whatever was done to it meanwhile.
    pub(super) fn complete_splits(&mut self, phb: PhbIndex) {
        if self.phbs[phb.get()].hold_splits {
            return;
        }
        for slot in 0..super::phb::SLOTS {
            let state = &mut self.phbs[phb.get()];
            if let Some(split) = state.splits[slot].take_if(|split| split.due <= self.clock) {
                self.judge(phb, split.index, split.cached.tce, split.access, Found::InSplit);
                if self.is_translating(phb) {
                    self.cache(phb, split.index, split.cached);
                }
            }
        }
    }

    /// Compares an access with what the client was told.
    fn judge(&mut self, phb: PhbIndex, index: usize, tce: Tce, access: Access, found: Found) {
        let candidates = self.oracle.candidates(phb, index);
        let permitted = tce.permissions().allows(access);
        let is_right = |candidate: &Tce| {
            candidate.permissions().allows(access) == permitted && (!permitted || candidate.real() == tce.real())
        };
        if candidates.iter().any(is_right) {
            return;
        }
        let now = candidates[0];
        let detail = format!("{access:?} through {tce:?}, acknowledged is {now:?}");
        let rule = match found {
            Found::InSplit => Rule::V1,
            Found::Cached if permitted || now.real() == tce.real() => stale(tce, now),
            _ => self.misread(phb, index, tce, now),
        };
        self.report_access(rule, phb, index, detail);
    }

    /// Why a walk found something else than was acknowledged.
    fn misread(&self, phb: PhbIndex, index: usize, tce: Tce, now: Tce) -> Rule {
        if self.memory.cpu_view(self.tar(phb).base(), index) != Some(tce) {
            Rule::V3
        } else if tce.value().swap_bytes() == now.value() && now != Tce::FREE {
            Rule::V4
        } else if tce != Tce::FREE && self.oracle.stranger_with(phb, index, tce).is_some() {
            Rule::V14
        } else if tce.permissions() == Permissions::NONE {
            if self.has_domain(phb) { Rule::Lost } else { Rule::V14 }
        } else {
            Rule::V1
        }
    }

    fn report_access(&mut self, rule: Rule, phb: PhbIndex, index: usize, detail: String) {
        if self.violations.len() < KEPT {
            self.report(rule, Some(phb), Some(index), detail);
        }
    }
}
