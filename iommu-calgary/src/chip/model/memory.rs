//! Memory with tables in it, in two views: what the processor sees, and what the chip's walk reads.

use std::io;
use std::sync::{Arc, Weak};

use super::knobs::Dice;
use crate::addr::{PAGE_SIZE, RealAddr};
use crate::chip::{ENTRIES_PER_LINE, PhysicalTable};
use crate::permissions::Permissions;
use crate::table::{TableSize, Tce};

/// Where the first table may lie.
const FIRST_BASE: u64 = 0x1000_0000;

/// Where the entries around tables lead: valid for the walk, and no page of anybody's.
pub(super) const TRAP: RealAddr = RealAddr(0xDEAD_0000);

/// Table memory of a [`Model`](super::Model). Given back when it is dropped.
#[derive(Clone, Debug)]
pub struct ModelTable {
    base: u64,
    size: TableSize,
    /// Lives as long as the table is in use.
    _lease: Arc<()>,
}

impl ModelTable {
    /// A handle to the same memory that claims another address, as a careless driver might compute.
    #[must_use]
    pub fn displaced(mut self, bytes: u64) -> Self {
        self.base += bytes;
        self
    }

    pub(super) fn base_address(&self) -> u64 {
        self.base
    }
}

impl PhysicalTable for ModelTable {
    fn base(&self) -> u64 {
        self.base
    }

    fn size(&self) -> TableSize {
        self.size
    }
}

/// All tables.
#[derive(Debug)]
pub(super) struct Memory {
    tables: Vec<TableMemory>,
    next_base: u64,
    real_limit: u64,
}

/// One table. Entries are kept as the 64-bit numbers that a big-endian chip reads.
#[derive(Debug)]
pub(super) struct TableMemory {
    pub(super) base: u64,
    pub(super) size: TableSize,
    cpu: Vec<u64>,
    dram: Vec<u64>,
    /// For each line whether it was stored to since it was flushed.
    unflushed: Vec<bool>,
    /// Lines that were stored to, some of them often: what may be written back unasked.
    stored: Vec<usize>,
    /// For each entry the tick of its last store and of its last freeing, 0 for never.
    written: Vec<u64>,
    freed: Vec<u64>,
    /// When an entry that was not free was changed last.
    pub(super) lossy: Option<u64>,
    lease: Weak<()>,
}

/// What the walk of an address finds.
pub(super) enum Walked {
    Entry(Tce),
    /// Outside of every table.
    Trap,
}

impl Memory {
    pub(super) fn new(real_limit: u64) -> Self {
        Self { tables: Vec::new(), next_base: FIRST_BASE, real_limit }
    }

