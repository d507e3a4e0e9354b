//! What the driver asks of hardware that the model has no opinion of.

use std::io;
use std::time::Duration;

use iommu_calgary::chip::Hardware;
use iommu_calgary::chip::model::{Dma, Knobs, Mode, Model, ModelTable};
use iommu_calgary::driver::{Driven, Patience};
use iommu_calgary::registers::{PhbIndex, Register32, Register64, RegisterWindow, Variant};
use iommu_calgary::{
    Access, Calgary, DomainId, EndpointId, Iova, Limits, Permissions, RealAddr, Request, TableSize, Tce,
};

use crate::machine::{attach, map, unmap};

const RW: Permissions = Permissions::READ_WRITE;

/// A model and what was asked of it.
struct Watched {
    model: Model,
    /// How often it still finds real pages.
    finds: u32,
    /// Lines were flushed since the last fence.
    unfenced: bool,
    /// Looks at a split queue.
    polls: u32,
}

impl Watched {
    fn unit(variant: Variant) -> Calgary<Driven<Self>> {
        let model = Model::new(variant, Knobs::new(Mode::Realistic, 1));
        let chip = Driven::new(Self { model, finds: u32::MAX, unfenced: false, polls: 0 }).unwrap();
        let mut unit = Calgary::over(chip, TableSize::MiB32, Limits::default()).unwrap();
        unit.bring_up(EndpointId(0), phb(), 0).unwrap();
        unit
    }
}

fn phb() -> PhbIndex {
    PhbIndex::new(0).unwrap()
}

/// Makes a batch true, and says which of its requests failed.
fn ask(unit: &mut Calgary<Driven<Watched>>, requests: &[Request]) -> Vec<bool> {
    let mut results = Vec::new();
    unit.apply(requests, Duration::from_secs(60), &mut results);
    assert!(!unit.chip().hardware().unfenced, "flushed lines may still be on their way");
    results.iter().map(Result::is_err).collect()
}

impl RegisterWindow for Watched {
    fn read32(&mut self, register: Register32) -> u32 {
        self.model.read32(register)
    }

    fn write32(&mut self, register: Register32, value: u32) {
        assert!(!self.unfenced, "the chip is told before flushed lines have arrived");
        self.model.write32(register, value);
    }

    fn read64(&mut self, register: Register64) -> u64 {
        self.polls += u32::from(register == phb().split_queue());
        self.model.read64(register)
    }

    fn write64(&mut self, register: Register64, value: u64) {
        assert!(!self.unfenced, "the chip is told before flushed lines have arrived");
        self.model.write64(register, value);
    }
}

impl Hardware for Watched {
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
        self.unfenced = true;
        self.model.flush_line(table, line);
    }

    fn fence(&mut self) {
        self.unfenced = false;
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

/// Entries of lost pages are free, also where a mapping was that the same batch removed.
#[test]
fn entries_of_lost_pages_lead_nowhere() {
    let mut unit = Watched::unit(Variant::Calgary);
    let entries = |unit: &Calgary<Driven<Watched>>| {
        let table = unit.domain(DomainId(1)).unwrap().table();
        [0x200, 0x203].map(|page| unit.chip().hardware().load(table, page))
    };
    assert_eq!(ask(&mut unit, &[attach(0, 1), map(1, 0x200, 4, 0x4000_0000, RW)]), [false; 2]);
    assert_eq!(entries(&unit), [0x4000_0000, 0x4000_3000].map(|real| Tce::new(RealAddr(real), RW)));
    // The MAP finds its pages, and the commit does not.
    unit.chip_mut().hardware_mut().finds = 1;
    assert_eq!(ask(&mut unit, &[unmap(1, 0x200, 4), map(1, 0x200, 4, 0x5000_0000, RW)]), [false; 2]);
    assert_eq!(entries(&unit), [Tce::FREE; 2]);
}

/// Linux's driver for CalIOC2 polls once in each attempt but the first.
#[test]
fn each_attempt_to_bring_a_phb_to_quiet_has_all_its_polls() {
    for variant in [Variant::Calgary, Variant::CalIoc2] {
        let mut unit = Watched::unit(variant);
        assert_eq!(ask(&mut unit, &[attach(0, 1), map(1, 0x200, 1, 0x4000_0000, RW)]), [false; 2]);
        unit.chip_mut().set_patience(Patience { polls: 20, attempts: 3 });
        let hardware = unit.chip_mut().hardware_mut();
        hardware.model.hold_splits(phb(), true);
        assert!(matches!(hardware.model.dma(phb(), Iova(0x20_0000), Access::Read), Dma::Reached(_)));
        hardware.polls = 0;
        assert_eq!(ask(&mut unit, &[unmap(1, 0x200, 1)]), [true]);
        assert_eq!(unit.chip().hardware().polls, 60, "{variant:?}");
    }
}
