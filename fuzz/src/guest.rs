//! A guest without a VMM: memory between guard pages, rings written by hand, interrupts that go nowhere.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use calgaryd::memory::GuestRam;
use calgaryd::ring::RingLayout;
use calgaryd::transport::Interrupt;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Bytes of the first region, which starts at guest-physical address 0.
pub const LOW_BYTES: usize = 256 << 10;
/// First guest-physical address of the second region; what lies between is no RAM.
pub const HIGH_START: u64 = 1 << 20;
/// Bytes of the second region.
pub const HIGH_BYTES: usize = 64 << 10;

const PAGE: usize = 4096;

/// Guest memory in a memfd, each region between pages that no access survives. It is never unmapped.
pub struct Memory {
    low: *mut u8,
    high: *mut u8,
    ram: Arc<GuestRam>,
}

// SAFETY: the pointers lead to mappings that live as long as the process and are touched by copies and atomics only.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// New memory, all zero.
    ///
    /// # Panics
    /// The system has no memory for it.
    #[must_use]
    pub fn new() -> Self {
        let file = memfd_create("calgary-fuzz", MemfdFlags::CLOEXEC).expect("a memfd");
        ftruncate(&file, (LOW_BYTES + HIGH_BYTES) as u64).expect("memory");
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let map = |bytes: usize, offset: u64| {
            // SAFETY: a new private mapping at an address of the kernel's choice.
            let guarded = unsafe {
                mmap_anonymous(ptr::null_mut(), bytes + 2 * PAGE, ProtFlags::empty(), MapFlags::PRIVATE)
                    .expect("memory")
            };
            let start = guarded.wrapping_byte_add(PAGE);
            // SAFETY: replaces the middle of the mapping made above.
            unsafe { mmap(start, bytes, access, flags, &file, offset).expect("memory").cast::<u8>() }
        };
        let (low, high) = (map(LOW_BYTES, 0), map(HIGH_BYTES, LOW_BYTES as u64));
        let region = |host: *mut u8, bytes: usize, start: u64| {
            // SAFETY: mapped above, readable and writable, for ever.
            let mapping =
                unsafe { MmapRegion::build_raw(host, bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED) };
            GuestRegionMmap::new(mapping.expect("page-aligned"), GuestAddress(start)).expect("below 2^64")
        };
        let regions = vec![region(low, LOW_BYTES, 0), region(high, HIGH_BYTES, HIGH_START)];
        let memory: GuestMemoryMmap<()> = GuestMemoryMmap::from_regions(regions).expect("regions do not overlap");
        Self { low, high, ram: GuestRam::new(&memory) }
    }

    /// The memory as a device gets it.
    #[must_use]
    pub fn ram(&self) -> Arc<GuestRam> {
        Arc::clone(&self.ram)
    }

    /// Copies `bytes` to guest-physical `at` in the first region; what does not fit is cut off.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let at = at.min(LOW_BYTES);
        let len = bytes.len().min(LOW_BYTES - at);
        // SAFETY: inside the first region.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.low.add(at), len) };
    }

    /// Copies `len` bytes out of the first region.
    ///
    /// # Panics
    /// They are not all in it.
    #[must_use]
    pub fn read(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at <= LOW_BYTES && len <= LOW_BYTES - at);
        let mut bytes = vec![0; len];
        // SAFETY: inside the first region.
        unsafe { ptr::copy_nonoverlapping(self.low.add(at), bytes.as_mut_ptr(), len) };
        bytes
    }

    /// Sets all of the first region to zero.
    pub fn clear_low(&self) {
        // SAFETY: the whole first region.
        unsafe { ptr::write_bytes(self.low, 0, LOW_BYTES) };
    }

    /// Sets all of the second region to `value`.
    pub fn fill_high(&self, value: u8) {
        // SAFETY: the whole second region.
        unsafe { ptr::write_bytes(self.high, value, HIGH_BYTES) };
    }

    /// Whether all of the second region is `value`.
    #[must_use]
    pub fn high_is(&self, value: u8) -> bool {
        let mut bytes = vec![0; HIGH_BYTES];
        // SAFETY: the whole second region.
        unsafe { ptr::copy_nonoverlapping(self.high, bytes.as_mut_ptr(), HIGH_BYTES) };
        bytes.iter().all(|&byte| byte == value)
    }

    /// Stores a little-endian number at an even address of the first region; other addresses are wrapped into it.
    pub fn store_u16(&self, at: usize, value: u16) {
        let at = (at & !1) % LOW_BYTES;
        // SAFETY: aligned, inside the first region.
        let word = unsafe { AtomicU16::from_ptr(self.low.add(at).cast()) };
        word.store(value.to_le(), Ordering::Release);
    }
}

/// An interrupt that nobody hears.
pub struct Silence;

impl Interrupt for Silence {
    fn signal(&self) {}
}

/// Descriptor flags (virtio 1.2 §2.7.5).
pub const NEXT: u16 = 1;
/// The device writes.
pub const WRITE: u16 = 2;
/// The descriptor is a table.
pub const INDIRECT: u16 = 4;

/// The 16 bytes of a descriptor.
#[must_use]
pub fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

/// A ring of 256 entries on three pages from `page` on.
#[must_use]
pub fn ring_at(page: u64, event_idx: bool) -> RingLayout {
    let base = page * PAGE as u64;
    RingLayout { descriptors: base, avail: base + 0x1000, used: base + 0x2000, size: 256, event_idx }
}
