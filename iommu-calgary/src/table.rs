//! Table memory: a shared, sealed memfd, mapped at an address aligned to the table's own size.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::addr::{PAGE_SIZE, RealAddr};
use crate::registers::Tar;
use crate::table_size::TableSize;
use crate::tce::Tce;

/// A flat table of TCEs, entry `i` for the page at IOVA `i * 4096`, all free at first.
///
/// Pages of table memory that were never touched take no memory. The descriptor that [`AsFd`] gives lets another process
/// look at the table as the chip would; its seals keep everyone else from writing to it or resizing it.
#[derive(Debug)]
pub struct TceTable {
    base: NonNull<AtomicU64>,
    size: TableSize,
    tar: Tar,
    file: OwnedFd,
}

// SAFETY: the pointer leads to memory that the table owns until drop, and that is accessed as `AtomicU64` only.
unsafe impl Send for TceTable {}
// SAFETY: as above.
unsafe impl Sync for TceTable {}

impl TceTable {
    /// Allocates a table whose entries are all free.
    ///
    /// # Errors
    /// The error of the system call that failed: out of memory, address space or descriptors.
    pub fn new(size: TableSize) -> io::Result<Self> {
        let bytes = size.table_bytes();
        let file = memfd_create("calgary-tce", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, bytes as u64)?;
        let base = map_aligned(&file, bytes)?;
        let tar = Tar::new(base.as_ptr().expose_provenance() as u64, size);
        let table = Self { base, size, tar: tar.unwrap_or(Tar::NO_TABLE), file };
        if tar.is_none() {
            return Err(io::Error::other("the table was mapped beyond the 48 address bits of a TAR"));
        }
        // The mapping above stays writable: this seal only refuses later ones.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        fcntl_add_seals(&table.file, seals)?;
        Ok(table)
    }

    /// Size of the table.
    #[must_use]
    pub fn size(&self) -> TableSize {
        self.size
    }

    /// Reads entry `index`, or `None` beyond the table's end.
    #[must_use]
    pub fn load(&self, index: usize) -> Option<Tce> {
        let stored = self.entries().get(index)?.load(Ordering::Acquire);
        Some(Tce::from_memory(stored))
    }

    /// The register value that selects this table.
    pub(crate) fn tar(&self) -> Tar {
        self.tar
    }

    /// Points entries `first..=last` at consecutive real pages, the first being that of `tce`.
    pub(crate) fn fill(&self, first: usize, last: usize, tce: Tce) {
        let mut tce = tce;
        for entry in &self.entries()[first..=last] {
            entry.store(tce.to_memory(), Ordering::Release);
            tce = Tce::new(RealAddr(tce.real().0 + PAGE_SIZE), tce.permissions());
        }
    }

    /// Frees entries of the 64 that start at `64 * word`: those whose bit is set in `mask`.
    pub(crate) fn free(&self, word: usize, mask: u64) {
        let entries = &self.entries()[word * 64..(word + 1) * 64];
        if mask == u64::MAX {
            for entry in entries {
                entry.store(Tce::FREE.to_memory(), Ordering::Release);
            }
            return;
        }
        let mut left = mask;
        while left != 0 {
            entries[left.trailing_zeros() as usize].store(Tce::FREE.to_memory(), Ordering::Release);
            left &= left - 1;
        }
    }

    fn entries(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is `table_bytes` long, zero-filled, aligned, owned by `self`, and accessed as atomics only.
        // The file cannot shrink under it because of its seal.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.size.entries()) }
    }
}

impl AsFd for TceTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for TceTable {
    fn drop(&mut self) {
        // SAFETY: the mapping is the table's own, and whoever holds an address from its TAR keeps the table alive.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.size.table_bytes()) };
        debug_assert!(unmapped.is_ok());
    }
}

