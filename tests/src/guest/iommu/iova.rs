//! Which device addresses are free.

use std::collections::BTreeMap;

use super::wire::ReservedRegion;
use crate::guest::address::{DeviceAddr, PAGE};

/// Freed single pages kept at hand, as Linux' per-processor magazines do.
const MAGAZINE: usize = 128;

/// From which end addresses are given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IovaOrder {
    /// Highest first, as Linux does.
    #[default]
    TopDown,
    /// Lowest first.
    BottomUp,
}

/// The free IOVAs of one domain, in pages of 4096 bytes.
///
/// Page 0 and reserved regions are never given out. A run of pages is aligned to its size rounded up
/// to a power of two, and the page freed last is given out first, both as in Linux: a stale
/// translation is then used at once.
#[derive(Debug)]
pub struct IovaAllocator {
    order: IovaOrder,
    /// First page number of each free run, and its length in pages.
    free: BTreeMap<u64, u64>,
    magazine: Vec<u64>,
}

impl IovaAllocator {
    /// All pages wholly inside `first..=last` except page 0 and `reserved`.
    #[must_use]
    pub fn new(first: u64, last: u64, reserved: &[ReservedRegion], order: IovaOrder) -> Self {
        let mut allocator = Self { order, free: BTreeMap::new(), magazine: Vec::new() };
        let start = first.div_ceil(PAGE).max(1);
        let end = if last == u64::MAX { 1 << 52 } else { (last + 1) / PAGE };
        if start < end {
            allocator.free.insert(start, end - start);
        }
        for region in reserved {
            allocator.carve(region.first / PAGE, region.last / PAGE + 1);
        }
        allocator
    }

    /// Take `pages` contiguous pages (at least one).
    pub fn take(&mut self, pages: u64) -> Option<DeviceAddr> {
        if pages <= 1
            && let Some(page) = self.magazine.pop()
        {
            return Some(DeviceAddr(page * PAGE));
        }
        self.take_below(pages, u64::MAX)
    }

    /// Take `pages` contiguous pages that end at or below byte address `limit`.
    pub fn take_below(&mut self, pages: u64, limit: u64) -> Option<DeviceAddr> {
        let pages = pages.max(1);
        let place = |(start, length): (&u64, &u64)| {
            let end = (start + length).min(limit / PAGE);
            fit(*start, end, pages, self.order)
        };
        let page = match self.order {
            IovaOrder::TopDown => self.free.iter().rev().find_map(place),
            IovaOrder::BottomUp => self.free.iter().find_map(place),
        };
        let Some(page) = page else {
            // Magazines hide free neighbours: give them back and look once more.
            return if self.drain_magazine() { self.take_below(pages, limit) } else { None };
        };
        self.carve(page, page + pages);
        Some(DeviceAddr(page * PAGE))
    }

    /// Give back `pages` pages from `first` on.
    pub fn give_back(&mut self, first: DeviceAddr, pages: u64) {
        if pages <= 1 && self.magazine.len() < MAGAZINE {
            self.magazine.push(first.0 / PAGE);
        } else {
            self.insert(first.0 / PAGE, pages.max(1));
        }
    }

    /// Free pages.
    #[must_use]
    pub fn free_pages(&self) -> u64 {
        self.free.values().sum::<u64>() + self.magazine.len() as u64
    }

    fn drain_magazine(&mut self) -> bool {
        let pages = std::mem::take(&mut self.magazine);
        for page in &pages {
            self.insert(*page, 1);
        }
        !pages.is_empty()
    }

    fn insert(&mut self, mut start: u64, mut length: u64) {
        if let Some((below, below_length)) = self.free.range(..start).next_back()
            && below + below_length == start
        {
            (start, length) = (*below, below_length + length);
            self.free.remove(&start);
        }
        if let Some(above) = self.free.remove(&(start + length)) {
            length += above;
        }
        self.free.insert(start, length);
    }

    /// Remove pages `start..end` from the free runs, whatever of them is free.
    fn carve(&mut self, start: u64, end: u64) {
        while let Some((run, length)) = self
            .free
            .range(..end)
            .next_back()
            .map(|(run, length)| (*run, *length))
            .filter(|(run, length)| run + length > start)
        {
            self.free.remove(&run);
            if run < start {
                self.free.insert(run, start - run);
            }
            if run + length > end {
                self.free.insert(end, run + length - end);
            }
        }
    }
}

/// The page at which `pages` pages fit into `start..end`, aligned to their size.
fn fit(start: u64, end: u64, pages: u64, order: IovaOrder) -> Option<u64> {
    let align = pages.checked_next_power_of_two()?;
    let page = match order {
        IovaOrder::TopDown => end.checked_sub(pages)? / align * align,
        IovaOrder::BottomUp => start.checked_next_multiple_of(align)?,
    };
    (page >= start && page.checked_add(pages)? <= end).then_some(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reserved_regions_and_page_zero_stay_free_of_mappings() {
        let reserved = [ReservedRegion { msi: false, first: 0x3800, last: 0x5000 }];
        let mut allocator = IovaAllocator::new(0, 0x7fff, &reserved, IovaOrder::BottomUp);
        let pages: Vec<_> = std::iter::from_fn(|| allocator.take(1)).collect();
        assert_eq!(pages, [0x1000, 0x2000, 0x6000, 0x7000].map(DeviceAddr));
    }

    #[test]
    fn top_down_starts_at_the_end_and_reuses_what_was_freed_last() {
        let mut allocator = IovaAllocator::new(0, 0xf_ffff, &[], IovaOrder::TopDown);
        let first = allocator.take(1).unwrap();
        assert_eq!(first, DeviceAddr(0xf_f000));
        assert_eq!(allocator.take(3).unwrap(), DeviceAddr(0xf_c000));
        assert_eq!(allocator.take_below(2, 0x8000), Some(DeviceAddr(0x6000)));
        allocator.give_back(first, 1);
        assert_eq!(allocator.take(1), Some(first));
    }

    proptest! {
        #[test]
        fn ranges_in_use_never_overlap(
            steps in proptest::collection::vec((1_u64..9, any::<bool>(), any::<prop::sample::Index>()), 1..200),
            top_down in any::<bool>(),
        ) {
            let order = if top_down { IovaOrder::TopDown } else { IovaOrder::BottomUp };
            let mut allocator = IovaAllocator::new(0, 0x3f_ffff, &[], order);
            let all = allocator.free_pages();
            let mut used: Vec<(u64, u64)> = Vec::new();
            for (pages, free, index) in steps {
                if free && !used.is_empty() {
                    let (start, pages) = used.swap_remove(index.index(used.len()));
                    allocator.give_back(DeviceAddr(start), pages);
                } else if let Some(start) = allocator.take(pages) {
                    let end = start.0 + pages * PAGE;
                    prop_assert!(start.0 >= PAGE && end <= 0x40_0000);
                    prop_assert!(used.iter().all(|(s, p)| s + p * PAGE <= start.0 || end <= *s));
                    used.push((start.0, pages));
                }
            }
            let in_use: u64 = used.iter().map(|(_, pages)| pages).sum();
            prop_assert_eq!(allocator.free_pages() + in_use, all);
        }
    }
}
