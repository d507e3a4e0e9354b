//! Single situations, each on both chips and in the two modes that count.

use iommu_calgary::chip::Chip;
use iommu_calgary::chip::model::{Dma, Knobs, Mode, Model};
use iommu_calgary::driver::Patience;
use iommu_calgary::registers::bits::{ccr, config_rw, savior_l2};
use iommu_calgary::registers::{CCR, PhbIndex, PhbRegister as R, RegisterWindow, Tar, Variant};
use iommu_calgary::{Access, DomainId, EndpointId, Error, Iova, MapError, Permissions, RealAddr, TableSize};

use crate::machine::{Machine, PATIENT, attach, detach, map, unmap};
use crate::{assert_clean, bypass};

const RW: Permissions = Permissions::READ_WRITE;

fn each(test: impl Fn(&mut Machine<Model>, Variant)) {
    for variant in [Variant::Calgary, Variant::CalIoc2] {
        for mode in [Mode::Adversarial, Mode::Realistic] {
            for seed in 1..4 {
                let model = Model::new(variant, Knobs::new(mode, seed));
                let mut machine = Machine::new(model, TableSize::MiB32, 2);
                test(&mut machine, variant);
                assert_clean(&mut machine);
            }
        }
    }
}

fn phb(index: usize) -> PhbIndex {
    PhbIndex::new(index).unwrap()
}

#[test]
fn bring_up_programs_what_linux_programs() {
    each(|machine, variant| {
        let model = machine.model();
        for index in 0..2 {
            let config = model.read32(phb(index).register(R::ConfigRw));
            let enables = config_rw::TCE_ENABLE | config_rw::DAC_DISABLE | config_rw::MCSR_ENABLE;
            assert_eq!(config, enables);
            let tar = Tar::from_value(model.read64(phb(index).tar()));
            assert_eq!((tar.size(), tar.valid_bit()), (TableSize::MiB32, false));
        }
        let savior = model.read32(phb(1).register(R::SaviorL2));
        // Bus 1 is the one whose disks need a longer timeout.
        let timeouts = model.read64(CCR);
        match variant {
            Variant::Calgary => assert_eq!((savior, timeouts), (0, ccr::with_timeout(0, phb(1), ccr::TIMEOUT_2S))),
            Variant::CalIoc2 => assert_eq!((savior, timeouts), (savior_l2::RECOMMENDED, 0)),
        }
    });
}

#[test]
fn nobody_in_no_domain_reaches_anything() {
    each(|machine, _| {
        assert_eq!(machine.dma(0, 0x20_0000, Access::Read), Dma::Refused);
        assert_eq!(machine.dma(1, 0x20_0000, Access::Write), Dma::Refused);
    });
}

/// The sequence without which flaws of invalidation are invisible.
#[test]
fn a_cached_page_can_be_mapped_elsewhere() {
    each(|machine, _| {
        machine.run(&[attach(0, 1), map(1, 0x200, 4, 0x4000_0000, RW)]);
        machine.sweep_and_compare();
        machine.stir();
        machine.run(&[unmap(1, 0x200, 4)]);
        machine.run(&[map(1, 0x200, 4, 0x5000_0000, RW)]);
        machine.sweep_and_compare();
        machine.run(&[unmap(1, 0x200, 4), map(1, 0x200, 4, 0x6000_0000, Permissions::READ)]);
        machine.sweep_and_compare();
        machine.run(&[unmap(1, 0x200, 4), map(1, 0x200, 4, 0x6000_0000, RW)]);
        machine.sweep_and_compare();
    });
}

#[test]
fn domains_do_not_see_each_other() {
    each(|machine, _| {
        machine.run(&[attach(0, 1), attach(1, 2)]);
        machine.run(&[map(1, 0x200, 2, 0x4000_0000, RW), map(2, 0x201, 2, 0x5000_0000, RW)]);
        machine.sweep_and_compare();
        machine.stir();
        machine.run(&[attach(1, 1)]);
        machine.sweep_and_compare();
        machine.run(&[detach(0, 1), unmap(1, 0x200, 2), map(1, 0x201, 1, 0x6000_0000, RW)]);
        machine.sweep_and_compare();
        assert_eq!(machine.dma(0, 0x20_1000, Access::Read), Dma::Refused);
    });
}

