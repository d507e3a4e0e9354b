//! A share does in each cache mode what the guest's own tmpfs does, but for the differences that are explained.

use std::path::Path;

use calgary_tests::posix::{self, CACHES, EXPLAINED, Explained, Results, Run};

use crate::rig::{DIRECT, Rig, TRANSLATED};

#[test]
fn every_difference_from_tmpfs_is_explained_and_there() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: owners, devices and other users' files need root");
        return;
    }
    let Some(rig) = Rig::new() else { return };
    // Behind the IOMMU once only: it makes no difference to the files, and the guest's part of it takes its time.
    let run = |cache: &'static str| {
        let tag = if cache == "none" { TRANSLATED } else { DIRECT };
        Run { label: cache.to_owned(), tag: tag.to_owned(), cache }
    };
    let program = Path::new(env!("CARGO_BIN_EXE_posix-cases"));
    let guest = posix::prepare(rig.guest(), program, &CACHES.map(run), None).then_commands().spawn().unwrap();
    let report = guest.report().unwrap();
    assert_eq!(report.all("problem").count(), 0, "{}", guest.evidence());
    let results = Results::of(&report);
    assert!(results.cases().count() >= 150, "cases are missing");
    let explained = Explained::parse(EXPLAINED).unwrap();
    let surprises: Vec<_> = CACHES.iter().flat_map(|label| results.surprises(label, &explained)).collect();
    assert!(surprises.is_empty(), "{}\n", surprises.join("\n"));
    assert!(guest.iommu_faults().unwrap().is_empty());
    guest.quit().unwrap();
    rig.assert_clean();
}
