//! A translated address space: its table, and what the table cannot say.

use std::sync::Arc;

use super::pending::Pending;
use crate::addr::{Iova, PAGE_SIZE, REAL_LIMIT, RealAddr};
use crate::bitmap::{Bitmap, in_one_word, masks};
use crate::chip::Chip;
use crate::error::{MapError, UnmapError};
use crate::permissions::Permissions;
use crate::range::{IovaRange, RangeList};
use crate::table::{TableSize, Tce, TceTable};

/// Removed ranges that a domain remembers one by one between commits. Beyond, it remembers their hull: a commit then may
/// wait for more accesses than it had to.
const REMOVED_RANGES: usize = 64;

/// A table with the two bitmaps that make it a set of mappings.
///
/// A TCE tells neither where a mapping began nor "mapped, but no access". `valid` holds every mapped page, `start` the
/// first page of each mapping. The bitmaps decide; the table follows them at the next commit, so that each entry is
/// stored once however often it changed in between.
#[derive(Debug)]
pub struct Domain<T = TceTable> {
    table: Arc<T>,
    size: TableSize,
    /// Last address of the window.
    window_end: u64,
    valid: Bitmap,
    start: Bitmap,
    mappings: u64,
    pending: Pending,
    removed: RangeList,
}

impl<T> Domain<T> {
    pub(crate) fn new(table: T, size: TableSize) -> Self {
        Self {
            table: Arc::new(table),
            size,
            window_end: size.window_bytes() - 1,
            valid: Bitmap::new(size.entries()),
            start: Bitmap::new(size.entries()),
            mappings: 0,
            pending: Pending::new(size.entries()),
            removed: RangeList::new(REMOVED_RANGES),
        }
    }

    /// The table that the domain's endpoints translate through.
    #[must_use]
    pub fn table(&self) -> &Arc<T> {
        &self.table
    }

    /// Number of live mappings, one for each successful MAP that was not unmapped.
    #[must_use]
    pub fn mappings(&self) -> u64 {
        self.mappings
    }

    /// The mapped pages among the 64 from page `64 * word` on, lowest bit first, and which of them begin a mapping; both
    /// zero beyond the window.
    #[must_use]
    pub fn pages(&self, word: usize) -> (u64, u64) {
        if word * 64 < self.size.entries() { (self.valid.word(word), self.start.word(word)) } else { (0, 0) }
    }

    /// Whether the table is as the bitmaps say, and everything that was removed is out of use.
    #[inline]
    pub(crate) fn is_clean(&self) -> bool {
        self.pending.is_empty() && self.removed.is_empty()
    }

    /// What was unmapped since the last [`Domain::forget_removed`], or more.
    pub(crate) fn removed(&self) -> &RangeList {
        &self.removed
    }

    pub(crate) fn forget_removed(&mut self) {
        self.removed.clear();
    }

    /// Has the table follow the bitmaps.
    pub(crate) fn store(&mut self, chip: &mut impl Chip<Table = T>) {
        self.pending.store(&self.valid, &*self.table, chip);
        chip.publish(&self.table);
    }

    /// Maps `first..=last` to consecutive real pages from `real` on, as one mapping. `admit` is asked last whether the
    /// real pages, by address and number, can be had.
    #[inline]
    pub(crate) fn map(
        &mut self,
        first: Iova,
        last: Iova,
        real: RealAddr,
        permissions: Permissions,
        reserved: &[IovaRange],
        admit: impl FnOnce(RealAddr, usize) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        let range = IovaRange::new(first, last).ok_or(MapError::Inverted)?;
        // A range up to the last 64-bit address ends on a page boundary: its successor wraps to 0.
        if (first.0 | real.0 | last.0.wrapping_add(1)) & (PAGE_SIZE - 1) != 0 {
            return Err(MapError::Unaligned);
        }
        if last.0 > self.window_end {
            return Err(MapError::OutsideWindow);
        }
        if reserved.iter().any(|region| region.overlaps(range)) {
            return Err(MapError::Reserved);
        }
        if real.0 >= REAL_LIMIT || last.0 - first.0 >= REAL_LIMIT - real.0 {
            return Err(MapError::BadAddress);
        }
        let (first, last) = (first.page(), last.page());
        if self.valid.intersects(first, last) {
            return Err(MapError::Overlap);
        }
        admit(real, last - first + 1)?;
        self.valid.insert_range(first, last);
        self.start.insert(first);
        self.mappings += 1;
        self.pending.fill(first, last, Tce::new(real, permissions));
        Ok(())
    }

