//! One bit per page, worked on 64 pages at a time.

/// A fixed-size set of page indexes.
///
/// Ranges are inclusive at both ends. An index or range beyond the size panics, so callers clamp to the window first.
#[derive(Debug)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
}

const WORD_BITS: usize = u64::BITS as usize;

impl Bitmap {
    /// An empty set for `pages` indexes, which must be a multiple of 64.
    pub(crate) fn new(pages: usize) -> Self {
        debug_assert!(pages.is_multiple_of(WORD_BITS));
        Self { words: vec![0; pages / WORD_BITS] }
    }

    /// The word that holds the bits of pages `64 * word` and following.
    pub(crate) fn word(&self, word: usize) -> u64 {
        self.words[word]
    }

    pub(crate) fn contains(&self, page: usize) -> bool {
        self.words[page / WORD_BITS] & bit(page) != 0
    }

    pub(crate) fn insert(&mut self, page: usize) {
        self.words[page / WORD_BITS] |= bit(page);
    }

    /// Whether any page of the range is in the set.
    pub(crate) fn intersects(&self, first: usize, last: usize) -> bool {
        masks(first, last).any(|(word, mask)| self.words[word] & mask != 0)
    }

    pub(crate) fn insert_range(&mut self, first: usize, last: usize) {
        for (word, mask) in masks(first, last) {
            self.words[word] |= mask;
        }
    }

    /// Adds pages of one word.
    pub(crate) fn insert_mask(&mut self, word: usize, mask: u64) {
        self.words[word] |= mask;
    }

    /// Takes the pages of one word out of the set and says how many there were.
    pub(crate) fn remove(&mut self, word: usize, mask: u64) -> u32 {
        let removed = self.words[word] & mask;
        self.words[word] &= !mask;
        removed.count_ones()
    }
}

fn bit(page: usize) -> u64 {
    1 << (page % WORD_BITS)
}

/// The words that the inclusive page range touches, each with a mask of the pages inside it.
pub(crate) fn masks(first: usize, last: usize) -> impl Iterator<Item = (usize, u64)> {
    let (first_word, last_word) = (first / WORD_BITS, last / WORD_BITS);
    (first_word..=last_word).map(move |word| {
        let mut mask = u64::MAX;
        if word == first_word {
            mask &= u64::MAX << (first % WORD_BITS);
        }
        if word == last_word {
            mask &= u64::MAX >> (WORD_BITS - 1 - last % WORD_BITS);
        }
        (word, mask)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGES: usize = 256;

    #[test]
    fn masks_cover_exactly_the_range() {
        for first in 0..PAGES {
            for last in first..PAGES {
                let mut seen = [false; PAGES];
                for (word, mask) in masks(first, last) {
                    for offset in 0..WORD_BITS {
                        if mask & 1 << offset != 0 {
                            seen[word * WORD_BITS + offset] = true;
                        }
                    }
                }
                assert!((0..PAGES).all(|page| seen[page] == (first..=last).contains(&page)));
            }
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_pages(
            ranges in prop::collection::vec((0..PAGES, 0..PAGES, any::<bool>()), 1..20),
            probe in (0..PAGES, 0..PAGES),
        ) {
            let mut bitmap = Bitmap::new(PAGES);
            let mut model = [false; PAGES];
            for (a, b, insert) in ranges {
                let (first, last) = (a.min(b), a.max(b));
                if insert {
                    bitmap.insert_range(first, last);
                } else {
                    let removed: u32 = masks(first, last).map(|(word, mask)| bitmap.remove(word, mask)).sum();
                    let expected = model[first..=last].iter().filter(|&&member| member).count();
                    prop_assert_eq!(removed as usize, expected);
                }
                model[first..=last].fill(insert);
            }
            let (first, last) = (probe.0.min(probe.1), probe.0.max(probe.1));
            prop_assert_eq!(bitmap.intersects(first, last), model[first..=last].contains(&true));
            for (page, &member) in model.iter().enumerate() {
                prop_assert_eq!(bitmap.contains(page), member);
            }
        }
    }
}
