//! Ranges of IOVAs and short lists of them.

use crate::addr::Iova;

/// A non-empty range of IOVAs, inclusive at both ends so that it can reach the last 64-bit address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IovaRange {
    first: u64,
    last: u64,
}

impl IovaRange {
    /// `None` if `last` is below `first`.
    #[inline]
    pub(crate) fn new(first: Iova, last: Iova) -> Option<Self> {
        (first <= last).then_some(Self { first: first.0, last: last.0 })
    }

    #[inline]
    pub(crate) fn first(self) -> Iova {
        Iova(self.first)
    }

    #[inline]
    pub(crate) fn last(self) -> Iova {
        Iova(self.last)
    }

    #[inline]
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Whether the two ranges together are one range.
    #[inline]
    pub(crate) fn joins(self, other: Self) -> bool {
        self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1)
    }

    #[inline]
    pub(crate) fn hull(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }
}

/// A set of IOVAs that never takes more than a fixed number of ranges: when it would, it widens to its hull. So it may
/// hold more addresses than were put in, never fewer.
#[derive(Debug)]
pub(crate) struct RangeList {
    ranges: Vec<IovaRange>,
    hull: Option<IovaRange>,
    limit: usize,
}

impl RangeList {
    /// An empty list of at most `limit` ranges.
    pub(crate) fn new(limit: usize) -> Self {
        Self { ranges: Vec::new(), hull: None, limit }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.hull.is_none()
    }

    #[inline]
    pub(crate) fn insert(&mut self, range: IovaRange) {
        let hull = self.hull.map_or(range, |hull| hull.hull(range));
        self.hull = Some(hull);
        // Neighbours arrive one after the other, upwards or downwards, so looking at the newest range finds them.
        if let Some(newest) = self.ranges.last_mut()
            && newest.joins(range)
        {
            *newest = newest.hull(range);
        } else if self.ranges.len() < self.limit {
            self.ranges.push(range);
        } else {
            self.ranges.clear();
            self.ranges.push(hull);
        }
    }

    /// Empties the list and keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
        self.hull = None;
    }

    pub(crate) fn overlaps(&self, range: IovaRange) -> bool {
        self.hull.is_some_and(|hull| hull.overlaps(range)) && self.ranges.iter().any(|own| own.overlaps(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> IovaRange {
        IovaRange::new(Iova(first), Iova(last)).unwrap()
    }

    #[test]
    fn neighbours_merge_in_both_directions() {
        let mut list = RangeList::new(8);
        list.insert(range(0x3000, 0x3fff));
        list.insert(range(0x4000, 0x4fff));
        list.insert(range(0x2000, 0x2fff));
        assert_eq!(list.ranges, [range(0x2000, 0x4fff)]);
        list.insert(range(u64::MAX - 1, u64::MAX));
        list.insert(range(0, u64::MAX));
        assert_eq!(list.ranges.len(), 2);
    }

    #[test]
    fn a_full_list_widens_and_loses_nothing() {
        let mut list = RangeList::new(4);
        for page in 0..100 {
            list.insert(range(page * 0x10_000, page * 0x10_000 + 0xfff));
            assert!(list.ranges.len() <= 4);
        }
        for page in 0..100 {
            assert!(list.overlaps(range(page * 0x10_000, page * 0x10_000)));
        }
        assert!(!list.overlaps(range(0x64_0000, u64::MAX)));
    }

    #[test]
    fn overlapping_needs_a_common_address() {
        let mut list = RangeList::new(4);
        list.insert(range(0x1000, 0x1fff));
        list.insert(range(0x9000, 0x9fff));
        assert!(!list.overlaps(range(0x2000, 0x8fff)));
        assert!(list.overlaps(range(0x9fff, 0x9fff)));
        list.clear();
        assert!(list.is_empty() && !list.overlaps(range(0, u64::MAX)));
    }
}
