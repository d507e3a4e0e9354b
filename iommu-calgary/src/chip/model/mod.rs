//! A model of the chip that makes a driver's mistakes visible.
//!
//! On real hardware most mistakes hide: caches evict before a stale entry is used, writes arrive before anyone looks,
//! guests map everything first and use it then. The model is built the other way. In [`Mode::Adversarial`] its TCE cache
//! never evicts, stores stay in the processor's cache until the line is flushed, writes to registers stay on their way
//! until the next read, and splits are slow. An oracle is told what the driver's client was told, and each access and
//! each acknowledgement is compared with it. What does not fit is a [`Violation`].
//!
//! ```text
//!   driver ── RegisterWindow ──> posted writes ──> registers ──┐
//!      │                                                       v
//!      └── stores ──> CPU view ── flush_line ──> DRAM view ──> walk ──> TCE cache ──> access
//!                                                                                       │
//!   client ── expect, acknowledge ──────────────> oracle <───────────────── compare ────┘
//! ```
//!
//! The scenario that matters: map A, access A, which fills the cache; unmap A, map A to another page, access A. A test
//! that never maps a cached index again says nothing about invalidation.
//!
//! # What is known of the real chip, and what is not
//!
//! Register offsets, the entry's layout, size codes, the two sequences and the error path are those of Linux's driver.
//! Not public, and modelled as the worst that is consistent with that driver working:
//!
//! | unknown | here |
//! |---|---|
//! | size and policy of the TCE cache | never evicts; or 1024 entries, random; see [`Knobs`] |
//! | whether it caches entries without permission | it does not: Linux never invalidates on map |
//! | write-only entries | work |
//! | bit 3 of the TAR | stored, no effect, reported |
//! | beyond the table's end | an error; but memory around tables holds valid-looking entries, so that a wrong size code shows |
//! | which bits of CSR and PLSSR mean what | the values that one real machine printed |
//! | whether an invalidation is complete when the TAR is written | yes, but entries of outstanding splits come back |
//! | message-signalled interrupts | not modelled |
//! | smallest alignment of a table | its size, as in Linux |
//! | how posted writes and the invalidation are ordered | a write takes effect at the next read |
//! | the eight bits of the split queue | one for each of eight slots |
//! | what SoftStopFault means | a request slipped in; the stop has to be asked for again |

mod cache;
mod counters;
mod dma;
mod knobs;
mod memory;
mod oracle;
mod phb;
mod registers;
mod violation;

pub use counters::{Costs, Counters};
pub use dma::Dma;
pub use knobs::{Knobs, Mode};
pub use memory::ModelTable;
pub use oracle::{Expected, Home};
pub use violation::{Rule, Violation};

use std::collections::VecDeque;
use std::io;

use crate::addr::RealAddr;
use crate::chip::Hardware;
use crate::permissions::Access;
use crate::registers::{PhbIndex, Variant};
use crate::table::{TableSize, Tce};

use knobs::Dice;
use memory::Memory;
use oracle::Oracle;
use phb::PhbModel;
use registers::{PostedWrite, RegisterFile};

/// A chip, the machine's memory as far as tables lie in it, and the oracle.
#[derive(Debug)]
pub struct Model {
    variant: Variant,
    knobs: Knobs,
    dice: Dice,
    /// Time in ticks: each access to a register is one.
    clock: u64,
    file: RegisterFile,
    posted: VecDeque<PostedWrite>,
    phbs: [PhbModel; PhbIndex::COUNT],
    memory: Memory,
    oracle: Oracle,
    /// Accesses that devices try again and again while the driver works.
    traffic: Vec<(PhbIndex, usize)>,
    counters: Counters,
    violations: Vec<Violation>,
}

impl Model {
    /// A chip after power-on: no table, translation off, arbitration on.
    #[must_use]
    pub fn new(variant: Variant, knobs: Knobs) -> Self {
        Self {
            variant,
            dice: Dice::new(knobs.seed),
            clock: 0,
            file: RegisterFile::new(),
            posted: VecDeque::new(),
            phbs: std::array::from_fn(|_| PhbModel::default()),
            memory: Memory::new(knobs.real_limit),
            oracle: Oracle::default(),
            traffic: Vec::new(),
            counters: Counters::default(),
            violations: Vec::new(),
            knobs,
        }
    }

