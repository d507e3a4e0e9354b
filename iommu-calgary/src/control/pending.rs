//! Entries that a table does not hold yet.

use crate::bitmap::{Bitmap, masks};
use crate::chip::Chip;
use crate::table::Tce;

/// What changed in a domain since the table followed last.
///
/// In a batch most pages change once: then the list of MAPs and a bitmap of freed pages say all, and are stored as they
/// stand. If pages are unmapped that the same batch mapped, entries of earlier MAPs are dead; then a bitmap of all
/// changed pages decides, MAPs are gone through from the last to the first, and each page takes the value of the last
/// that covers it. Either way each entry is stored once, and with its final value.
#[derive(Debug)]
pub(crate) struct Pending {
    fills: Vec<Fill>,
    /// Words of `stale` in which pages were freed, in the order of the UNMAPs; neighbours joined.
    freed: Vec<(usize, usize)>,
    /// Pages whose entry is not what it should be: the freed ones, and from the first remapping on all.
    stale: Bitmap,
    remapped: bool,
}

#[derive(Clone, Copy, Debug)]
struct Fill {
    first: usize,
    last: usize,
    tce: Tce,
}

impl Fill {
    /// The entry of a page of the range.
    fn entry(&self, page: usize) -> Tce {
        Tce::from_value(self.tce.value() + Tce::pages(page - self.first))
    }
}

impl Pending {
    /// Nothing, for a table of `entries`.
    pub(crate) fn new(entries: usize) -> Self {
        Self { fills: Vec::new(), freed: Vec::new(), stale: Bitmap::new(entries), remapped: false }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.fills.is_empty() && self.freed.is_empty()
    }

    /// Pages `first..=last` were mapped to consecutive real pages from that of `tce` on.
    #[inline]
    pub(crate) fn fill(&mut self, first: usize, last: usize, tce: Tce) {
        if self.remapped {
            self.stale.insert_range(first, last);
        }
        self.fills.push(Fill { first, last, tce });
    }

    /// The pages of one word in `mask` were freed. Returns those that the table knows: what this batch mapped itself was
    /// never stored, so nobody can have used it.
    #[inline]
    pub(crate) fn free(&mut self, word: usize, mask: u64) -> u64 {
        if !self.remapped && !self.fills.is_empty() {
            self.remap();
        }
        let known = mask & !self.stale.word(word);
        self.stale.insert_mask(word, mask);
        match self.freed.last_mut() {
            Some((_, last)) if *last == word => {}
            Some((_, last)) if *last + 1 == word => *last = word,
            _ => self.freed.push((word, word)),
        }
        known
    }

    /// From here on pages decide, and no longer the list of MAPs.
    #[cold]
    fn remap(&mut self) {
        self.remapped = true;
        for fill in &self.fills {
            self.stale.insert_range(fill.first, fill.last);
        }
    }

    /// Stores every changed entry. `valid` are the pages that are mapped now.
    pub(crate) fn store<C: Chip>(&mut self, valid: &Bitmap, table: &C::Table, chip: &mut C) {
        if self.remapped {
            self.store_fills_once(valid, table, chip);
        } else {
            for fill in &self.fills {
                chip.fill(table, fill.first, fill.last, fill.tce);
            }
        }
        for &(first_word, last_word) in &self.freed {
            let mut run = Run::default();
            for word in first_word..=last_word {
                let freed = self.stale.word(word) & !valid.word(word);
                self.stale.remove(word, u64::MAX);
                run.add(word, freed, |first, last| chip.free(table, first, last));
            }
            run.end(|first, last| chip.free(table, first, last));
        }
        self.fills.clear();
        self.freed.clear();
        self.remapped = false;
    }

    fn store_fills_once<C: Chip>(&mut self, valid: &Bitmap, table: &C::Table, chip: &mut C) {
        for fill in self.fills.iter().rev() {
            let mut run = Run::default();
            for (word, mask) in masks(fill.first, fill.last) {
                let live = mask & valid.word(word) & self.stale.word(word);
                self.stale.remove(word, live);
                run.add(word, live, |first, last| chip.fill(table, first, last, fill.entry(first)));
            }
            run.end(|first, last| chip.fill(table, first, last, fill.entry(first)));
        }
    }
}

/// Joins the set bits of successive words to runs of pages.
#[derive(Default)]
struct Run(Option<(usize, usize)>);

impl Run {
    fn add(&mut self, word: usize, mask: u64, mut emit: impl FnMut(usize, usize)) {
        let mut left = mask;
        while left != 0 {
            let start = left.trailing_zeros();
            let length = (left >> start).trailing_ones();
            let first = word * 64 + start as usize;
            let last = first + length as usize - 1;
            match &mut self.0 {
                Some((_, end)) if *end + 1 == first => *end = last,
                other => {
                    if let Some((first, last)) = other.replace((first, last)) {
                        emit(first, last);
                    }
                }
            }
            left = if start + length == 64 { 0 } else { left & (u64::MAX << (start + length)) };
        }
    }

    fn end(self, emit: impl FnOnce(usize, usize)) {
        if let Some((first, last)) = self.0 {
            emit(first, last);
        }
    }
}
