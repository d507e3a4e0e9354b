//! Guest RAM as the front end announced it: one immutable snapshot per memory table.
//!
//! Other parties (the guest, the VMM, other devices) write this memory at any moment, so nothing here ever makes a
//! reference to it: the only ways in are raw pointers, byte copies and atomics on single words.

mod bus_error;

use std::fmt;
use std::sync::Arc;

use iommu_calgary::Access;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion};

use self::bus_error::Guard;

const _: () = assert!(size_of::<usize>() == size_of::<u64>(), "addresses are taken for sizes: 64-bit hosts only");

/// A length as the host counts it; exact, since the host is a 64-bit one.
#[expect(clippy::cast_possible_truncation, reason = "usize is 64 bits wide, checked above")]
pub(crate) const fn host_len(len: u64) -> usize {
    len as usize
}

/// A mapping of guest memory. The front end may shorten the file behind it: what is gone reads as zeros.
pub struct Mapping {
    // Before the mapping: it must not outlive it.
    _guard: Guard,
    memory: Arc<MmapRegion>,
}

impl Mapping {
    /// Takes a mapping over; `None` if there are too many.
    #[must_use]
    pub fn new(memory: Arc<MmapRegion>) -> Option<Arc<Self>> {
        let guard = Guard::new(memory.as_ptr(), memory.size())?;
        Some(Arc::new(Self { _guard: guard, memory }))
    }
}

/// One run of guest-physical addresses backed by shared memory of this process.
struct Region {
    gpa: u64,
    len: u64,
    host: *mut u8,
    writable: bool,
    _owner: Arc<Mapping>,
}

/// A snapshot of guest RAM. Pointers handed out by [`GuestRam::resolve`] stay mapped as long as the snapshot lives.
pub struct GuestRam {
    regions: Vec<Region>,
}

// SAFETY: the pointers are to shared mappings that `_owner` keeps alive; they are only dereferenced through the copy
// functions and atomics of `dma`, which suit memory that others write at the same time.
unsafe impl Send for GuestRam {}
// SAFETY: as above; the snapshot itself is immutable.
unsafe impl Sync for GuestRam {}

impl GuestRam {
    /// No memory at all: every access fails. The state before the first memory table.
    #[must_use]
    pub fn empty() -> Arc<Self> {
        Arc::new(Self { regions: Vec::new() })
    }

    /// Takes a snapshot of `memory`, sorted by guest-physical address. Beyond some thousand mappings in the process, the
    /// rest is left out.
    #[must_use]
    pub fn new(memory: &GuestMemoryMmap) -> Arc<Self> {
        let mut regions: Vec<Region> = memory
            .iter()
            .filter_map(|region| {
                let mapping = Mapping::new(region.get_mmap())?;
                let (gpa, len, host) = (region.start_addr().0, region.len(), mapping.memory.as_ptr());
                Some(Region { gpa, len, host, writable: true, _owner: mapping })
            })
            .collect();
        regions.sort_by_key(|region| region.gpa);
        Arc::new(Self { regions })
    }

    /// A snapshot of `sections`, given in ascending order: guest-physical address, memory, and whether it may be written.
    #[must_use]
    pub fn from_sections(sections: impl Iterator<Item = (u64, Arc<Mapping>, bool)>) -> Arc<Self> {
        let region = |(gpa, mapping, writable): (u64, Arc<Mapping>, bool)| {
            let (len, host) = (mapping.memory.size() as u64, mapping.memory.as_ptr());
            Region { gpa, len, host, writable, _owner: mapping }
        };
        Arc::new(Self { regions: sections.map(region).collect() })
    }

    /// The host address of guest-physical `gpa`, and how many bytes (at most `len`) lie contiguously behind it;
    /// `None` if `gpa` is not RAM that allows `access`. `len` must not be 0.
    #[inline]
    #[must_use]
    pub fn resolve(&self, gpa: u64, len: u64, access: Access) -> Option<(*mut u8, u64)> {
        for region in &self.regions {
            let offset = gpa.wrapping_sub(region.gpa);
            if offset < region.len {
                if access == Access::Write && !region.writable {
                    return None;
                }
                // SAFETY: `offset` is below the region's length, so the result stays inside one mapping.
                let host = unsafe { region.host.add(host_len(offset)) };
                return Some((host, len.min(region.len - offset)));
            }
        }
        None
    }

    /// The parts of `[0, end)` that are not RAM, as half-open ranges in ascending order.
    #[must_use]
    pub fn holes_below(&self, end: u64) -> Vec<(u64, u64)> {
        let mut holes = Vec::new();
        let mut next = 0;
        for region in &self.regions {
            if region.gpa >= end {
                break;
            }
            if region.gpa > next {
                holes.push((next, region.gpa));
            }
            next = next.max(region.gpa + region.len);
        }
        if next < end {
            holes.push((next, end));
        }
        holes
    }

    /// Bytes of RAM in all regions.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.regions.iter().map(|region| region.len).sum()
    }
}

impl fmt::Debug for GuestRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.regions.iter().map(|region| format!("{:#x}+{:#x}", region.gpa, region.len)))
            .finish()
    }
}