    pub(super) fn allocate(&mut self, size: TableSize) -> io::Result<ModelTable> {
        // A page of distance, so that tables have something around them.
        let base = (self.next_base + PAGE_SIZE).next_multiple_of(size.table_bytes() as u64);
        self.next_base = base + size.table_bytes() as u64;
        if self.next_base > self.real_limit {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(self.adopt(base, size))
    }

    pub(super) fn adopt(&mut self, base: u64, size: TableSize) -> ModelTable {
        self.tables.retain(|table| table.lease.strong_count() > 0);
        let lease = Arc::new(());
        self.tables.push(TableMemory {
            base,
            size,
            cpu: vec![0; size.entries()],
            dram: vec![0; size.entries()],
            unflushed: vec![false; size.entries() / ENTRIES_PER_LINE],
            stored: Vec::new(),
            written: vec![0; size.entries()],
            freed: vec![0; size.entries()],
            lossy: None,
            lease: Arc::downgrade(&lease),
        });
        ModelTable { base, size, _lease: lease }
    }

    /// The table that lies at `base`.
    pub(super) fn at(&self, base: u64) -> Option<&TableMemory> {
        self.tables.iter().find(|table| table.base == base)
    }

    pub(super) fn load(&self, table: &ModelTable, index: usize) -> Tce {
        self.cpu_view(table.base, index).unwrap_or(Tce::FREE)
    }

    /// Stores to the processor's view and returns what was there.
    pub(super) fn store(&mut self, table: &ModelTable, index: usize, tce: Tce, through: bool, clock: u64) -> Tce {
        let address = address_of(table.base, index);
        let Some(memory) = self.tables.iter_mut().find(|memory| memory.contains(address)) else {
            return Tce::FREE;
        };
        let index = memory.index_of(address);
        let before = std::mem::replace(&mut memory.cpu[index], tce.value());
        memory.written[index] = clock;
        if tce == Tce::FREE {
            memory.freed[index] = clock;
        }
        if before != 0 && before != tce.value() {
            memory.lossy = Some(clock);
        }
        if through {
            memory.dram[index] = tce.value();
        }
        let line = index / ENTRIES_PER_LINE;
        if !std::mem::replace(&mut memory.unflushed[line], true) {
            memory.stored.push(line);
        }
        Tce::from_value(before)
    }

    /// Writes a line back. Whether it was stored to since the last time.
    pub(super) fn flush(&mut self, table: &ModelTable, line: usize) -> bool {
        let address = address_of(table.base, line * ENTRIES_PER_LINE);
        let Some(memory) = self.tables.iter_mut().find(|memory| memory.contains(address)) else {
            return false;
        };
        let line = memory.index_of(address) / ENTRIES_PER_LINE;
        memory.copy(line);
        std::mem::replace(&mut memory.unflushed[line], false)
    }

    /// Writes back some line that was stored to.
    pub(super) fn write_back_one(&mut self, dice: &mut Dice) {
        if self.tables.is_empty() {
            return;
        }
        let chosen = dice.below(self.tables.len());
        let table = &mut self.tables[chosen];
        if !table.stored.is_empty() {
            let line = table.stored.swap_remove(dice.below(table.stored.len()));
            table.copy(line);
        }
    }

    /// What the chip reads for entry `index` of a table at `base`.
    pub(super) fn walk(&self, base: u64, index: usize) -> Walked {
        let address = address_of(base, index);
        match self.containing(address) {
            Some(table) => Walked::Entry(Tce::from_value(table.dram[table.index_of(address)])),
            None => Walked::Trap,
        }
    }

    /// What the processor sees at the same place.
    pub(super) fn cpu_view(&self, base: u64, index: usize) -> Option<Tce> {
        let address = address_of(base, index);
        let table = self.containing(address)?;
        Some(Tce::from_value(table.cpu[table.index_of(address)]))
    }

    pub(super) fn is_memory(&self, real: RealAddr) -> bool {
        real.0 < self.real_limit
    }

    fn containing(&self, address: u64) -> Option<&TableMemory> {
        self.tables.iter().find(|table| table.contains(address))
    }
}

fn address_of(base: u64, index: usize) -> u64 {
    base + (index * size_of::<u64>()) as u64
}

impl TableMemory {
    pub(super) fn written(&self, index: usize) -> Option<u64> {
        self.written.get(index).copied().filter(|&tick| tick != 0)
    }

    pub(super) fn freed(&self, index: usize) -> Option<u64> {
        self.freed.get(index).copied().filter(|&tick| tick != 0)
    }

    fn contains(&self, address: u64) -> bool {
        (self.base..self.base + self.size.table_bytes() as u64).contains(&address)
    }

    fn index_of(&self, address: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "usize is 64 bits wide, checked at compile time")]
        let offset = (address - self.base) as usize;
        offset / size_of::<u64>()
    }

    fn copy(&mut self, line: usize) {
        let range = line * ENTRIES_PER_LINE..(line + 1) * ENTRIES_PER_LINE;
        self.dram[range.clone()].copy_from_slice(&self.cpu[range]);
    }
}

/// A valid-looking entry that leads to nobody's page.
pub(super) fn trap() -> Tce {
    Tce::new(TRAP, Permissions::READ_WRITE)
}
