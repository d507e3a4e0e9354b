//! The TCE cache of a PHB.

use std::collections::HashMap;

use super::knobs::Dice;
use crate::table::Tce;

/// An entry as it was when it was walked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cached {
    pub(super) tce: Tce,
    /// When, in ticks.
    pub(super) filled: u64,
}

/// Entries by index. Only such with a permission are cached.
#[derive(Debug, Default)]
pub(super) struct TceCache {
    entries: HashMap<usize, Cached>,
    /// The keys of `entries`, to choose a victim from.
    order: Vec<usize>,
}

impl TceCache {
    pub(super) fn get(&self, index: usize) -> Option<Cached> {
        self.entries.get(&index).copied()
    }

    pub(super) fn insert(&mut self, index: usize, cached: Cached, capacity: Option<usize>, dice: &mut Dice) {
        if self.entries.insert(index, cached).is_some() {
            return;
        }
        if capacity.is_some_and(|capacity| self.order.len() >= capacity) {
            let victim = dice.below(self.order.len());
            self.entries.remove(&self.order[victim]);
            self.order[victim] = index;
        } else {
            self.order.push(index);
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    pub(super) fn indexes(&self) -> impl Iterator<Item = usize> {
        self.order.iter().copied()
    }
}
