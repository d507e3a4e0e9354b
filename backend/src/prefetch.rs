//! Hints to the processor.
//!
//! What a guest has just written lies in another processor's cache. A batch of requests fetches the lines of all of them
//! at once instead of waiting for one after the other.

/// Starts to fetch the cache line at `address` for reading. Any address is allowed; nothing is read from it.
#[inline]
pub(crate) fn prefetch_read(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults and has no architectural effect; SSE is part of x86_64.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Starts to fetch the cache line at `address` for writing: it leaves the other processor's cache.
#[inline]
pub(crate) fn prefetch_write(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // The compiler makes a fetch for reading of `_MM_HINT_ET0` unless it builds for processors that are known to have this
    // instruction.
    // SAFETY: as in `prefetch_read`; 64-bit processors without the instruction treat it as a no-op.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

/// An address that is likely to be read again; it gives no access.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hint(usize);

impl Hint {
    #[inline]
    pub(crate) fn at(host: *const u8) -> Self {
        Self(host.addr())
    }

    /// The address so many bytes further on.
    #[inline]
    pub(crate) fn beyond(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Starts to fetch its cache line for reading, whatever is there by now.
    #[inline]
    pub(crate) fn fetch(self) {
        prefetch_read(std::ptr::without_provenance(self.0));
    }

    /// The same for writing.
    #[inline]
    pub(crate) fn fetch_to_write(self) {
        prefetch_write(std::ptr::without_provenance(self.0));
    }
}
