//! The locked ranges of one owner, kept beside the kernel's own list: the kernel neither counts them nor names their
//! owner.

use std::collections::BTreeMap;

use crate::fs::LockRange;
use crate::wire::LockType;

/// Disjoint ranges, by their start; neighbours of one kind are merged, as the kernel does.
#[derive(Debug, Default)]
pub(super) struct RangeSet(BTreeMap<u64, (u64, LockType)>);

impl RangeSet {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether any byte of `range` is locked.
    pub(super) fn overlaps(&self, range: LockRange) -> bool {
        self.touching(range.start, range.end).any(|(start, end, _)| start < range.end && end > range.start)
    }

    /// Whether letting go of `range` leaves one range more.
    pub(super) fn is_split_by(&self, range: LockRange) -> bool {
        self.0.range(..range.start).next_back().is_some_and(|(_, (end, _))| *end > range.end)
    }

    /// The ranges that overlap `start..end` or border on it.
    fn touching(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, LockType)> + '_ {
        let before = self.0.range(..start).next_back();
        before
            .into_iter()
            .chain(self.0.range(start..=end))
            .map(|(start, (end, kind))| (*start, *end, *kind))
            .filter(move |(_, its_end, _)| *its_end >= start)
    }

    /// Makes `range` a lock of `kind`, or free with `UNLOCK`.
    pub(super) fn set(&mut self, range: LockRange, kind: LockType) {
        let near: Vec<_> = self.touching(range.start, range.end).collect();
        let mut merged = range;
        for (start, end, held) in near {
            self.0.remove(&start);
            if held == kind {
                merged.start = merged.start.min(start);
                merged.end = merged.end.max(end);
                continue;
            }
            if start < range.start {
                self.0.insert(start, (end.min(range.start), held));
            }
            if end > range.end {
                self.0.insert(start.max(range.end), (end, held));
            }
        }
        if kind != LockType::UNLOCK {
            self.0.insert(merged.start, (merged.end, kind));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_behave_like_single_bytes(
            steps in proptest::collection::vec((0_u64..40, 1_u64..20, 0_u8..3), 1..60)
        ) {
            let mut set = RangeSet::default();
            let mut bytes = [LockType::UNLOCK; 64];
            for (start, len, kind) in steps {
                let kind = LockType(kind);
                let range = LockRange { start, end: start + len };
                let (before, splits) = (set.len(), set.is_split_by(range));
                set.set(range, kind);
                prop_assert!(kind != LockType::UNLOCK || (set.len() > before) == splits);
                for at in start..start + len {
                    bytes[usize::try_from(at).unwrap()] = kind;
                }
                let mut seen = [LockType::UNLOCK; 64];
                let mut last: Option<(u64, LockType)> = None;
                for (start, (end, kind)) in &set.0 {
                    prop_assert!(start < end);
                    if let Some((before, held)) = last {
                        prop_assert!(before < *start || (before == *start && held != *kind));
                    }
                    last = Some((*end, *kind));
                    for at in *start..*end {
                        seen[usize::try_from(at).unwrap()] = *kind;
                    }
                }
                prop_assert_eq!(seen, bytes);
                for at in 0..63_u64 {
                    let held = bytes[usize::try_from(at).unwrap()];
                    let range = LockRange { start: at, end: at + 1 };
                    prop_assert_eq!(set.overlaps(range), held != LockType::UNLOCK);
                }
            }
        }
    }
}
