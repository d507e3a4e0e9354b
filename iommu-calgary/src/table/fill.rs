//! Storing runs of entries.
//!
//! Devices may read entries while they are stored, so each must change at one moment. On x86-64 a vector store does that
//! too: processors with AVX store aligned 16 bytes at once (Intel SDM vol. 3 §9.1.1, AMD APM vol. 2 §7.3.2), and 32
//! aligned bytes as two such halves. The Rust abstract machine knows no vector of atomics, so these stores are inline
//! assembly, which it sees as what it does: one atomic store per entry. x86 stores become visible in program order, which
//! gives them release semantics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Tce;
use crate::addr::PAGE_SIZE;

/// Points entries at consecutive real pages, the first being that of `tce`. The last must lie below 2^48.
pub(crate) fn consecutive(entries: &[AtomicU64], tce: Tce) {
    debug_assert!(tce.real().0 + (entries.len() as u64 - 1) * PAGE_SIZE < crate::addr::REAL_LIMIT);
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if entries.len() >= avx2::WORTHWHILE && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        unsafe { avx2::consecutive(entries, tce) };
        return;
    }
    scalar_consecutive(entries, tce);
}

/// Frees entries.
pub(crate) fn free(entries: &[AtomicU64]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if entries.len() >= avx2::WORTHWHILE && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        unsafe { avx2::free(entries) };
        return;
    }
    scalar_free(entries);
}

fn scalar_consecutive(entries: &[AtomicU64], tce: Tce) {
    let mut value = tce.value();
    for entry in entries {
        entry.store(value.to_be(), Ordering::Release);
        // Adding to the page number leaves the permissions alone.
        value = value.wrapping_add(PAGE_SIZE);
    }
}

fn scalar_free(entries: &[AtomicU64]) {
    for entry in entries {
        entry.store(Tce::FREE.to_memory(), Ordering::Release);
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx2 {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi64, _mm256_set_epi8, _mm256_set_epi64x, _mm256_set1_epi64x, _mm256_setzero_si256,
        _mm256_shuffle_epi8,
    };
    use std::sync::atomic::AtomicU64;

    use super::super::Tce;
    use crate::addr::PAGE_SIZE;

    /// Entries of one vector.
    const LANES: usize = 4;
    /// Vectors of one step.
    const STEP: usize = 4;
    /// Shorter runs gain nothing.
    pub(super) const WORTHWHILE: usize = 2 * STEP * LANES;

    #[target_feature(enable = "avx2")]
    pub(super) fn consecutive(entries: &[AtomicU64], tce: Tce) {
        let (head, vectors, tail) = split(entries);
        super::scalar_consecutive(head, tce);
        let page = PAGE_SIZE.cast_signed();
        let first = (tce.value() + Tce::pages(head.len())).cast_signed();
        let mut values = _mm256_set_epi64x(first + 3 * page, first + 2 * page, first + page, first);
        let advance = _mm256_set1_epi64x(Tce::pages(LANES).cast_signed());
        let reverse = _mm256_set_epi8(
            8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7,
        );
        for step in vectors.as_chunks::<STEP>().0 {
            for vector in step {
                store(vector, _mm256_shuffle_epi8(values, reverse));
                values = _mm256_add_epi64(values, advance);
            }
        }
        let done = head.len() + vectors.len() * LANES;
        super::scalar_consecutive(tail, Tce::from_value(tce.value() + Tce::pages(done)));
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn free(entries: &[AtomicU64]) {
        let (head, vectors, tail) = split(entries);
        super::scalar_free(head);
        let zero = _mm256_setzero_si256();
        for step in vectors.as_chunks::<STEP>().0 {
            for vector in step {
                store(vector, zero);
            }
        }
        super::scalar_free(tail);
    }

    /// Whole steps of aligned vectors, and what lies before and after them.
    fn split(entries: &[AtomicU64]) -> (&[AtomicU64], &[[AtomicU64; LANES]], &[AtomicU64]) {
        let misplaced = entries.as_ptr().addr() / size_of::<AtomicU64>() % LANES;
        let (head, rest) = entries.split_at(((LANES - misplaced) % LANES).min(entries.len()));
        let (body, tail) = rest.split_at(rest.len() / (STEP * LANES) * (STEP * LANES));
        (head, body.as_chunks().0, tail)
    }

    /// Four atomic stores in one instruction.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn store(entries: &[AtomicU64; LANES], values: __m256i) {
        // SAFETY: `split` aligned the four entries to 32 bytes; atomics may be written through a shared reference.
        unsafe {
            asm!(
                "vmovdqa [{entries}], {values}",
                entries = in(reg) entries.as_ptr(),
                values = in(ymm_reg) values,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::RealAddr;
    use crate::permissions::Permissions;

    /// Every placement and length around the vector width, in a field of entries that must stay as they are.
    #[test]
    fn runs_hold_what_single_stores_would() {
        const UNTOUCHED: u64 = 0x5555_5555_5555_5555;
        let step = if cfg!(miri) { 7 } else { 1 };
        for first in 0..9 {
            for length in (1..100).step_by(step) {
                let entries: Vec<AtomicU64> = (0..128).map(|_| AtomicU64::new(UNTOUCHED)).collect();
                let run = &entries[first..first + length];
                let real = (1 << 48) - length as u64 * PAGE_SIZE;
                consecutive(run, Tce::new(RealAddr(real), Permissions::READ_WRITE));
                for (index, entry) in (0..).zip(run) {
                    let expected = (real + index * PAGE_SIZE) | 3;
                    assert_eq!(entry.load(Ordering::Relaxed).to_ne_bytes(), expected.to_be_bytes());
                }
                free(run);
                for (index, entry) in entries.iter().enumerate() {
                    let expected = if (first..first + length).contains(&index) { 0 } else { UNTOUCHED };
                    assert_eq!(entry.load(Ordering::Relaxed), expected);
                }
            }
        }
    }
}
