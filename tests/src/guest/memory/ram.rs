//! The mapping of guest RAM, and every access to it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::pages::{PagePool, PagesExhausted};
use crate::guest::address::{GuestPhys, PAGE, PAGE_BYTES};

/// A piece of guest RAM as the VMM announces it to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRegion {
    /// First guest-physical address; a multiple of 4096.
    pub base: GuestPhys,
    /// Length in bytes; a multiple of 4096, not 0.
    pub bytes: u64,
    /// Where the region starts in the file, in bytes; a multiple of 4096.
    pub file_offset: u64,
}

impl RamRegion {
    /// The first address past the region.
    fn end(&self) -> u64 {
        self.base.0 + self.bytes
    }
}

/// What can be wrong with a piece of guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The address range is not, or not wholly, in one region.
    #[error("{bytes} bytes at {gpa:#x} are not in one region of guest memory")]
    OutsideRam {
        /// First address of the access.
        gpa: GuestPhys,
        /// Its length in bytes.
        bytes: usize,
    },
    /// A ring index must be at an even address.
    #[error("{0:#x} is odd: a 16-bit ring index needs an even address")]
    Unaligned(GuestPhys),
    /// The regions overlap, are empty, or are not made of whole pages.
    #[error("region {0:?} is empty, not made of 4 KiB pages, or overlaps another one")]
    BadRegion(RamRegion),
    /// All pages are in use.
    #[error(transparent)]
    Exhausted(#[from] PagesExhausted),
    /// The system refused the memory.
    #[error("cannot {what} guest memory: {source}; lower the guest's memory size")]
    Os {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// Guest RAM: a file mapped shared, the regions it is announced as, and a pool of its free pages.
///
/// The device writes to this memory at any time, so no Rust reference into it ever exists: all
/// access copies, or is one atomic load or store.
#[derive(Debug)]
pub struct GuestMemory {
    file: File,
    host: NonNull<u8>,
    mapped: usize,
    regions: Vec<RamRegion>,
    pages: Mutex<PagePool>,
}

// SAFETY: `host` points to a mapping owned by this value alone; it is only read and written by raw
// copies and atomics, which need no exclusive access.
unsafe impl Send for GuestMemory {}
// SAFETY: as above; the pool has its own lock and the other fields never change.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// RAM of `mebibytes` MiB in one region at address 0, in a new memfd.
    ///
    /// # Errors
    /// [`MemoryError::Os`] when the system has no memory for it.
    pub fn new(mebibytes: u64) -> Result<Self, MemoryError> {
        Self::with_regions(&[(GuestPhys(0), mebibytes << 20)])
    }

    /// RAM in several regions, given as (first address, bytes), one after the other in a new memfd.
    ///
    /// # Errors
    /// [`MemoryError::BadRegion`] for regions that overlap or are not made of whole pages.
    pub fn with_regions(layout: &[(GuestPhys, u64)]) -> Result<Self, MemoryError> {
        let mut regions = Vec::with_capacity(layout.len());
        let mut file_offset = 0_u64;
        for (base, bytes) in layout {
            regions.push(RamRegion { base: *base, bytes: *bytes, file_offset });
            file_offset = file_offset.saturating_add(*bytes);
        }
        let os = |what| move |errno: rustix::io::Errno| MemoryError::Os { what, source: errno.into() };
        let memfd = memfd_create("calgary-guest", MemfdFlags::CLOEXEC).map_err(os("create"))?;
        ftruncate(&memfd, file_offset).map_err(os("size"))?;
        Self::from_file(File::from(memfd), regions)
    }

    /// RAM in a file that somebody else made, such as the memory backend of a QEMU.
    ///
    /// # Errors
    /// [`MemoryError::BadRegion`] for bad regions, [`MemoryError::Os`] when the file cannot be
    /// mapped or is too short.
    pub fn from_file(file: File, regions: Vec<RamRegion>) -> Result<Self, MemoryError> {
        for (index, region) in regions.iter().enumerate() {
            let whole = region.bytes != 0
                && [region.base.0, region.bytes, region.file_offset].iter().all(|number| number % PAGE == 0)
                && region.base.0.checked_add(region.bytes).is_some();
            let apart = whole
                && regions[..index].iter().all(|other| other.end() <= region.base.0 || region.end() <= other.base.0);
            if !apart {
                return Err(MemoryError::BadRegion(*region));
            }
        }
        let os = |what| move |source| MemoryError::Os { what, source };
        let end = regions.iter().filter_map(|region| region.file_offset.checked_add(region.bytes)).max().unwrap_or(0);
        if file.metadata().map_err(os("measure"))?.len() < end {
            let source = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(os("map")(source));
        }
        let mapped = usize::try_from(end).unwrap_or(usize::MAX);
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing, and the
        // file is long enough, so no access inside `mapped` bytes can fault.
        let address = unsafe {
            mmap(std::ptr::null_mut(), mapped, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)
        }
        .map_err(|errno| os("map")(errno.into()))?;
        let Some(host) = NonNull::new(address.cast::<u8>()) else {
            return Err(os("map")(io::Error::from(io::ErrorKind::OutOfMemory)));
        };
        let layout: Vec<_> = regions.iter().map(|r| (r.base, r.bytes)).collect();
        Ok(Self { file, host, mapped, regions, pages: Mutex::new(PagePool::new(&layout)) })
    }

    /// The regions, in the order they were given.
    #[must_use]
    pub fn regions(&self) -> &[RamRegion] {
        &self.regions
    }

    /// The file behind the memory.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where `region` is mapped in this process.
    #[must_use]
    pub fn region_host_address(&self, region: &RamRegion) -> u64 {
        self.host.as_ptr().addr() as u64 + region.file_offset
    }

    /// Where `bytes` bytes at `gpa` are mapped in this process: what a VMM puts into
    /// `VHOST_USER_SET_VRING_ADDR`.
    ///
    /// # Errors
    /// [`MemoryError::OutsideRam`].
    pub fn host_address(&self, gpa: GuestPhys, bytes: usize) -> Result<u64, MemoryError> {
        Ok(self.locate(gpa, bytes)?.addr() as u64)
    }

    /// Copy guest memory at `gpa` into `buffer`.
    ///
    /// # Errors
    /// [`MemoryError::OutsideRam`].
    pub fn read(&self, gpa: GuestPhys, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let from = self.locate(gpa, buffer.len())?;
        // SAFETY: `locate` proved the source inside the mapping; `buffer` is ordinary memory of
        // this process, so the two do not overlap. Bytes that the device changes meanwhile come
        // out old or new, and any byte is a valid u8.
        unsafe { std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), buffer.len()) };
        Ok(())
    }

    /// Copy `bytes` bytes of guest memory at `gpa`.
    ///
    /// # Errors
    /// [`MemoryError::OutsideRam`].
    pub fn read_vec(&self, gpa: GuestPhys, bytes: usize) -> Result<Vec<u8>, MemoryError> {
        let mut buffer = vec![0; bytes];
        self.read(gpa, &mut buffer)?;
        Ok(buffer)
    }

    /// Copy `buffer` into guest memory at `gpa`.
    ///
    /// # Errors
    /// [`MemoryError::OutsideRam`].
    pub fn write(&self, gpa: GuestPhys, buffer: &[u8]) -> Result<(), MemoryError> {
        let to = self.locate(gpa, buffer.len())?;
        // SAFETY: `locate` proved the destination inside the mapping; `buffer` is ordinary memory
        // of this process, so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(buffer.as_ptr(), to, buffer.len()) };
        Ok(())
    }

    /// Set `bytes` bytes at `gpa` to `value`.
    ///
    /// # Errors
    /// [`MemoryError::OutsideRam`].
    pub fn fill(&self, gpa: GuestPhys, value: u8, bytes: usize) -> Result<(), MemoryError> {
        let to = self.locate(gpa, bytes)?;
        // SAFETY: `locate` proved the destination inside the mapping.
        unsafe { std::ptr::write_bytes(to, value, bytes) };
        Ok(())
    }

    /// Load a little-endian 16-bit ring field.
    ///
    /// # Errors
    /// [`MemoryError::OutsideRam`] or [`MemoryError::Unaligned`].
    pub fn load_u16(&self, gpa: GuestPhys, order: Ordering) -> Result<u16, MemoryError> {
        Ok(u16::from_le(self.atomic(gpa)?.load(order)))
    }

    /// Store a little-endian 16-bit ring field.
    ///
    /// # Errors
    /// [`MemoryError::OutsideRam`] or [`MemoryError::Unaligned`].
    pub fn store_u16(&self, gpa: GuestPhys, value: u16, order: Ordering) -> Result<(), MemoryError> {
        self.atomic(gpa)?.store(value.to_le(), order);
        Ok(())
    }

    /// Take a free page. Its bytes are whatever they were.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`].
    pub fn take_page(&self) -> Result<GuestPhys, MemoryError> {
        Ok(self.pool().take()?)
    }

    /// Take free contiguous pages that hold `bytes` bytes, zeroed.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`].
    pub fn take_run(&self, bytes: usize) -> Result<GuestPhys, MemoryError> {
        let pages = bytes.div_ceil(PAGE_BYTES).max(1);
        let first = self.pool().take_run(pages as u64)?;
        self.fill(first, 0, pages * PAGE_BYTES)?;
        Ok(first)
    }

    /// Give back a page from [`GuestMemory::take_page`].
    pub fn give_page(&self, page: GuestPhys) {
        self.pool().give_back(page, 1);
    }

    /// Give back the pages from [`GuestMemory::take_run`] with the same number of bytes.
    pub fn give_run(&self, first: GuestPhys, bytes: usize) {
        let pages = bytes.div_ceil(PAGE_BYTES).max(1);
        self.pool().give_back(first, pages as u64);
    }

    /// Pages that nobody uses.
    #[must_use]
    pub fn free_pages(&self) -> u64 {
        self.pool().free_pages()
    }

    fn pool(&self) -> MutexGuard<'_, PagePool> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host pointer of `bytes` bytes at `gpa`, all of them inside the mapping.
    fn locate(&self, gpa: GuestPhys, bytes: usize) -> Result<*mut u8, MemoryError> {
        let outside = MemoryError::OutsideRam { gpa, bytes };
        let region = self.regions.iter().find(|region| gpa >= region.base && gpa.0 < region.end());
        let Some(region) = region else {
            return Err(outside);
        };
        let Some(end) = gpa.0.checked_add(bytes as u64) else {
            return Err(outside);
        };
        let offset = usize::try_from(gpa - region.base + region.file_offset);
        match offset {
            Ok(offset) if end <= region.end() => {
                // SAFETY: every region lies inside the mapping (`from_file`), so the offset of an
                // address inside a region is less than `mapped`.
                Ok(unsafe { self.host.as_ptr().add(offset) })
            }
            _ => Err(outside),
        }
    }

    fn atomic(&self, gpa: GuestPhys) -> Result<&AtomicU16, MemoryError> {
        let pointer = self.locate(gpa, 2)?.cast::<AtomicU16>();
        if !pointer.is_aligned() {
            return Err(MemoryError::Unaligned(gpa));
        }
        // SAFETY: aligned, inside the mapping, which lives as long as `self`; an atomic may be
        // changed by others at any time.
        Ok(unsafe { &*pointer })
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and no pointer into it
        // outlives the value. An error would only leave it mapped.
        let _ = unsafe { munmap(self.host.as_ptr().cast(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_not_memory() {
        let memory =
            GuestMemory::with_regions(&[(GuestPhys(0), 0x10_0000), (GuestPhys(0x20_0000), 0x10_0000)]).unwrap();
        let mut two = [0; 2];
        memory.write(GuestPhys(0x20_0000), b"ok").unwrap();
        memory.read(GuestPhys(0x20_0000), &mut two).unwrap();
        assert_eq!(&two, b"ok");
        for bad in [0xf_ffff, 0x10_0000, 0x1f_ffff, 0x2f_ffff, u64::MAX] {
            assert!(matches!(memory.read(GuestPhys(bad), &mut two), Err(MemoryError::OutsideRam { .. })));
        }
        assert_eq!(
            memory.host_address(GuestPhys(0x20_0000), 1).unwrap() - memory.host_address(GuestPhys(0), 1).unwrap(),
            0x10_0000
        );
    }

    #[test]
    fn overlapping_regions_are_refused() {
        let layout = [(GuestPhys(0), 0x3000), (GuestPhys(0x2000), 0x1000)];
        assert!(matches!(GuestMemory::with_regions(&layout), Err(MemoryError::BadRegion(_))));
    }

    #[test]
    fn ring_fields_are_little_endian_and_aligned() {
        let memory = GuestMemory::new(1).unwrap();
        memory.store_u16(GuestPhys(0x1002), 0x1234, Ordering::Release).unwrap();
        assert_eq!(memory.read_vec(GuestPhys(0x1002), 2).unwrap(), [0x34, 0x12]);
        assert!(matches!(memory.load_u16(GuestPhys(0x1001), Ordering::Acquire), Err(MemoryError::Unaligned(_))));
    }
}
