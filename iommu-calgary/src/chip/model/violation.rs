//! What a driver did wrong.

use std::fmt;

use crate::registers::PhbIndex;

/// The rules, by the mistake that breaks them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// A removal was acknowledged while the old entry was still in use: in the cache, or in a split.
    V1,
    /// An index was mapped anew while its old entry was still cached: it leads to the old page.
    V2,
    /// A line was not flushed: the walk sees another entry than the processor.
    V3,
    /// An entry in the wrong byte order.
    V4,
    /// A TAR that selects no table, or one with a wrong size code, or was not written as one 64-bit access.
    V5,
    /// A table that is not aligned to its size.
    V6,
    /// The cache was dropped while the bus was not stopped or splits were outstanding.
    V7,
    /// The cache was dropped although a hundred polls had found splits outstanding.
    V8,
    /// A PHB was left stopped: its bus hangs.
    V9,
    /// A register write was still on its way when its effect was relied on.
    V10,
    /// An entry inside a range that the chip does not translate.
    V11,
    /// Permissions changed while the old ones were still cached.
    V12,
    /// An entry or a TAR with bits that are no driver's, or an entry that points beyond memory.
    V13,
    /// An access through the table of another domain.
    V14,
    /// Work for nothing: an invalidation with nothing to drop, or the flush of a clean line.
    V15,
    /// An access passed untranslated, and no bypass was acknowledged.
    Escape,
    /// An access was refused that an acknowledged mapping permits.
    Lost,
}

/// A rule broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// At which PHB, if at one.
    pub phb: Option<PhbIndex>,
    /// At which entry, if at one.
    pub index: Option<usize>,
    /// When.
    pub tick: u64,
    /// Of the entry, if at one.
    pub generations: Option<Generations>,
    /// What was seen.
    pub detail: String,
}

/// When things happened to an entry last, in ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Generations {
    /// A value was stored.
    pub written: Option<u64>,
    /// It was freed.
    pub freed: Option<u64>,
    /// The PHB cached it.
    pub cached: Option<u64>,
    /// The PHB dropped its cache.
    pub dropped: Option<u64>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at tick {}", self.rule, self.tick)?;
        if let Some(phb) = self.phb {
            write!(f, ", PHB {}", phb.get())?;
        }
        if let Some(index) = self.index {
            write!(f, ", entry {index:#x}")?;
        }
        write!(f, ": {}", self.detail)?;
        let Some(Generations { written, freed, cached, dropped }) = self.generations else {
            return Ok(());
        };
        let mut separator = " (";
        for (name, tick) in [("written", written), ("freed", freed), ("cached", cached), ("cache dropped", dropped)] {
            if let Some(tick) = tick {
                write!(f, "{separator}{name} at {tick}")?;
                separator = ", ";
            }
        }
        if separator == ", " { f.write_str(")") } else { Ok(()) }
    }
}
