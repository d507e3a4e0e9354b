//! The mapped chip and the model, joined by the file of the register window and that of the table memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use iommu_calgary::chip::mapped::{Extent, MappedChip, MappedTable, Pagemap};
use iommu_calgary::chip::model::{Model, ModelTable};
use iommu_calgary::chip::{ENTRIES_PER_LINE, Hardware, PhysicalTable};
use iommu_calgary::registers::{Register32, Register64, RegisterWindow, Variant, WINDOW_BYTES};
use iommu_calgary::{RealAddr, TableSize, Tce};
use rustix::fs::{MemfdFlags, memfd_create};

/// Pages of guest memory.
pub(crate) const RAM_PAGES: usize = 256;

const ARENA_BYTES: usize = 1 << 20;

/// Where the arena lies in the machine: contiguous from an odd multiple of 64 KiB on.
const ARENA_FRAME: u64 = 0x8_0010;

/// Host-physical address of a page of guest memory: pairs are swapped, and every 16 pages there is a gap.
pub(crate) fn frame_of_ram(page: usize) -> u64 {
    let page = page as u64;
    (0x10_0000 + (page ^ 1) + page / 16 * 3) << 12
}

pub(crate) struct Acting {
    pub(crate) chip: MappedChip<Pagemap>,
    pub(crate) model: Model,
    window: File,
    arena: File,
}

#[derive(Debug)]
pub(crate) struct ActingTable {
    mapped: MappedTable,
    model: ModelTable,
}

fn memory(name: &str, bytes: usize) -> File {
    let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC).unwrap());
    file.set_len(bytes as u64).unwrap();
    file
}

impl Acting {
    pub(crate) fn new(model: Model) -> Self {
        let window = memory("window", WINDOW_BYTES);
        let arena = memory("arena", ARENA_BYTES);
        let ram = memory("ram", RAM_PAGES << 12);
        let pagemap = memory("pagemap", 0);
        let tables = Extent { file: &arena, offset: 0, bytes: ARENA_BYTES };
        let extent = Extent { file: &ram, offset: 0, bytes: RAM_PAGES << 12 };
        let resolver = Pagemap::from_file(pagemap.try_clone().unwrap());
        let chip = MappedChip::new(model.variant(), &window, 0, tables, extent, resolver).unwrap();

        let put = |address: usize, frame: u64| {
            let entry: u64 = 1 << 63 | 1 << 61 | frame;
            pagemap.write_all_at(&entry.to_ne_bytes(), (address as u64 >> 12) * 8).unwrap();
        };
        let (ram_address, arena_address) = chip.addresses();
        for page in 0..RAM_PAGES {
            put(ram_address + (page << 12), frame_of_ram(page) >> 12);
        }
        for page in 0..ARENA_BYTES >> 12 {
            put(arena_address + (page << 12), ARENA_FRAME + page as u64);
        }
        Self { chip, model, window, arena }
    }

    /// Stores of the mapped chip, as they lie in the file, become the model's.
    fn mirror(&mut self, table: &ActingTable, first: usize, last: usize) {
        for index in first..=last {
            let mut bytes = [0; 8];
            self.arena.read_exact_at(&mut bytes, (table.mapped.offset() + index * 8) as u64).unwrap();
            match Tce::from_value(u64::from_be_bytes(bytes)) {
                Tce::FREE => self.model.free(&table.model, index, index),
                tce => self.model.fill(&table.model, index, index, tce),
            }
        }
    }
}

impl RegisterWindow for Acting {
    fn read32(&mut self, register: Register32) -> u32 {
        let value = self.model.read32(register);
        self.window.write_all_at(&value.to_be_bytes(), register.offset().into()).unwrap();
        self.chip.read32(register)
    }

    fn write32(&mut self, register: Register32, value: u32) {
        self.chip.write32(register, value);
        let mut bytes = [0; 4];
        self.window.read_exact_at(&mut bytes, register.offset().into()).unwrap();
        self.model.write32(register, u32::from_be_bytes(bytes));
    }

    fn read64(&mut self, register: Register64) -> u64 {
        let value = self.model.read64(register);
        self.window.write_all_at(&value.to_be_bytes(), register.offset().into()).unwrap();
        self.chip.read64(register)
    }

    fn write64(&mut self, register: Register64, value: u64) {
        self.chip.write64(register, value);
        let mut bytes = [0; 8];
        self.window.read_exact_at(&mut bytes, register.offset().into()).unwrap();
        self.model.write64(register, u64::from_be_bytes(bytes));
    }
}

impl PhysicalTable for ActingTable {
    fn base(&self) -> u64 {
        self.mapped.base()
    }

    fn size(&self) -> TableSize {
        self.mapped.size()
    }
}

impl Hardware for Acting {
    type Table = ActingTable;

    fn variant(&self) -> Variant {
        self.chip.variant()
    }

    fn allocate(&mut self, size: TableSize) -> io::Result<ActingTable> {
        let mapped = self.chip.allocate(size)?;
        let model = self.model.adopt(mapped.base(), size);
        Ok(ActingTable { mapped, model })
    }

    fn load(&self, table: &ActingTable, index: usize) -> Tce {
        self.chip.load(&table.mapped, index)
    }

    fn fill(&mut self, table: &ActingTable, first: usize, last: usize, tce: Tce) {
        self.chip.fill(&table.mapped, first, last, tce);
        self.mirror(table, first, last);
    }

    fn free(&mut self, table: &ActingTable, first: usize, last: usize) {
        self.chip.free(&table.mapped, first, last);
        self.mirror(table, first, last);
    }

    fn flush_line(&mut self, table: &ActingTable, line: usize) {
        assert!(line < table.size().entries() / ENTRIES_PER_LINE);
        self.chip.flush_line(&table.mapped, line);
        self.model.flush_line(&table.model, line);
    }

    fn fence(&mut self) {
        self.chip.fence();
    }

    fn resolve(&mut self, real: RealAddr, pages: usize) -> io::Result<(RealAddr, usize)> {
        self.chip.resolve(real, pages)
    }

    fn pause(&mut self, round: u32) {
        self.model.pause(round);
    }
}
