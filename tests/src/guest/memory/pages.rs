//! Which guest pages are free.

use std::collections::BTreeMap;

use crate::guest::address::{GuestPhys, PAGE};

/// One page in this many is kept for contiguous runs.
const RUN_SHARE: u64 = 4;

/// No page, or no run of pages long enough, is free: give the guest more memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest memory is used up: no {pages} free contiguous page(s); give the guest more memory")]
pub struct PagesExhausted {
    /// The length of the run that was asked for, in pages.
    pub pages: u64,
}

/// The free pages of a guest.
///
/// Single pages come out in a fixed but scrambled order, since that is how a Linux guest's page
/// cache looks after a while: a device that takes neighbours in a request for neighbours in memory
/// is then found out. Contiguous runs come from the bottom of the first region, lowest first.
#[derive(Debug)]
pub struct PagePool {
    singles: Vec<u64>,
    runs: BTreeMap<u64, u64>,
    run_end: u64,
}

impl PagePool {
    /// A pool of all the pages of `regions`, given as (first address, bytes).
    #[must_use]
    pub fn new(regions: &[(GuestPhys, u64)]) -> Self {
        let mut runs = BTreeMap::new();
        let mut singles = Vec::new();
        let mut run_end = 0;
        for (index, (base, bytes)) in regions.iter().enumerate() {
            let mut first = base.0;
            let end = base.0 + bytes;
            if index == 0 {
                let run_pages = (bytes / PAGE / RUN_SHARE).max(1);
                // Page 0 stays out of use, as on a PC: a zeroed address must never be a good one.
                let run_first = if first == 0 { PAGE } else { first };
                first = (first + run_pages * PAGE).max(run_first).min(end);
                if first > run_first {
                    runs.insert(run_first, (first - run_first) / PAGE);
                }
                run_end = first;
            }
            singles.extend((first..end).step_by(4096));
        }
        scramble(&mut singles);
        Self { singles, runs, run_end }
    }

    /// Take one page.
    ///
    /// # Errors
    /// [`PagesExhausted`] when none is left.
    pub fn take(&mut self) -> Result<GuestPhys, PagesExhausted> {
        self.singles.pop().map(GuestPhys).map_or_else(|| self.take_run(1), Ok)
    }

    /// Take `pages` contiguous pages (at least one).
    ///
    /// # Errors
    /// [`PagesExhausted`] when no free run is long enough.
    pub fn take_run(&mut self, pages: u64) -> Result<GuestPhys, PagesExhausted> {
        let pages = pages.max(1);
        let (first, free) = self
            .runs
            .iter()
            .find(|(_, free)| **free >= pages)
            .map(|(first, free)| (*first, *free))
            .ok_or(PagesExhausted { pages })?;
        self.runs.remove(&first);
        if free > pages {
            self.runs.insert(first + pages * PAGE, free - pages);
        }
        Ok(GuestPhys(first))
    }

    /// Give back `pages` pages from `first` on, taken together.
    pub fn give_back(&mut self, first: GuestPhys, pages: u64) {
        if first.0 >= self.run_end {
            self.singles.extend((0..pages).map(|page| first.0 + page * PAGE));
            return;
        }
        let (mut start, mut length) = (first.0, pages.max(1));
        if let Some((below, below_pages)) = self.runs.range(..start).next_back()
            && below + below_pages * PAGE == start
        {
            (start, length) = (*below, below_pages + length);
            self.runs.remove(&start);
        }
        if let Some(above) = self.runs.remove(&(start + length * PAGE)) {
            length += above;
        }
        self.runs.insert(start, length);
    }

    /// Free pages, single and in runs.
    #[must_use]
    pub fn free_pages(&self) -> u64 {
        self.singles.len() as u64 + self.runs.values().sum::<u64>()
    }
}

/// A Fisher-Yates shuffle with a fixed xorshift sequence: the same order in every run.
fn scramble(pages: &mut [u64]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..pages.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let other = state % (last as u64 + 1);
        if let Ok(other) = usize::try_from(other) {
            pages.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_but_the_first_is_handed_out_once() {
        let mut pool = PagePool::new(&[(GuestPhys(0), 32 * PAGE), (GuestPhys(0x10_0000), 16 * PAGE)]);
        assert_eq!(pool.free_pages(), 47);
        let mut seen = std::collections::BTreeSet::new();
        while let Ok(page) = pool.take() {
            assert!(seen.insert(page.0));
            assert_ne!(page.0, 0);
        }
        assert_eq!(seen.len(), 47);
    }

    #[test]
    fn runs_merge_when_given_back() {
        let mut pool = PagePool::new(&[(GuestPhys(0), 64 * PAGE)]);
        let a = pool.take_run(4).unwrap();
        let b = pool.take_run(4).unwrap();
        let c = pool.take_run(7).unwrap();
        assert!(pool.take_run(1).is_err());
        pool.give_back(a, 4);
        pool.give_back(c, 7);
        pool.give_back(b, 4);
        assert_eq!(pool.take_run(15).unwrap(), a);
    }

    #[test]
    fn single_pages_are_not_in_address_order() {
        let mut pool = PagePool::new(&[(GuestPhys(0), 1024 * PAGE)]);
        let pages: Vec<_> = (0..64).map(|_| pool.take().unwrap().0).collect();
        let neighbours = pages.windows(2).filter(|w| w[0].abs_diff(w[1]) == PAGE);
        assert!(neighbours.count() < 8);
    }
}
