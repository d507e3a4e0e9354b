//! Runs of real memory behind IOVA ranges.

use iommu_calgary::{Access, FaultReason, Iova, Permissions, RealAddr, Run};

use crate::rig::{D1, Rig, read};

fn run(real: u64, len: u64) -> Run {
    Run { real: RealAddr(real), len }
}

#[test]
fn a_run_is_as_long_as_real_memory_is_contiguous() {
    let mut rig = Rig::attached();
    rig.map(0x1000, 0x2fff, 0x10_000).unwrap();
    rig.map(0x3000, 0x3fff, 0x12_000).unwrap();
    rig.map(0x4000, 0x4fff, 0x20_000).unwrap();
    rig.commit();
    assert_eq!(read(&rig.nic, 0x1000, 0x4000), Ok(run(0x10_000, 0x3000)));
    assert_eq!(read(&rig.nic, 0x1abc, 0x4000), Ok(run(0x10_abc, 0x2544)));
    assert_eq!(read(&rig.nic, 0x1abc, 0x10), Ok(run(0x10_abc, 0x10)));
    assert_eq!(read(&rig.nic, 0x1fff, 2), Ok(run(0x10_fff, 2)));
    assert_eq!(read(&rig.nic, 0x4800, u64::MAX), Ok(run(0x20_800, 0x800)));
    assert_eq!(read(&rig.nic, 0x4800, 0), Ok(run(0x20_800, 0)));
    let fault = read(&rig.nic, 0x5000, 0).unwrap_err();
    assert_eq!((fault.iova, fault.access, fault.reason), (Iova(0x5000), Access::Read, FaultReason::NotMapped));
}

#[test]
fn a_run_ends_where_the_access_is_no_longer_permitted() {
    let mut rig = Rig::attached();
    let pages = [Permissions::READ_WRITE, Permissions::READ, Permissions::READ_WRITE];
    for (page, permissions) in (1..).zip(pages) {
        let first = page * 0x1000;
        rig.iommu.map(D1, Iova(first), Iova(first + 0xfff), RealAddr(0x10_000 + first), permissions).unwrap();
    }
    rig.commit();
    let mut port = rig.nic.new_port();
    let epoch = port.enter();
    assert_eq!(epoch.translate(Iova(0x1000), 0x3000, Access::Read), Ok(run(0x11_000, 0x3000)));
    assert_eq!(epoch.translate(Iova(0x1000), 0x3000, Access::Write), Ok(run(0x11_000, 0x1000)));
    let fault = epoch.translate(Iova(0x2000), 0x2000, Access::Write).unwrap_err();
    assert_eq!((fault.iova, fault.reason), (Iova(0x2000), FaultReason::Denied));
}

#[test]
fn a_run_ends_with_the_window() {
    let mut rig = Rig::attached();
    let window = rig.iommu.size().window_bytes();
    rig.map(0, window - 1, 0x10_0000).unwrap();
    rig.commit();
    assert_eq!(read(&rig.nic, 0, u64::MAX), Ok(run(0x10_0000, window)));
    assert_eq!(read(&rig.nic, window - 1, 2), Ok(run(window + 0xf_ffff, 1)));
    for beyond in [window, window + 0x1000, 1 << 48, u64::MAX] {
        assert_eq!(read(&rig.nic, beyond, 1).unwrap_err().reason, FaultReason::NotMapped);
    }
}

#[test]
fn real_memory_never_wraps_into_a_run() {
    let mut rig = Rig::attached();
    rig.map(0, 0xfff, (1 << 48) - 0x1000).unwrap();
    rig.map(0x1000, 0x1fff, 0).unwrap();
    rig.commit();
    assert_eq!(read(&rig.nic, 0, 0x2000), Ok(run((1 << 48) - 0x1000, 0x1000)));
}

#[test]
fn an_untranslated_run_ends_with_the_addresses_a_tce_could_reach() {
    let mut rig = Rig::new();
    rig.iommu.set_bypass(true);
    rig.commit();
    assert_eq!(read(&rig.nic, 0x123, u64::MAX), Ok(run(0x123, (1 << 48) - 0x123)));
    assert_eq!(read(&rig.nic, u64::MAX, 1).unwrap_err().reason, FaultReason::NotMapped);
}
