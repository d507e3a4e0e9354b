//! Timing several things in turns.

use std::time::Instant;

const ROUNDS: usize = 60;

/// Runs each part `ROUNDS` times, in turns, and returns the nanoseconds per operation of each in its best round: other
/// programs on the machine only ever add time. A part returns how many operations it did.
pub(crate) fn best_of<const N: usize>(mut parts: [&mut dyn FnMut() -> u64; N]) -> [f64; N] {
    let mut best = [f64::MAX; N];
    for _ in 0..ROUNDS {
        for (part, best) in parts.iter_mut().zip(&mut best) {
            let start = Instant::now();
            let operations = part();
            *best = best.min(start.elapsed().as_nanos() as f64 / operations as f64);
        }
    }
    best
}

/// A small generator.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % sides
    }

    /// Every number below `count` once, in random order.
    pub(crate) fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            numbers.swap(last, self.below(last + 1));
        }
        numbers
    }
}