#[test]
fn bypass_is_entered_and_left() {
    each(|machine, _| {
        machine.run(&[attach(0, 1), map(1, 0x200, 2, 0x4000_0000, RW)]);
        machine.sweep_and_compare();
        machine.run(&[bypass(0, 7)]);
        assert_eq!(machine.dma(0, 0x20_0123, Access::Read), Dma::Reached(RealAddr(0x20_0123)));
        machine.run(&[attach(0, 1), map(1, 0x201, 2, 0x4000_0000, RW)]);
        machine.sweep_and_compare();
        assert_eq!(machine.dma(0, 0x20_0123, Access::Read), Dma::Refused);
    });
}

#[test]
fn what_goes_past_the_tables_cannot_be_mapped() {
    for variant in [Variant::Calgary, Variant::CalIoc2] {
        let mut model = Model::new(variant, Knobs::new(Mode::Adversarial, 1));
        model.preset32(phb(0).register(R::Mem1Low), 0x0080_0000);
        model.preset32(phb(0).register(R::Mem1Limit), 0x0090_0000);
        let mut machine = Machine::new(model, TableSize::MiB32, 1);
        machine.run(&[attach(0, 1)]);
        let mut map_page = |page: u64| {
            let (first, last) = (Iova(page << 12), Iova((page << 12) + 0xFFF));
            machine.unit.map(DomainId(1), first, last, RealAddr(0), RW)
        };
        for page in [0xA0, 0xFF, 0x800, 0x9FF] {
            assert_eq!(map_page(page), Err(MapError::Reserved), "page {page:#x}");
        }
        for page in [0x100, 0x7FF, 0xA00] {
            assert_eq!(map_page(page), Ok(()), "page {page:#x}");
        }
        // CalIOC2 keeps the whole first MiB out of the tables.
        assert_eq!(map_page(0x9F).is_ok(), variant == Variant::Calgary);
    }
}

/// Splits that never end: no invalidation "all the same", nothing left stopped, and everyone is told.
#[test]
fn a_phb_that_does_not_come_to_quiet_is_cut_off() {
    each(|machine, _| {
        machine.unit.chip_mut().set_patience(Patience { polls: 100, attempts: 3 });
        machine.run(&[attach(0, 1), attach(1, 1), map(1, 0x200, 4, 0x4000_0000, RW)]);
        machine.sweep_and_compare();
        machine.model().run(1000);
        machine.model().hold_splits(phb(0), true);
        machine.dma(0, 0x20_0000, Access::Read);
        let commit = machine.run(&[unmap(1, 0x200, 4)]);
        assert_eq!(commit.broken, [EndpointId(0)]);
        assert!(machine.unit.is_broken(EndpointId(0)));
        assert_eq!(machine.dma(0, 0x20_0000, Access::Read), Dma::Aborted);
        assert_eq!(machine.dma(1, 0x20_0000, Access::Read), Dma::Refused);

        // What the broken endpoint had begun may go on, so a later UNMAP of its domain fails too.
        let mut results = Vec::new();
        machine.unit.map(DomainId(1), Iova(0x30_0000), Iova(0x30_0fff), RealAddr(0), RW).unwrap();
        machine.unit.apply(&[unmap(1, 0x300, 1)], std::time::Duration::ZERO, &mut results);
        assert!(results[0].as_ref().unwrap_err().to_string().contains("did not stop"));
        assert_eq!(machine.unit.broken_user(&unmap(1, 0x300, 1)), Some(EndpointId(0)));
        assert_eq!(machine.unit.broken_user(&attach(1, 2)), None);
        assert_eq!(machine.unit.broken_user(&attach(0, 1)), None, "it is there already");
        assert_eq!(machine.unit.broken_user(&attach(0, 2)), Some(EndpointId(0)));

        machine.model().hold_splits(phb(0), false);
        machine.model().run(1000);
        assert_eq!(machine.reset().broken, []);
        machine.run(&[attach(0, 1), map(1, 0x200, 4, 0x5000_0000, RW)]);
        machine.sweep_and_compare();
    });
}

