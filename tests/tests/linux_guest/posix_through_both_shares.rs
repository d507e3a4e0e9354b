//! What a POSIX file system must do, through a share behind the IOMMU and one outside it.

use calgary_tests::vm::Scenario;

use crate::rig::{RING_PAGES, Rig};

#[test]
fn every_case_passes_and_no_mapping_is_left() {
    let Some(rig) = Rig::new() else { return };
    // A folder of a thousand files is listed in as many replies as one of five thousand, and made in a fifth of the time.
    let guest =
        rig.guest().scenario(Scenario::Posix).kernel_arg("calgary.entries=1000").then_commands().spawn().unwrap();
    let report = guest.report().unwrap();
    let failures: Vec<String> = report.failures().iter().map(|record| record.value.clone()).collect();
    assert!(failures.is_empty(), "{failures:#?}\n{}", guest.evidence());
    assert_eq!(report.status, 0, "{}", guest.evidence());
    assert!(report.all("case").count() >= 2 * 20, "cases are missing");
    assert!(guest.iommu_faults().unwrap().is_empty());
    assert!(rig.stats().maps > 0, "the guest used no IOMMU");
    rig.wait_for_pages(RING_PAGES);
    guest.quit().unwrap();
    rig.assert_clean();
}
