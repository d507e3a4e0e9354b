//! DMA errors, from the access to the endpoint that is cut off.

use iommu_calgary::chip::model::{Dma, Knobs, Mode, Model};
use iommu_calgary::registers::{Calioc2Error, PhbIndex, PhbRegister as R, Variant};
use iommu_calgary::{Access, EndpointId, Permissions, TableSize};

use crate::assert_clean;
use crate::machine::{Machine, attach, map};

#[test]
fn an_error_cuts_its_own_bus_off_and_no_other() {
    for variant in [Variant::Calgary, Variant::CalIoc2] {
        let model = Model::new(variant, Knobs::new(Mode::Adversarial, 1));
        let mut machine = Machine::new(model, TableSize::MiB32, 2);
        machine.run(&[attach(0, 1), attach(1, 1), map(1, 0x200, 1, 0x4000_0000, Permissions::READ)]);
        assert_eq!(machine.unit.watchdog(), []);

        let phb = PhbIndex::ALL[1];
        for (error, value) in Calioc2Error::all().zip(0x100..) {
            machine.model().preset32(error.of(phb), value);
        }
        machine.model().preset32(phb.register(R::Csmr), 0x11);
        machine.model().preset32(phb.register(R::Mck), 0x22);
        machine.model().preset32(phb.register(R::RootComplexStatus), 0x33);
        assert_eq!(machine.dma(1, 0x20_0000, Access::Write), Dma::Refused);

        let errors = machine.unit.watchdog();
        let [(endpoint, error)] = errors.as_slice() else { panic!("{errors:?}") };
        assert_eq!(*endpoint, EndpointId(1));
        assert_eq!((error.phb, error.csr, error.agent, error.plssr), (phb, 0x1001_0000, 1, 0x0400_0000));
        let shown = error.to_string();
        assert!(shown.starts_with("DMA error on PHB 1: agent 1, CSR 0x10010000, PLSSR 0x04000000"), "{shown}");
        match (variant, &error.calioc2) {
            (Variant::Calgary, None) => {}
            (Variant::CalIoc2, Some(status)) => {
                assert_eq!((status.csmr, status.mck, status.root_complex), (0x11, 0x22, 0x33));
                assert_eq!(status.errors, [0x100, 0x101, 0x102, 0x103, 0x104, 0x105, 0x106]);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(machine.dma(1, 0x20_0000, Access::Read), Dma::Aborted);
        assert!(matches!(machine.dma(0, 0x20_0000, Access::Read), Dma::Reached(_)));
        // Told once.
        assert_eq!(machine.unit.watchdog(), []);

        assert_eq!(machine.reset().broken, []);
        machine.run(&[attach(1, 1), map(1, 0x200, 1, 0x4000_0000, Permissions::WRITE)]);
        machine.sweep_and_compare();
        assert_clean(&mut machine);
    }
}