/// The entries of the table that a TAR selects.
///
/// # Safety
/// `tar` must be the value of [`TceTable::tar`] of a table that stays alive for `'a`.
pub(crate) unsafe fn entries_of<'a>(tar: Tar) -> &'a [AtomicU64] {
    #[expect(clippy::cast_possible_truncation, reason = "usize is 64 bits wide, checked at compile time")]
    let base = ptr::with_exposed_provenance(tar.base() as usize);
    // SAFETY: the caller vouches for the table; address and size code are those of its mapping, as in `TceTable::entries`.
    unsafe { std::slice::from_raw_parts(base, tar.size().entries()) }
}

/// Maps all `bytes` of `file` at an address that is a multiple of `bytes`, a power of two.
fn map_aligned(file: &OwnedFd, bytes: usize) -> io::Result<NonNull<AtomicU64>> {
    let reserved = bytes * 2;
    // SAFETY: a new private mapping at an address that the kernel chooses touches no memory in use.
    let start = unsafe {
        mmap_anonymous(ptr::null_mut(), reserved, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)?
    };
    let head = start.addr().next_multiple_of(bytes) - start.addr();
    let base = start.wrapping_byte_add(head);
    // SAFETY: `base..base + bytes` lies inside the reservation made above, which nothing else uses.
    let mapped =
        unsafe { mmap(base, bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED, file, 0) };
    let table = match mapped {
        Ok(table) => table,
        Err(error) => {
            // SAFETY: the reservation is still wholly ours.
            unsafe { munmap(start, reserved)? };
            return Err(error.into());
        }
    };
    for (address, length) in [(start, head), (base.wrapping_byte_add(bytes), reserved - bytes - head)] {
        if length > 0 {
            // SAFETY: what surrounds the table inside the reservation is unused.
            unsafe { munmap(address, length)? };
        }
    }
    NonNull::new(table.cast()).ok_or_else(|| io::Error::other("the table was mapped at address 0"))
}

#[cfg(test)]
mod tests {
    use rustix::io::{Errno, pread, pwrite};

    use super::*;
    use crate::permissions::Permissions;

    #[test]
    fn every_size_is_aligned_to_itself() {
        for size in TableSize::ALL {
            let table = TceTable::new(size).unwrap();
            assert_eq!(table.base.addr().get() % size.table_bytes(), 0);
            assert_eq!(table.tar().base(), table.base.addr().get() as u64);
            assert_eq!(table.tar().size(), size);
            assert_eq!(table.load(size.entries() - 1), Some(Tce::FREE));
            assert_eq!(table.load(size.entries()), None);
        }
    }

    #[test]
    fn memory_holds_big_endian_entries() {
        let table = TceTable::new(TableSize::MiB32).unwrap();
        table.fill(2, 3, Tce::new(RealAddr(0x1234_5000), Permissions::READ_WRITE));
        let mut bytes = [0; 40];
        pread(&table, &mut bytes, 0).unwrap();
        assert_eq!(bytes[..16], [0; 16]);
        assert_eq!(bytes[16..24], [0x00, 0x00, 0x00, 0x00, 0x12, 0x34, 0x50, 0x03]);
        assert_eq!(bytes[24..32], [0x00, 0x00, 0x00, 0x00, 0x12, 0x34, 0x60, 0x03]);
        assert_eq!(bytes[32..], [0; 8]);
    }

    #[test]
    fn nobody_else_can_write_or_resize() {
        let table = TceTable::new(TableSize::MiB32).unwrap();
        assert_eq!(pwrite(&table, &[1], 0), Err(Errno::PERM));
        assert_eq!(ftruncate(&table, 0), Err(Errno::PERM));
    }

    #[test]
    fn free_clears_the_masked_entries_only() {
        let table = TceTable::new(TableSize::MiB32).unwrap();
        table.fill(0, 191, Tce::new(RealAddr(0x1000), Permissions::READ));
        table.free(1, u64::MAX);
        table.free(2, 0b101);
        for index in 0..192 {
            let freed = (64..128).contains(&index) || index == 128 || index == 130;
            assert_eq!(table.load(index) == Some(Tce::FREE), freed, "entry {index}");
        }
    }
}