    /// What was found so far, in the order of time.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The violations that let a device go where it must not, or keep it from where it may; without those that cost
    /// time only.
    pub fn unsafe_violations(&self) -> impl Iterator<Item = &Violation> {
        self.violations.iter().filter(|violation| violation.rule != Rule::V15)
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Time passed, in ticks.
    #[must_use]
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// A table at an address that somebody else has chosen.
    #[must_use]
    pub fn adopt(&mut self, base: u64, size: TableSize) -> ModelTable {
        self.memory.adopt(base, size)
    }

    /// Has devices read from these pages, each of its PHB, at random while time passes.
    pub fn set_traffic(&mut self, pages: Vec<(PhbIndex, usize)>) {
        self.traffic = pages;
    }

    /// Keeps the splits of a PHB from completing, or lets them complete.
    pub fn hold_splits(&mut self, phb: PhbIndex, hold: bool) {
        self.phbs[phb.get()].hold_splits = hold;
    }

    /// Accesses of a PHB that were begun and have not completed.
    #[must_use]
    pub fn outstanding(&self, phb: PhbIndex) -> usize {
        self.phbs[phb.get()].busy_slots()
    }

    /// Lets time pass.
    pub fn run(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.tick();
        }
    }

    fn tick(&mut self) {
        self.clock += 1;
        if self.posted.front().is_some_and(|write| write.due <= self.clock) {
            self.deliver_due();
        }
        for phb in PhbIndex::ALL {
            self.complete_splits(phb);
            self.count_stopped(phb);
        }
        if self.knobs.write_back_percent > 0 && self.dice.percent(self.knobs.write_back_percent) {
            self.memory.write_back_one(&mut self.dice);
        }
        if !self.traffic.is_empty() && self.dice.percent(self.knobs.traffic_percent) {
            let (phb, page) = self.traffic[self.dice.below(self.traffic.len())];
            self.dma(phb, crate::addr::Iova::of_page(page), Access::Read);
        }
    }

    fn report(&mut self, rule: Rule, phb: Option<PhbIndex>, index: Option<usize>, detail: String) {
        let generations = phb.zip(index).map(|(phb, index)| self.generations(phb, index));
        self.violations.push(Violation { rule, phb, index, tick: self.clock, generations, detail });
    }
}

impl Hardware for Model {
    type Table = ModelTable;

    fn variant(&self) -> Variant {
        self.variant
    }

    fn allocate(&mut self, size: TableSize) -> io::Result<ModelTable> {
        self.memory.allocate(size)
    }

    fn load(&self, table: &ModelTable, index: usize) -> Tce {
        self.memory.load(table, index)
    }

    fn fill(&mut self, table: &ModelTable, first: usize, last: usize, tce: Tce) {
        for index in first..=last {
            self.store(table, index, Tce::from_value(tce.value() + Tce::pages(index - first)));
        }
    }

    fn free(&mut self, table: &ModelTable, first: usize, last: usize) {
        for index in first..=last {
            self.store(table, index, Tce::FREE);
        }
    }

    fn flush_line(&mut self, table: &ModelTable, line: usize) {
        self.counters.line_flushes += 1;
        if !self.memory.flush(table, line) {
            self.report(
                Rule::V15,
                None,
                None,
                format!("line {line} of the table at {:#x} is clean", table.base_address()),
            );
        }
    }

    /// A flush of the model arrives at once.
    fn fence(&mut self) {}

    /// Real addresses are the model's own.
    fn resolve(&mut self, real: RealAddr, pages: usize) -> io::Result<(RealAddr, usize)> {
        Ok((real, pages))
    }

    fn pause(&mut self, round: u32) {
        self.run(u64::from(round.min(64)));
    }
}
