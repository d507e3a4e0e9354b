//! A real chip, through files: its register window, and memory that it can reach.
//!
//! | needs | on Linux |
//! |---|---|
//! | the register window | `/dev/mem` at the BBAR that the [RIO table](crate::rio) tells, opened with `O_SYNC`; or the `resourceN` file of the chip's function |
//! | table memory, physically contiguous | a file on hugetlbfs: one 2 MiB page holds a table of up to 1 GiB of window |
//! | the guest's memory | the file that is its RAM, best on hugetlbfs too |
//! | host-physical addresses | `/proc/self/pagemap`, with `CAP_SYS_ADMIN`: [`Pagemap`] |
//!
//! # What it was proven against
//!
//! The [model](super::model) acting on the files, not silicon: nobody here has the machine. That shows that registers
//! are accessed at the right offsets, once each, in the right width and byte order, that entries hold host-physical
//! pages in the chip's byte order, and that the right lines are flushed. What the real chip makes of it is as uncertain
//! as [what is known of it](super::model).
//!
//! Two things are the machine's and not checked here: no other driver may use the chip, and the kernel must not move
//! locked pages. `mlock` keeps a page in memory but lets compaction migrate it; pages of hugetlbfs stay, or set
//! `vm.compact_unevictable_allowed` to 0.

mod arena;
mod mapping;
mod resolver;

pub use arena::MappedTable;
pub use resolver::{PageResolver, Pagemap};

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::addr::{PAGE_SIZE, RealAddr};
use crate::chip::Hardware;
use crate::registers::{Register32, Register64, RegisterWindow, Variant, WINDOW_BYTES};
use crate::table::{TableSize, Tce};

use arena::Arena;
use mapping::Mapping;

/// A part of a file.
#[derive(Clone, Copy, Debug)]
pub struct Extent<F> {
    /// The file.
    pub file: F,
    /// Where the part starts, in bytes; a multiple of the page size.
    pub offset: u64,
    /// Its length in bytes; a multiple of the page size.
    pub bytes: usize,
}

/// A chip behind a mapped register window.
#[derive(Debug)]
pub struct MappedChip<R> {
    variant: Variant,
    window: Mapping,
    arena: Arena,
    ram: Mapping,
    resolver: R,
    /// Host-physical addresses of the pages of `ram` that were asked for, by page number. They stay locked: a guest's
    /// device may reach them at any time, and a guest can make no more of them than it has memory.
    frames: HashMap<u64, u64>,
}

impl<R: PageResolver> MappedChip<R> {
    /// Maps the window of 1 MiB at `offset` of `window`, the memory for tables, and the guest's memory, whose first byte
    /// is real address 0. Touches no register.
    ///
    /// # Errors
    /// A file cannot be mapped.
    pub fn new<F: AsFd>(
        variant: Variant,
        window: F,
        offset: u64,
        tables: Extent<F>,
        ram: Extent<F>,
        resolver: R,
    ) -> io::Result<Self> {
        Ok(Self {
            variant,
            window: Mapping::new(window, offset, WINDOW_BYTES)?,
            arena: Arena::new(Mapping::new(tables.file, tables.offset, tables.bytes)?),
            ram: Mapping::new(ram.file, ram.offset, ram.bytes)?,
            resolver,
            frames: HashMap::new(),
        })
    }

    /// Where real address 0 and where the table memory are in this process.
    #[must_use]
    pub fn addresses(&self) -> (usize, usize) {
        (self.ram.address(), self.arena.address())
    }

    fn frame(&mut self, page: u64) -> io::Result<u64> {
        if let Some(frame) = self.frames.get(&page) {
            return Ok(*frame);
        }
        let inside = usize::try_from(page * PAGE_SIZE).ok().filter(|offset| *offset < self.ram.bytes());
        let offset = inside.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("real page {page:#x} is beyond the guest's memory"))
        })?;
        let frame = self.resolver.resolve(self.ram.address() + offset)?;
        self.frames.insert(page, frame);
        Ok(frame)
    }
}

impl<R> RegisterWindow for MappedChip<R> {
    fn read32(&mut self, register: Register32) -> u32 {
        u32::from_be(self.window.read_u32(register.offset()))
    }

    fn write32(&mut self, register: Register32, value: u32) {
        self.window.write_u32(register.offset(), value.to_be());
    }

    fn read64(&mut self, register: Register64) -> u64 {
        u64::from_be(self.window.read_u64(register.offset()))
    }

    fn write64(&mut self, register: Register64, value: u64) {
        self.window.write_u64(register.offset(), value.to_be());
    }
}

impl<R: PageResolver> Hardware for MappedChip<R> {
    type Table = MappedTable;

    fn variant(&self) -> Variant {
        self.variant
    }

    fn allocate(&mut self, size: TableSize) -> io::Result<MappedTable> {
        self.arena.allocate(size, &mut self.resolver)
    }

    fn load(&self, table: &MappedTable, index: usize) -> Tce {
        table.load(index)
    }

    fn fill(&mut self, table: &MappedTable, first: usize, last: usize, tce: Tce) {
        table.fill(first, last, tce);
    }

    fn free(&mut self, table: &MappedTable, first: usize, last: usize) {
        table.free(first, last);
    }

    fn flush_line(&mut self, table: &MappedTable, line: usize) {
        table.flush_line(line);
    }

    fn fence(&mut self) {
        mapping::fence();
    }

    fn resolve(&mut self, real: RealAddr, pages: usize) -> io::Result<(RealAddr, usize)> {
        let first = real.0 / PAGE_SIZE;
        let host = self.frame(first)?;
        let mut count = 1;
        while count < pages
            && let Ok(next) = self.frame(first + count as u64)
            && next == host + count as u64 * PAGE_SIZE
        {
            count += 1;
        }
        Ok((RealAddr(host), count))
    }

    /// The first polls follow each other at once, as in Linux. Splits that take longer are worth a sleep.
    fn pause(&mut self, round: u32) {
        const AT_ONCE: u32 = 100;
        const LONGEST: Duration = Duration::from_millis(1);
        if round >= AT_ONCE {
            std::thread::sleep(Duration::from_micros(u64::from(round - AT_ONCE)).min(LONGEST));
        }
    }
}
