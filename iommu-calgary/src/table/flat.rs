//! A table: entries in memory of their own.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::backing::Backing;
use super::{TableSize, Tce, fill};
use crate::registers::Tar;

/// A flat table of TCEs, entry `i` for the page at IOVA `i * 4096`, all free at first.
///
/// Pages of table memory that were never touched take no memory. The descriptor that [`AsFd`](std::os::fd::AsFd) gives
/// lets another process look at the table as the chip would; its seals keep everyone else from writing to it or resizing
/// it.
#[derive(Debug)]
pub struct TceTable {
    backing: Backing,
    size: TableSize,
    tar: Tar,
}

impl TceTable {
    /// Allocates a table whose entries are all free.
    ///
    /// # Errors
    /// The error of the system call that failed: out of memory, address space or descriptors.
    pub fn new(size: TableSize) -> io::Result<Self> {
        let backing = Backing::new(size.table_bytes())?;
        let tar = Tar::new(backing.base().as_ptr().expose_provenance() as u64, size);
        let tar = tar.ok_or_else(|| io::Error::other("the table was mapped beyond the 48 address bits of a TAR"))?;
        Ok(Self { backing, size, tar })
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

    /// Points entries `first..=last` at consecutive real pages, the first being that of `tce`, the last below 2^48.
    ///
    /// Entries may be in use meanwhile: each changes at one moment.
    ///
    /// # Panics
    /// If the range is not inside the table.
    pub fn fill(&self, first: usize, last: usize, tce: Tce) {
        match &self.entries()[first..=last] {
            // Most mappings are of one page.
            [entry] => entry.store(tce.to_memory(), Ordering::Release),
            entries => fill::consecutive(entries, tce),
        }
    }

    /// Frees entries `first..=last`.
    ///
    /// # Panics
    /// If the range is not inside the table.
    pub fn free(&self, first: usize, last: usize) {
        match &self.entries()[first..=last] {
            [entry] => entry.store(Tce::FREE.to_memory(), Ordering::Release),
            entries => fill::free(entries),
        }
    }

    /// The register value that selects this table.
    pub(crate) fn tar(&self) -> Tar {
        self.tar
    }

    fn entries(&self) -> &[AtomicU64] {
        // SAFETY: the backing is `table_bytes` long, zero-filled, aligned, owned by `self`, and accessed as atomics only.
        unsafe { std::slice::from_raw_parts(self.backing.base().as_ptr(), self.size.entries()) }
    }
}

#[cfg(not(miri))]
impl std::os::fd::AsFd for TceTable {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.backing.file()
    }
}

/// The entries of the table that a TAR selects.
///
/// # Safety
/// `tar` must be the value of [`TceTable::tar`] of a table that stays alive for `'a`.
#[inline]
pub(crate) unsafe fn entries_of<'a>(tar: Tar) -> &'a [AtomicU64] {
    #[expect(clippy::cast_possible_truncation, reason = "usize is 64 bits wide, checked at compile time")]
    let base = ptr::with_exposed_provenance(tar.base() as usize);
    // SAFETY: the caller vouches for the table; address and size code are those of its mapping, as in `TceTable::entries`.
    unsafe { std::slice::from_raw_parts(base, tar.size().entries()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::RealAddr;
    use crate::permissions::Permissions;

    #[test]
    fn every_size_is_aligned_to_itself() {
        for size in TableSize::ALL {
            let table = TceTable::new(size).unwrap();
            let base = table.backing.base().addr().get();
            assert_eq!(base % size.table_bytes(), 0);
            assert_eq!(table.tar().base(), base as u64);
            assert_eq!(table.tar().size(), size);
            assert_eq!(table.load(size.entries() - 1), Some(Tce::FREE));
            assert_eq!(table.load(size.entries()), None);
        }
    }

    #[test]
    fn a_tar_leads_to_the_entries() {
        let table = TceTable::new(TableSize::MiB32).unwrap();
        table.fill(7, 7, Tce::new(RealAddr(0x1234_5000), Permissions::READ));
        // SAFETY: the table lives to the end of the test.
        let entries = unsafe { entries_of(table.tar()) };
        assert_eq!(entries.len(), 8192);
        assert_eq!(Tce::from_memory(entries[7].load(Ordering::Relaxed)).value(), 0x1234_5001);
    }

    #[test]
    fn freeing_a_range_touches_nothing_else() {
        let table = TceTable::new(TableSize::MiB32).unwrap();
        table.fill(0, 191, Tce::new(RealAddr(0x1000), Permissions::READ));
        table.free(61, 130);
        for index in 0..192 {
            let freed = (61..=130).contains(&index);
            assert_eq!(table.load(index) == Some(Tce::FREE), freed, "entry {index}");
        }
    }

    #[cfg(not(miri))]
    #[test]
    fn memory_holds_big_endian_entries() {
        let table = TceTable::new(TableSize::MiB32).unwrap();
        table.fill(2, 3, Tce::new(RealAddr(0x1234_5000), Permissions::READ_WRITE));
        let mut bytes = [0; 40];
        rustix::io::pread(&table, &mut bytes, 0).unwrap();
        assert_eq!(bytes[..16], [0; 16]);
        assert_eq!(bytes[16..24], [0x00, 0x00, 0x00, 0x00, 0x12, 0x34, 0x50, 0x03]);
        assert_eq!(bytes[24..32], [0x00, 0x00, 0x00, 0x00, 0x12, 0x34, 0x60, 0x03]);
        assert_eq!(bytes[32..], [0; 8]);
    }

    #[cfg(not(miri))]
    #[test]
    fn nobody_else_can_write_or_resize() {
        use rustix::io::Errno;

        let table = TceTable::new(TableSize::MiB32).unwrap();
        assert_eq!(rustix::io::pwrite(&table, &[1], 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&table, 0), Err(Errno::PERM));
    }
}
