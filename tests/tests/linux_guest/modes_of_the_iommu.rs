//! The modes in which Linux drives an IOMMU.

use calgary_tests::vm::{Machine, Scenario};

use crate::rig::{DIRECT, RING_PAGES, Rig, TRANSLATED};

const MIB: usize = 8;

/// Runs the demonstration scenario and checks every byte on both sides; the guest waits for commands then.
fn demonstrate(rig: &Rig, argument: &str, domain: &str) -> Machine {
    let input: Vec<u8> = (0..MIB << 20).map(|i: usize| (i ^ (i >> 8) ^ (i >> 13)).to_le_bytes()[0]).collect();
    std::fs::write(rig.shared().join("input.bin"), &input).unwrap();
    let guest = rig
        .guest()
        .scenario(Scenario::Demo)
        .kernel_arg(format!("calgary.mib={MIB}"))
        .kernel_arg(argument)
        .then_commands()
        .spawn()
        .unwrap();
    let report = guest.report().unwrap();
    assert_eq!(report.status, 0, "{}", guest.evidence());
    let device = report.about("device", TRANSLATED).unwrap();
    assert_eq!(device.field("domain"), Some(domain), "{}", guest.evidence());
    assert_eq!(report.about("device", DIRECT).unwrap().field("group"), Some("none"));
    let (first, second) = input.split_at(input.len() / 2);
    for tag in [TRANSLATED, DIRECT] {
        let written = std::fs::read(rig.shared().join(format!("output-{tag}.bin"))).unwrap();
        assert!(written == [second, first].concat(), "{tag}: other bytes arrived");
    }
    assert!(guest.iommu_faults().unwrap().is_empty(), "{}", guest.evidence());
    guest
}

#[test]
fn strict_mode_unmaps_at_once() {
    let Some(rig) = Rig::new() else { return };
    let guest = demonstrate(&rig, "iommu.strict=1", "DMA");
    // Only rings are mapped when the last answer is out: the script ends after its file systems are unmounted.
    let stats = rig.stats();
    assert!(stats.maps > 0);
    assert_eq!(rig.iommu().live_mappings(), stats.maps - stats.unmaps);
    assert!(rig.iommu().live_mappings() <= 4, "{stats:?}");
    guest.quit().unwrap();
    rig.assert_clean();
}

#[test]
fn lazy_mode_batches_unmaps() {
    let Some(rig) = Rig::new() else { return };
    let guest = demonstrate(&rig, "iommu.strict=0", "DMA-FQ");
    let stats = rig.stats();
    assert!(stats.largest_batch > 1, "{stats:?}");
    rig.wait_for_pages(RING_PAGES);
    guest.quit().unwrap();
    rig.assert_clean();
}

#[test]
fn passthrough_maps_nothing() {
    let Some(rig) = Rig::new() else { return };
    let guest = demonstrate(&rig, "iommu.passthrough=1", "identity");
    let stats = rig.stats();
    assert_eq!((stats.maps, stats.unmaps), (0, 0));
    assert!(stats.attaches > 0);
    guest.quit().unwrap();
    rig.assert_clean();
}
