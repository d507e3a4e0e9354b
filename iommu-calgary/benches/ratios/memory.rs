//! Memory of the kind that tables lie in, for the bare accesses that they are compared with.

use std::ptr::null_mut;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};

/// A mapping that lasts as long as the program.
pub(crate) fn writable(entries: usize) -> &'static mut [u64] {
    let file = memfd_create("bare", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, entries as u64 * 8).unwrap();
    // SAFETY: a new mapping of a file that nobody else knows; it is as long as the slice and never unmapped.
    unsafe {
        let base =
            mmap(null_mut(), entries * 8, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0).unwrap();
        let words = std::slice::from_raw_parts_mut(base.cast::<u64>(), entries);
        words.fill(1);
        words
    }
}

/// Fills with one value, with the widest stores that the table's own fill uses.
pub(crate) fn fill(words: &mut [u64], value: u64) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn wide(words: &mut [u64], value: u64) {
            words.fill(value);
        }
        // SAFETY: the processor has AVX2.
        unsafe { wide(words, value) };
        return;
    }
    words.fill(value);
}
