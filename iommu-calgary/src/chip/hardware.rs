//! What the PHB driver needs of a machine with a chip in it.

use std::fmt;
use std::io;

use crate::addr::RealAddr;
use crate::registers::{RegisterWindow, Variant};
use crate::table::{TableSize, Tce};

/// Bytes that `CLFLUSH` writes back at once.
pub const LINE_BYTES: usize = 64;

/// Entries in one cache line. None straddles two.
pub const ENTRIES_PER_LINE: usize = LINE_BYTES / size_of::<u64>();

/// Memory that the chip walks: contiguous in physical addresses, aligned to its own size.
pub trait PhysicalTable: fmt::Debug {
    /// Host-physical address of entry 0.
    fn base(&self) -> u64;
    /// Its size.
    fn size(&self) -> TableSize;
}

/// A chip with its register window, and the machine's memory as its tables need it.
///
/// The chip does not snoop: an entry is where the walk finds it only after its line was flushed, see
/// [`Hardware::flush_line`].
pub trait Hardware: RegisterWindow {
    /// Memory of a table.
    type Table: PhysicalTable;

    /// Which of the two chips it is.
    fn variant(&self) -> Variant;

    /// Memory for a table with all entries free, also for the chip's eyes: the zeros are flushed.
    ///
    /// # Errors
    /// There is no contiguous, aligned memory of that size.
    fn allocate(&mut self, size: TableSize) -> io::Result<Self::Table>;

    /// The entry as the processor sees it. `index` is inside the table.
    fn load(&self, table: &Self::Table, index: usize) -> Tce;

    /// Points entries `first..=last` at consecutive host-physical pages. They are inside the table.
    fn fill(&mut self, table: &Self::Table, first: usize, last: usize, tce: Tce);

    /// Frees entries `first..=last`. They are inside the table.
    fn free(&mut self, table: &Self::Table, first: usize, last: usize);

    /// Writes entries `line * ENTRIES_PER_LINE` and following back to memory: `CLFLUSH`.
    fn flush_line(&mut self, table: &Self::Table, line: usize);

    /// Waits until the flushes before have arrived.
    fn fence(&mut self);

    /// The host-physical page behind the real page of `real`, and how many of `pages` pages are contiguous there, at
    /// least 1. They stay where they are as long as the hardware lives.
    ///
    /// # Errors
    /// The first page is no memory, or cannot be kept in place.
    fn resolve(&mut self, real: RealAddr, pages: usize) -> io::Result<(RealAddr, usize)>;

    /// Passes some time between two polls. `round` counts from 0.
    fn pause(&mut self, round: u32);
}
