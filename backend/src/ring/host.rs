//! A ring whose memory is one contiguous piece of this process: its words are reached by pointer.
//!
//! This is the hot path of a device outside the IOMMU, and the one place besides `dma` that touches guest memory.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use frontend_spec::virtio::Descriptor;

use super::RingLayout;
use crate::dma::Window;
use crate::prefetch::{prefetch_read, prefetch_write};

/// Host addresses of the three parts of a ring.
///
/// Invariant: each part lies, whole and aligned as virtio asks, in memory that stays mapped while the worker keeps the
/// snapshot it was resolved from; [`super::Ring::forget_host`] is called before the snapshot goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostRing {
    descriptors: *mut u8,
    avail: *mut u8,
    used: *mut u8,
    size: u16,
}

// SAFETY: the pointers are to shared mappings usable from any thread; all accesses are atomic.
unsafe impl Send for HostRing {}

impl HostRing {
    /// Resolves a valid `layout`, or `None` where a part is not one piece of RAM.
    pub(super) fn resolve(window: &Window<'_>, layout: &RingLayout) -> Option<Self> {
        let size = u64::from(layout.size);
        let part = |address, len, align: usize| {
            window.contiguous(address, len).filter(|host| host.addr().is_multiple_of(align))
        };
        Some(Self {
            descriptors: part(layout.descriptors, 16 * size, 16)?,
            avail: part(layout.avail, 6 + 2 * size, 2)?,
            used: part(layout.used, 6 + 8 * size, 4)?,
            size: layout.size,
        })
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// The word of the available ring at byte `offset`, which is even and below `6 + 2 * size`.
    fn avail_word(&self, offset: usize) -> &AtomicU16 {
        debug_assert!(offset.is_multiple_of(2) && offset < 6 + 2 * usize::from(self.size));
        // SAFETY: inside the part and aligned, by the invariant and the caller's offset; atomics suit shared memory.
        unsafe { AtomicU16::from_ptr(self.avail.add(offset).cast()) }
    }

    /// The word of the used ring at byte `offset`, which is even and below `6 + 8 * size`.
    fn used_word(&self, offset: usize) -> &AtomicU16 {
        debug_assert!(offset.is_multiple_of(2) && offset < 6 + 8 * usize::from(self.size));
        // SAFETY: as in `avail_word`.
        unsafe { AtomicU16::from_ptr(self.used.add(offset).cast()) }
    }

    pub(super) fn avail_flags(&self) -> u16 {
        u16::from_le(self.avail_word(0).load(Ordering::Acquire))
    }

    pub(super) fn avail_index(&self) -> u16 {
        u16::from_le(self.avail_word(2).load(Ordering::Acquire))
    }

    pub(super) fn head(&self, index: u16) -> u16 {
        u16::from_le(self.avail_word(4 + 2 * self.slot(index)).load(Ordering::Relaxed))
    }

    pub(super) fn used_event(&self) -> u16 {
        u16::from_le(self.avail_word(4 + 2 * usize::from(self.size)).load(Ordering::Relaxed))
    }

    pub(super) fn set_used_flags(&self, flags: u16) {
        self.used_word(0).store(flags.to_le(), Ordering::Release);
    }

    pub(super) fn set_used_index(&self, index: u16) {
        self.used_word(2).store(index.to_le(), Ordering::Release);
    }

    pub(super) fn set_avail_event(&self, index: u16) {
        self.used_word(4 + 8 * usize::from(self.size)).store(index.to_le(), Ordering::Release);
    }

    pub(super) fn set_used_element(&self, index: u16, head: u16, len: u32) {
        let offset = 4 + 8 * self.slot(index);
        for (offset, value) in [(offset, u32::from(head)), (offset + 4, len)] {
            // SAFETY: `slot` is below the size, so the element lies inside the part; it is aligned to 4.
            let word = unsafe { AtomicU32::from_ptr(self.used.add(offset).cast()) };
            word.store(value.to_le(), Ordering::Relaxed);
        }
    }

    /// Starts to fetch the used element at `index`, to be written.
    pub(super) fn prefetch_used_element(&self, index: u16) {
        prefetch_write(self.used.wrapping_add(4 + 8 * self.slot(index)));
    }

    /// Starts to fetch descriptor `index`.
    pub(super) fn prefetch_descriptor(&self, index: u16) {
        if index < self.size {
            prefetch_read(self.descriptors.wrapping_add(16 * usize::from(index)));
        }
    }

    /// Descriptor `index` of the table, copied once; `None` outside it.
    pub(super) fn descriptor(&self, index: u16) -> Option<Descriptor> {
        if index >= self.size {
            return None;
        }
        let offset = 16 * usize::from(index);
        let half = |offset: usize| {
            // SAFETY: the index was checked, so both halves lie inside the part, which is aligned to 16.
            unsafe { AtomicU64::from_ptr(self.descriptors.add(offset).cast()) }.load(Ordering::Relaxed)
        };
        let (low, high) = (half(offset).to_ne_bytes(), half(offset + 8).to_ne_bytes());
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&low);
        bytes[8..].copy_from_slice(&high);
        Some(zerocopy::transmute!(bytes))
    }
}