    /// Removes every mapping inside `first..=last`, unless one lies only partly inside: then it removes none.
    #[inline]
    pub(crate) fn unmap(&mut self, first: Iova, last: Iova) -> Result<u64, UnmapError> {
        if last < first {
            return Err(UnmapError::Inverted);
        }
        if first.0 > self.window_end {
            return Ok(0);
        }
        let last = Iova(last.0.min(self.window_end));
        if (first.0 | last.0.wrapping_add(1)) & (PAGE_SIZE - 1) == 0
            && let Some((word, mask)) = in_one_word(first.page(), last.page())
            && mask.leading_zeros() > 0
        {
            return self.unmap_in_word(word, mask);
        }
        if self.splits(first, last) {
            return Err(UnmapError::Split);
        }
        let mut mappings = 0;
        let mut removed_pages: Option<(usize, usize)> = None;
        for (word, mask) in masks(first.page(), last.page()) {
            let (gone, lost) = self.take(word, self.valid.word(word) & mask);
            mappings += gone;
            if let Some((lowest, highest)) = lost {
                removed_pages = Some((removed_pages.map_or(lowest, |(first, _)| first), highest));
            }
        }
        if let Some((lowest, highest)) = removed_pages {
            self.note_removed(lowest, highest);
        }
        self.mappings -= mappings;
        Ok(mappings)
    }

    /// [`Domain::unmap`] for neighbouring pages in `mask` that leave the last page of their word out.
    #[inline]
    fn unmap_in_word(&mut self, word: usize, mask: u64) -> Result<u64, UnmapError> {
        let valid = self.valid.word(word);
        // If the first page of the range or the one behind it goes on a mapping, the range cuts that.
        let first = mask & mask.wrapping_neg();
        if valid & !self.start.word(word) & (first | (mask + first)) != 0 {
            return Err(UnmapError::Split);
        }
        let (mappings, lost) = self.take(word, valid & mask);
        if let Some((lowest, highest)) = lost {
            self.note_removed(lowest, highest);
        }
        self.mappings -= mappings;
        Ok(mappings)
    }

    /// Takes the mapped pages `live` of one word out of the bitmaps. Returns the number of mappings that begin there, and
    /// the first and the last page that the table knows.
    #[inline]
    fn take(&mut self, word: usize, live: u64) -> (u64, Option<(usize, usize)>) {
        if live == 0 {
            return (0, None);
        }
        let lost = self.pending.free(word, live);
        self.valid.remove(word, live);
        let mappings = u64::from(self.start.remove(word, live));
        let page = |bit: u32| word * 64 + bit as usize;
        (mappings, (lost != 0).then(|| (page(lost.trailing_zeros()), page(63 - lost.leading_zeros()))))
    }

    #[inline]
    fn note_removed(&mut self, lowest: usize, highest: usize) {
        let end = Iova(Iova::of_page(highest).0 | (PAGE_SIZE - 1));
        let range = IovaRange::new(Iova::of_page(lowest), end).expect("lowest page first");
        self.removed.insert(range);
    }

    /// Whether a mapping lies partly inside and partly outside of `first..=last`, which is inside the window.
    ///
    /// Mappings consist of whole pages, so only the two edges can cut one.
    #[inline]
    fn splits(&self, first: Iova, last: Iova) -> bool {
        let first_page = first.page();
        if self.valid.contains(first_page) && (first.offset_in_page() != 0 || !self.start.contains(first_page)) {
            return true;
        }
        if last.offset_in_page() != PAGE_SIZE - 1 {
            return self.valid.contains(last.page());
        }
        let next = last.page() + 1;
        next < self.size.entries() && self.valid.contains(next) && !self.start.contains(next)
    }
}
