//! Shared mappings of files, and what only the processor can do with them.

use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::chip::LINE_BYTES;

/// A part of a file in this process's memory, shared with whoever else maps it: a device, for one.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory is the mapping's own until drop. It is accessed with volatile and atomic accesses only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(super) fn new(file: impl AsFd, offset: u64, bytes: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory in use.
        let base = unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, file, offset)? };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { base, bytes })
    }

    pub(super) fn address(&self) -> usize {
        self.base.addr().get()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// One access of 32 bits, bytes as they lie in memory. The offset is a multiple of 4.
    pub(super) fn read_u32(&self, offset: u32) -> u32 {
        // SAFETY: `place` gives a pointer to 4 aligned bytes inside the mapping.
        unsafe { self.place::<u32>(offset).read_volatile() }
    }

    pub(super) fn write_u32(&mut self, offset: u32, value: u32) {
        // SAFETY: as in `read_u32`.
        unsafe { self.place::<u32>(offset).write_volatile(value) };
    }

    /// One access of 64 bits, bytes as they lie in memory. The offset is a multiple of 8.
    pub(super) fn read_u64(&self, offset: u32) -> u64 {
        // SAFETY: `place` gives a pointer to 8 aligned bytes inside the mapping.
        unsafe { self.place::<u64>(offset).read_volatile() }
    }

    pub(super) fn write_u64(&mut self, offset: u32, value: u64) {
        // SAFETY: as in `read_u64`.
        unsafe { self.place::<u64>(offset).write_volatile(value) };
    }

    /// `count` words from the byte at `offset` on, a multiple of 8.
    pub(super) fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(8) && offset <= self.bytes && count <= (self.bytes - offset) / 8);
        // SAFETY: inside the mapping by the assertion, aligned, and accessed as atomics only.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset).cast(), count) }
    }

    fn place<T>(&self, offset: u32) -> *mut T {
        let offset = offset as usize;
        assert!(offset.is_multiple_of(size_of::<T>()) && offset + size_of::<T>() <= self.bytes);
        self.base.as_ptr().wrapping_add(offset).cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing borrowed from the mapping outlives it.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Writes the cache line of an entry back to memory, for a device that does not look into caches.
pub(super) fn flush_line(entry: &AtomicU64) {
    debug_assert!(entry.as_ptr().addr().is_multiple_of(LINE_BYTES));
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has CLFLUSH, and it changes nothing that a program sees.
    unsafe {
        std::arch::x86_64::_mm_clflush(entry.as_ptr().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = entry;
}

/// Waits until the flushes before are done.
pub(super) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has MFENCE.
    unsafe {
        std::arch::x86_64::_mm_mfence();
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}
