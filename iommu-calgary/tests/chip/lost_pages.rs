//! Real pages that are gone by the time their entries are stored.

use std::io;
use std::time::Duration;

use iommu_calgary::chip::Hardware;
use iommu_calgary::chip::model::{Knobs, Mode, Model, ModelTable};
use iommu_calgary::driver::Driven;
use iommu_calgary::registers::{PhbIndex, Register32, Register64, RegisterWindow, Variant};
use iommu_calgary::{Calgary, DomainId, EndpointId, Limits, Permissions, RealAddr, TableSize, Tce};

use crate::machine::{attach, map, unmap};

const RW: Permissions = Permissions::READ_WRITE;

/// Hardware that finds real pages so many times more.
struct Losing {
    model: Model,
    finds: u32,
}

impl RegisterWindow for Losing {
    fn read32(&mut self, register: Register32) -> u32 {
        self.model.read32(register)
    }

    fn write32(&mut self, register: Register32, value: u32) {
        self.model.write32(register, value);
    }

    fn read64(&mut self, register: Register64) -> u64 {
        self.model.read64(register)
    }

    fn write64(&mut self, register: Register64, value: u64) {
        self.model.write64(register, value);
    }
}

impl Hardware for Losing {
    type Table = ModelTable;

    fn variant(&self) -> Variant {
        self.model.variant()
    }

    fn allocate(&mut self, size: TableSize) -> io::Result<ModelTable> {
        self.model.allocate(size)
    }

    fn load(&self, table: &ModelTable, index: usize) -> Tce {
        self.model.load(table, index)
    }

    fn fill(&mut self, table: &ModelTable, first: usize, last: usize, tce: Tce) {
        self.model.fill(table, first, last, tce);
    }

    fn free(&mut self, table: &ModelTable, first: usize, last: usize) {
        self.model.free(table, first, last);
    }

    fn flush_line(&mut self, table: &ModelTable, line: usize) {
        self.model.flush_line(table, line);
    }

    fn fence(&mut self) {
        self.model.fence();
    }

    fn resolve(&mut self, real: RealAddr, pages: usize) -> io::Result<(RealAddr, usize)> {
        self.finds = self.finds.checked_sub(1).ok_or(io::ErrorKind::NotFound)?;
        self.model.resolve(real, pages)
    }

    fn pause(&mut self, round: u32) {
        self.model.pause(round);
    }
}

/// The entries are free then, also where a mapping was that the same batch removed.
#[test]
fn entries_of_lost_pages_lead_nowhere() {
    let model = Model::new(Variant::Calgary, Knobs::new(Mode::Realistic, 1));
    let chip = Driven::new(Losing { model, finds: u32::MAX }).unwrap();
    let mut unit = Calgary::over(chip, TableSize::MiB32, Limits::default()).unwrap();
    unit.bring_up(EndpointId(0), PhbIndex::new(0).unwrap(), 0).unwrap();
    let mut ask = |requests: &[_], finds| {
        unit.chip_mut().hardware_mut().finds = finds;
        let mut results = Vec::new();
        unit.apply(requests, Duration::from_secs(60), &mut results);
        assert!(results.iter().all(Result::is_ok));
        let table = unit.domain(DomainId(1)).unwrap().table();
        [0x200, 0x203].map(|page| unit.chip().hardware().load(table, page))
    };
    let first = ask(&[attach(0, 1), map(1, 0x200, 4, 0x4000_0000, RW)], u32::MAX);
    assert_eq!(first, [0x4000_0000, 0x4000_3000].map(|real| Tce::new(RealAddr(real), RW)));
    // The MAP finds its pages, and the commit does not.
    assert_eq!(ask(&[unmap(1, 0x200, 4), map(1, 0x200, 4, 0x5000_0000, RW)], 1), [Tce::FREE; 2]);
}
