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
    #[inline]
    pub(crate) fn word(&self, word: usize) -> u64 {
        self.words[word]
    }

    #[inline]
    pub(crate) fn contains(&self, page: usize) -> bool {
        self.words[page / WORD_BITS] & bit(page) != 0
    }

    #[inline]
    pub(crate) fn insert(&mut self, page: usize) {
        self.words[page / WORD_BITS] |= bit(page);
    }

    /// Whether any page of the range is in the set.
    #[inline]
    pub(crate) fn intersects(&self, first: usize, last: usize) -> bool {
        if let Some((word, mask)) = in_one_word(first, last) {
            return self.words[word] & mask != 0;
        }
        self.intersects_words(first, last)
    }

    #[cold]
    fn intersects_words(&self, first: usize, last: usize) -> bool {
        masks(first, last).any(|(word, mask)| self.words[word] & mask != 0)
    }

    #[inline]
    pub(crate) fn insert_range(&mut self, first: usize, last: usize) {
        if let Some((word, mask)) = in_one_word(first, last) {
            self.insert_mask(word, mask);
        } else {
            self.insert_words(first, last);
        }
    }

    #[cold]
    fn insert_words(&mut self, first: usize, last: usize) {
        for (word, mask) in masks(first, last) {
            self.words[word] |= mask;
        }
    }

    /// Adds pages of one word.
    #[inline]
    pub(crate) fn insert_mask(&mut self, word: usize, mask: u64) {
        self.words[word] |= mask;
    }

    /// Takes the pages of one word out of the set and says how many there were.
    #[inline]
    pub(crate) fn remove(&mut self, word: usize, mask: u64) -> u32 {
        let removed = self.words[word] & mask;
        self.words[word] &= !mask;
        // Mostly one, and counting is slow on processors that are not known to have an instruction for it.
        if removed.is_power_of_two() { 1 } else { removed.count_ones() }
    }
}

#[inline]
fn bit(page: usize) -> u64 {
    1 << (page % WORD_BITS)
}

/// The word that holds the whole page range, with a mask of its pages; `None` if there is none. Most ranges are short.
#[inline]
pub(crate) fn in_one_word(first: usize, last: usize) -> Option<(usize, u64)> {
    let (word, pages) = (first / WORD_BITS, last.wrapping_sub(first));
    let fits = first % WORD_BITS + pages.min(WORD_BITS) < WORD_BITS;
    fits.then(|| (word, u64::MAX >> (WORD_BITS - 1 - pages) << (first % WORD_BITS)))
}

/// The words that the inclusive page range touches, each with a mask of the pages inside it. Nothing if `last` is below the
/// word of `first`.
#[inline]
pub(crate) fn masks(first: usize, last: usize) -> Masks {
    let tail = u64::MAX >> (WORD_BITS - 1 - last % WORD_BITS);
    Masks { word: first / WORD_BITS, last_word: last / WORD_BITS, mask: u64::MAX << (first % WORD_BITS), tail }
}

/// See [`masks`].
#[derive(Clone, Debug)]
pub(crate) struct Masks {
    word: usize,
    last_word: usize,
    /// Of the word to come, but for what the end of the range cuts off.
    mask: u64,
    /// What the end leaves of the last word.
    tail: u64,
}

impl Iterator for Masks {
    type Item = (usize, u64);

    #[inline]
    fn next(&mut self) -> Option<(usize, u64)> {
        let word = self.word;
        if word > self.last_word {
            return None;
        }
        let mask = if word == self.last_word { self.mask & self.tail } else { self.mask };
        (self.word, self.mask) = (word + 1, u64::MAX);
        Some((word, mask))
    }
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
                let all: Vec<_> = masks(first, last).collect();
                assert_eq!(in_one_word(first, last), (all.len() == 1).then(|| all[0]));
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