/// Whoever unmaps and detaches in one batch is told of both that they are not true.
#[test]
fn an_unmap_fails_also_if_the_one_that_did_not_come_to_quiet_has_left_the_domain() {
    each(|machine, _| {
        machine.unit.chip_mut().set_patience(Patience { polls: 100, attempts: 3 });
        machine.run(&[attach(0, 1), attach(1, 1), map(1, 0x200, 4, 0x4000_0000, RW)]);
        machine.model().hold_splits(phb(0), true);
        machine.dma(0, 0x20_0000, Access::Read);
        let mut results = Vec::new();
        machine.unit.apply(&[unmap(1, 0x200, 4), detach(0, 1), map(1, 0x300, 1, 0, RW)], PATIENT, &mut results);
        let failed: Vec<bool> = results.iter().map(Result::is_err).collect();
        assert_eq!(failed, [true, true, false]);
    });
}

#[test]
fn splits_that_end_late_are_waited_for() {
    each(|machine, _| {
        machine.run(&[attach(0, 1), map(1, 0x200, 4, 0x4000_0000, RW)]);
        machine.dma(0, 0x20_0000, Access::Read);
        machine.dma(0, 0x20_1000, Access::Read);
        assert!(machine.model().outstanding(phb(0)) > 0);
        machine.run(&[unmap(1, 0x200, 4)]);
        assert_eq!(machine.model().outstanding(phb(0)), 0);
    });
}

#[test]
fn a_phb_serves_one_endpoint() {
    each(|machine, _| {
        assert!(matches!(machine.unit.bring_up(EndpointId(9), phb(0), 0), Err(Error::PhbInUse(0))));
        assert!(matches!(machine.unit.bring_up(EndpointId(0), phb(2), 0), Err(Error::DuplicateEndpoint(_))));
    });
}

#[test]
fn a_unit_that_goes_away_leaves_nothing_open() {
    for variant in [Variant::Calgary, Variant::CalIoc2] {
        let model = Model::new(variant, Knobs::new(Mode::Adversarial, 1));
        let mut machine = Machine::new(model, TableSize::MiB32, 1);
        machine.run(&[attach(0, 1), map(1, 0x200, 4, 0x4000_0000, RW)]);
        // As the unit does when it is dropped.
        machine.unit.chip_mut().shut_down(0);
        let model = machine.model();
        assert_eq!(model.dma(phb(0), Iova(0x20_0000), Access::Read), Dma::Aborted);
        assert_eq!(model.read64(phb(0).tar()), 0);
        let config = model.read32(phb(0).register(R::ConfigRw));
        assert_eq!(config, config_rw::SLOT_DISABLE);
    }
}

/// Entries are stored once with their final value, lines are flushed once, and each PHB is invalidated once.
#[test]
fn a_batch_costs_what_it_changes() {
    let knobs = Knobs { traffic_percent: 0, ..Knobs::new(Mode::Adversarial, 1) };
    let mut machine = Machine::new(Model::new(Variant::Calgary, knobs), TableSize::MiB32, 2);
    machine.run(&[attach(0, 1), attach(1, 1), map(1, 0x200, 16, 0x4000_0000, RW)]);
    let before = machine.model().counters();
    let mut batch = vec![unmap(1, 0x200, 16)];
    batch.extend((0..16).map(|page| map(1, 0x200 + page, 1, 0x5000_0000 + page * 0x10_0000, RW)));
    batch.extend([unmap(1, 0x204, 2), map(1, 0x300, 1, 0x6000_0000, RW), unmap(1, 0x300, 1)]);
    machine.run(&batch);
    let cost = machine.model().counters() - before;
    assert_eq!(cost.stores, 16);
    assert_eq!(cost.line_flushes, 2);
    assert_eq!(cost.invalidations, 2);
    machine.sweep_and_compare();

    let before = machine.model().counters();
    machine.run(&[map(1, 0x400, 512, 0x7000_0000, RW)]);
    let cost = machine.model().counters() - before;
    assert_eq!((cost.stores, cost.line_flushes, cost.invalidations, cost.mmio_reads), (512, 64, 0, 0));
    assert_eq!(machine.model().violations(), []);
}
