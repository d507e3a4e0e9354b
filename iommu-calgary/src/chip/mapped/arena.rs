//! Table memory: physically contiguous pieces of a mapping.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::mapping::{self, Mapping};
use super::resolver::PageResolver;
use crate::addr::{PAGE_SIZE, REAL_LIMIT};
use crate::chip::{ENTRIES_PER_LINE, PhysicalTable};
use crate::table::{TableSize, Tce, fill};

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const PAGE: usize = PAGE_SIZE as usize;

/// Memory to cut tables from.
#[derive(Debug)]
pub(super) struct Arena {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    mapping: Mapping,
    /// For each page whether a table lies in it.
    used: Mutex<Vec<bool>>,
}

/// A table of a [`MappedChip`](super::MappedChip). Its memory is free again when it is dropped.
#[derive(Debug)]
pub struct MappedTable {
    shared: Arc<Shared>,
    /// Where it starts in the mapping, in bytes.
    offset: usize,
    size: TableSize,
    /// Host-physical address.
    base: u64,
}

impl Arena {
    pub(super) fn new(mapping: Mapping) -> Self {
        let used = Mutex::new(vec![false; mapping.bytes() / PAGE]);
        Self { shared: Arc::new(Shared { mapping, used }) }
    }

    pub(super) fn address(&self) -> usize {
        self.shared.mapping.address()
    }

    /// The first free piece whose pages follow each other in physical memory, from a multiple of the table's size on.
    pub(super) fn allocate(&self, size: TableSize, resolver: &mut impl PageResolver) -> io::Result<MappedTable> {
        let pages = size.table_bytes() / PAGE;
        let mut used = self.shared.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = 0;
        while first + pages <= used.len() {
            if let Some(taken) = used[first..first + pages].iter().rposition(|used| *used) {
                first += taken + 1;
                continue;
            }
            let Some(base) = self.contiguous(first, pages, resolver)? else {
                first += 1;
                continue;
            };
            used[first..first + pages].fill(true);
            let table = MappedTable { shared: Arc::clone(&self.shared), offset: first * PAGE, size, base };
            table.free(0, size.entries() - 1);
            for line in 0..size.entries() / ENTRIES_PER_LINE {
                table.flush_line(line);
            }
            mapping::fence();
            return Ok(table);
        }
        Err(io::Error::new(
            io::ErrorKind::OutOfMemory,
            format!(
                "no {} KiB of table memory are free, physically contiguous and aligned to their size; use hugetlbfs, and \
                 more of it",
                size.table_bytes() >> 10
            ),
        ))
    }

    /// Host-physical address of `pages` pages from `first` on, if they are as a table needs them.
    fn contiguous(&self, first: usize, pages: usize, resolver: &mut impl PageResolver) -> io::Result<Option<u64>> {
        let address = self.address() + first * PAGE;
        let base = resolver.resolve(address)?;
        let bytes = (pages * PAGE) as u64;
        if !base.is_multiple_of(bytes) || base == 0 || base + bytes > REAL_LIMIT {
            return Ok(None);
        }
        for page in 1..pages {
            if resolver.resolve(address + page * PAGE)? != base + (page * PAGE) as u64 {
                return Ok(None);
            }
        }
        Ok(Some(base))
    }
}

impl MappedTable {
    /// Where it starts in the file extent of the table memory, in bytes.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn load(&self, index: usize) -> Tce {
        Tce::from_memory(self.entries()[index].load(Ordering::Acquire))
    }

    pub(super) fn fill(&self, first: usize, last: usize, tce: Tce) {
        fill::consecutive(&self.entries()[first..=last], tce);
    }

    pub(super) fn free(&self, first: usize, last: usize) {
        fill::free(&self.entries()[first..=last]);
    }

    pub(super) fn flush_line(&self, line: usize) {
        mapping::flush_line(&self.entries()[line * ENTRIES_PER_LINE]);
    }

    fn entries(&self) -> &[AtomicU64] {
        self.shared.mapping.words(self.offset, self.size.entries())
    }
}

impl PhysicalTable for MappedTable {
    fn base(&self) -> u64 {
        self.base
    }

    fn size(&self) -> TableSize {
        self.size
    }
}

impl Drop for MappedTable {
    fn drop(&mut self) {
        let first = self.offset / PAGE;
        let mut used = self.shared.used.lock().unwrap_or_else(PoisonError::into_inner);
        used[first..first + self.size.table_bytes() / PAGE].fill(false);
    }
}
