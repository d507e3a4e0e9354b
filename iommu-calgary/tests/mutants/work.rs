//! A day's work of two PHBs: everything that a guest does, in small.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use iommu_calgary::chip::model::{Knobs, Mode, Model, Violation};
use iommu_calgary::driver::Patience;
use iommu_calgary::registers::{PhbIndex, PhbRegister as R, Variant};
use iommu_calgary::{Access, DomainId, Iova, Permissions, RealAddr, Request, TableSize};

use crate::faulty::{Fault, Faulty};
use crate::machine::{Machine, attach, detach, map, unmap};

const RW: Permissions = Permissions::READ_WRITE;
const R_ONLY: Permissions = Permissions::READ;

/// A peripheral window: pages 0x1000 to 0x11FF.
const WINDOW: (u32, u32) = (0x0100_0000, 0x0110_0000);

/// What the model reports of the work with a fault. Several seeds, since some faults need a split at the right moment.
pub(crate) fn violations_of(fault: Option<Fault>, variant: Variant) -> Vec<Violation> {
    (1..=3).flat_map(|seed| one_day(fault, variant, seed)).collect()
}

fn one_day(fault: Option<Fault>, variant: Variant, seed: u64) -> Vec<Violation> {
    let mut model = Model::new(variant, Knobs { real_limit: 1 << 40, ..Knobs::new(Mode::Adversarial, seed) });
    for phb in &PhbIndex::ALL[..2] {
        model.preset32(phb.register(R::Mem1Low), WINDOW.0);
        model.preset32(phb.register(R::Mem1Limit), WINDOW.1);
    }
    let mut day =
        Day { machine: Machine::new(Faulty::new(model, fault), TableSize::MiB64, 2), healthy: fault.is_none() };
    day.machine.acknowledge_early = fault == Some(Fault::AcknowledgedBeforeTheWork);
    day.machine.unit.chip_mut().set_patience(Patience { polls: 100, attempts: 3 });

    // A mutant may also trip over an assertion of the work; what counts is the model's report.
    let outcome = catch_unwind(AssertUnwindSafe(|| day.work()));
    if let Err(cause) = outcome
        && fault.is_none()
    {
        resume_unwind(cause);
    }
    day.machine.model().violations().to_vec()
}

struct Day {
    machine: Machine<Faulty>,
    healthy: bool,
}

impl Day {
    fn work(&mut self) {
        self.set_up();
        self.map_and_use_again();
        self.change_permissions();
        self.move_between_domains();
        self.map_a_window();
        self.hang();
    }

    fn run(&mut self, requests: &[Request]) {
        self.machine.run(requests);
        self.sweep();
    }

    /// Every page in use is read and written. A faulty driver's results are the model's business, not a test's.
    fn sweep(&mut self) {
        if self.healthy {
            self.machine.sweep_and_compare();
        } else {
            self.machine.model().set_traffic(Vec::new());
            self.machine.model().run(500);
            self.machine.sweep();
        }
        self.machine.stir();
    }

    fn set_up(&mut self) {
        self.run(&[attach(0, 1), attach(1, 2)]);
        self.run(&[map(1, 0x200, 12, 0x4000_0000, RW), map(2, 0x200, 12, 0x5000_0000, RW)]);
    }

    fn map_and_use_again(&mut self) {
        self.run(&[unmap(1, 0x200, 12)]);
        for round in 0..3 {
            let real = 0x4100_0000 + round * 0x10_0000;
            self.run(&[map(1, 0x200, 1, real, RW), map(1, 0x201, 3, real + 0x1_0000, RW)]);
            self.run(&[unmap(1, 0x201, 3), map(1, 0x201, 3, real + 0x2_0000, RW)]);
            self.run(&[unmap(1, 0x200, 4)]);
        }
    }

    fn change_permissions(&mut self) {
        self.run(&[map(1, 0x300, 2, 0x6000_0000, R_ONLY)]);
        self.run(&[unmap(1, 0x300, 2), map(1, 0x300, 2, 0x6000_0000, RW)]);
        self.run(&[unmap(1, 0x300, 2), map(1, 0x300, 2, 0x6000_0000, R_ONLY)]);
    }

    fn move_between_domains(&mut self) {
        self.run(&[attach(1, 1)]);
        self.run(&[attach(1, 2), map(2, 0x200, 2, 0x5100_0000, RW)]);
        self.run(&[detach(1, 2)]);
        self.run(&[attach(1, 2), map(2, 0x202, 2, 0x5200_0000, RW)]);
    }

    /// A guest asks for pages that the chip does not translate. The naive model is not told: it is the driver's to refuse.
    fn map_a_window(&mut self) {
        let (first, last) = (Iova(u64::from(WINDOW.0)), Iova(u64::from(WINDOW.0) + 0xFFF));
        let mapped = self.machine.unit.map(DomainId(1), first, last, RealAddr(0x7000_0000), RW);
        self.machine.unit.commit(crate::machine::PATIENT);
        if mapped.is_ok() {
            assert!(!self.healthy);
            self.machine.unit.unmap(DomainId(1), first, last).unwrap();
            self.machine.unit.commit(crate::machine::PATIENT);
        }
    }

    /// A device whose reads do not end.
    fn hang(&mut self) {
        let phb = PhbIndex::ALL[0];
        self.run(&[map(1, 0x400, 1, 0x7100_0000, RW)]);
        self.machine.model().set_traffic(Vec::new());
        self.machine.model().run(1000);
        self.machine.model().hold_splits(phb, true);
        self.machine.model().dma(phb, Iova(0x40_0000), Access::Read);
        let commit = self.machine.run(&[unmap(1, 0x400, 1)]);
        assert!(!self.healthy || !commit.broken.is_empty());
        self.machine.model().hold_splits(phb, false);
        self.machine.model().run(1000);
        self.machine.reset();
        self.run(&[attach(0, 1), map(1, 0x400, 1, 0x7200_0000, RW)]);
    }
}
