//! The rules of MAP and UNMAP, virtio 1.2 §5.13.6.5 and §5.13.6.6.

use iommu_calgary::{Access, DomainId, DomainKind, FaultReason, Iova, MapError, Permissions, RealAddr, UnmapError};

use crate::rig::{D1, D2, DISK, Rig, reach};

const WINDOW: u64 = 32 << 20;

#[test]
fn map_wants_whole_pages() {
    let mut rig = Rig::attached();
    for (first, last, real) in [
        (0x1800, 0x2fff, 0x5000),
        (0x1000, 0x2ffe, 0x5000),
        (0x1000, 0x2000, 0x5000),
        (0x1000, 0x1000, 0x5000),
        (0x1000, 0x2fff, 0x5001),
    ] {
        assert_eq!(rig.map(first, last, real), Err(MapError::Unaligned), "{first:#x}..={last:#x}");
    }
    assert_eq!(rig.iommu.live_mappings(), 0);
    assert_eq!(rig.map(0x1000, 0x1fff, 0x5000), Ok(()));
}

#[test]
fn map_refuses_inverted_ranges() {
    let mut rig = Rig::attached();
    assert_eq!(rig.map(0x2000, 0x1fff, 0), Err(MapError::Inverted));
    assert_eq!(rig.map(0x2000, 0xfff, 0), Err(MapError::Inverted));
    assert_eq!(rig.map(u64::MAX, 0, 0), Err(MapError::Inverted));
}

#[test]
fn map_stays_inside_the_window() {
    let mut rig = Rig::attached();
    for (first, last) in [
        (WINDOW, WINDOW + 0xfff),
        (WINDOW - 0x1000, WINDOW + 0xfff),
        (0, u64::MAX),
        // The successor of the last address wraps to 0, which is aligned.
        (u64::MAX - 0xfff, u64::MAX),
    ] {
        assert_eq!(rig.map(first, last, 0), Err(MapError::OutsideWindow), "{first:#x}..={last:#x}");
    }
    assert_eq!(rig.map(WINDOW - 0x1000, WINDOW - 1, 0x5000), Ok(()));
    assert_eq!(rig.unmap(0, u64::MAX), Ok(1));
    assert_eq!(rig.map(0, WINDOW - 1, 0x5000), Ok(()));
    rig.commit();
    assert_eq!(reach(&rig.nic, WINDOW - 1), Ok(WINDOW - 1 + 0x5000));
    assert_eq!(reach(&rig.nic, WINDOW), Err(FaultReason::NotMapped));
}

#[test]
fn map_refuses_real_addresses_that_a_tce_cannot_hold() {
    let mut rig = Rig::attached();
    for real in [1 << 48, (1 << 48) - 0x1000, u64::MAX - 0xfff, u64::MAX - 0x1fff] {
        assert_eq!(rig.map(0, 0x1fff, real), Err(MapError::BadAddress), "{real:#x}");
    }
    assert_eq!(rig.map(0, 0x1fff, (1 << 48) - 0x2000), Ok(()));
    rig.commit();
    assert_eq!(reach(&rig.nic, 0x1fff), Ok((1 << 48) - 1));
}

#[test]
fn map_refuses_any_overlap_and_leaves_the_old_mapping() {
    let mut rig = Rig::attached();
    rig.map(0x10_000, 0x2f_fff, 0x50_000).unwrap();
    for (first, last) in [
        (0x10_000, 0x2f_fff),
        (0x10_000, 0x10_fff),
        (0x2f_000, 0x2f_fff),
        (0x20_000, 0x20_fff),
        (0xf_000, 0x10_fff),
        (0x2f_000, 0x30_fff),
        (0, WINDOW - 1),
    ] {
        assert_eq!(rig.map(first, last, 0x90_000), Err(MapError::Overlap), "{first:#x}..={last:#x}");
    }
    assert_eq!(rig.iommu.live_mappings_of(D1), 1);
    rig.commit();
    for page in 0x10..0x30 {
        assert_eq!(reach(&rig.nic, page << 12), Ok((page << 12) + 0x40_000));
    }
    assert_eq!(reach(&rig.nic, 0xf_fff), Err(FaultReason::NotMapped));
    assert_eq!(reach(&rig.nic, 0x30_000), Err(FaultReason::NotMapped));
    rig.map(0xf_000, 0xf_fff, 0).unwrap();
    rig.map(0x30_000, 0x30_fff, 0).unwrap();
}

#[test]
fn map_refuses_reserved_regions() {
    let mut rig = Rig::attached();
    rig.iommu.reserve(Iova(0xa_0000), Iova(0xf_ffff));
    rig.iommu.reserve(Iova(0xfee0_0000), Iova(0xfeef_ffff));
    assert_eq!(rig.map(0xa_0000, 0xa_0fff, 0), Err(MapError::Reserved));
    assert_eq!(rig.map(0x9_f000, 0xa_0fff, 0), Err(MapError::Reserved));
    assert_eq!(rig.map(0, 0x1f_ffff, 0), Err(MapError::Reserved));
    assert_eq!(rig.map(0x9_f000, 0x9_ffff, 0), Ok(()));
    assert_eq!(rig.map(0x10_0000, 0x10_0fff, 0), Ok(()));
}

#[test]
fn each_permission_allows_its_own_direction_only() {
    let mut rig = Rig::attached();
    let all = [Permissions::NONE, Permissions::READ, Permissions::WRITE, Permissions::READ_WRITE];
    for (page, permissions) in all.into_iter().enumerate() {
        let first = Iova(page as u64 * 0x1000);
        let last = Iova(first.0 + 0xfff);
        rig.iommu.map(D1, first, last, RealAddr(0x9000), permissions).unwrap();
        rig.commit();
        let mut port = rig.nic.new_port();
        let epoch = port.enter();
        for access in [Access::Read, Access::Write] {
            let result = epoch.translate(first, 1, access);
            if permissions.allows(access) {
                assert_eq!(result.unwrap().real, RealAddr(0x9000));
            } else {
                let fault = result.unwrap_err();
                assert_eq!((fault.iova, fault.access, fault.reason), (first, access, FaultReason::Denied));
            }
        }
    }
}

#[test]
fn a_mapping_without_permissions_is_a_mapping() {
    let mut rig = Rig::attached();
    rig.iommu.map(D1, Iova(0x1000), Iova(0x2fff), RealAddr(0), Permissions::NONE).unwrap();
    assert_eq!(rig.map(0x2000, 0x2fff, 0), Err(MapError::Overlap));
    assert_eq!(rig.unmap(0x1000, 0x1fff), Err(UnmapError::Split));
    assert_eq!(rig.unmap(0x1000, 0x2fff), Ok(1));
}

#[test]
fn requests_to_missing_and_bypass_domains_are_told_apart() {
    let mut rig = Rig::attached();
    rig.iommu.attach(D2, DISK, DomainKind::Bypass).unwrap();
    let (first, last) = (Iova(0), Iova(0xfff));
    let mut map = |domain| rig.iommu.map(domain, first, last, RealAddr(0), Permissions::READ);
    assert_eq!(map(DomainId(7)), Err(MapError::NoDomain));
    assert_eq!(map(D2), Err(MapError::Bypass));
    assert_eq!(rig.iommu.unmap(DomainId(7), first, last), Err(UnmapError::NoDomain));
    assert_eq!(rig.iommu.unmap(D2, first, last), Err(UnmapError::Bypass));
    assert_eq!(rig.iommu.unmap(D1, first, last), Ok(0));
}

#[test]
fn unmap_removes_what_lies_inside_and_tolerates_holes() {
    let mut rig = Rig::attached();
    assert_eq!(rig.unmap(0, 0xffff), Ok(0));
    rig.map(0x1000, 0x2fff, 0x10_000).unwrap();
    rig.map(0x5000, 0x5fff, 0x20_000).unwrap();
    rig.map(0x9000, 0x9fff, 0x30_000).unwrap();
    assert_eq!(rig.unmap(0, 0x7fff), Ok(2));
    assert_eq!(rig.iommu.live_mappings(), 1);
    rig.commit();
    assert_eq!(reach(&rig.nic, 0x1000), Err(FaultReason::NotMapped));
    assert_eq!(reach(&rig.nic, 0x5000), Err(FaultReason::NotMapped));
    assert_eq!(reach(&rig.nic, 0x9000), Ok(0x30_000));
}

#[test]
fn unmap_that_would_split_removes_nothing() {
    let mut rig = Rig::attached();
    rig.map(0x1000, 0x1fff, 0x10_000).unwrap();
    rig.map(0x4000, 0x7fff, 0x20_000).unwrap();
    rig.map(0x9000, 0x9fff, 0x30_000).unwrap();
    for (first, last) in [
        (0, 0x4fff),
        (0x1000, 0x6fff),
        (0x5000, 0x9fff),
        (0x4000, 0x6fff),
        (0x5000, 0x7fff),
        (0x5000, 0x6fff),
        // Bounds inside a mapped page cut it.
        (0x1001, 0x3fff),
        (0, 0x1ffe),
        (0, 0x9000),
        (0x1fff, 0x1fff),
        (0x1000, 0x1000),
    ] {
        assert_eq!(rig.unmap(first, last), Err(UnmapError::Split), "{first:#x}..={last:#x}");
    }
    assert_eq!(rig.iommu.live_mappings(), 3);
    rig.commit();
    for iova in [0x1000, 0x4000, 0x5000, 0x6000, 0x7000, 0x9000] {
        assert!(reach(&rig.nic, iova).is_ok());
    }
}

#[test]
fn unmap_needs_no_alignment_where_nothing_is_mapped() {
    let mut rig = Rig::attached();
    rig.map(0, 0xfff, 0x10_000).unwrap();
    assert_eq!(rig.unmap(0x1234, 0x5678), Ok(0));
    assert_eq!(rig.unmap(0, 0x1000), Ok(1));
    rig.map(0x3000, 0x3fff, 0x10_000).unwrap();
    assert_eq!(rig.unmap(0x2fff, 0x4000), Ok(1));
    assert_eq!(rig.unmap(0x5, 0x5), Ok(0));
}

#[test]
fn unmap_is_clamped_to_the_window() {
    let mut rig = Rig::attached();
    rig.map(WINDOW - 0x1000, WINDOW - 1, 0x10_000).unwrap();
    rig.map(0, 0xfff, 0x20_000).unwrap();
    assert_eq!(rig.unmap(WINDOW, u64::MAX), Ok(0));
    assert_eq!(rig.unmap(WINDOW - 0x1000, WINDOW + 0x123), Ok(1));
    assert_eq!(rig.unmap(0, u64::MAX), Ok(1));
    assert_eq!(rig.unmap(u64::MAX, 0), Err(UnmapError::Inverted));
}

#[test]
fn adjacent_mappings_are_units_of_their_own() {
    let mut rig = Rig::attached();
    let map_both = |rig: &mut Rig| {
        rig.map(0x1000, 0x1fff, 0x10_000).unwrap();
        rig.map(0x2000, 0x3fff, 0x11_000).unwrap();
    };
    map_both(&mut rig);
    assert_eq!(rig.unmap(0x1000, 0x2fff), Err(UnmapError::Split));
    assert_eq!(rig.unmap(0x2000, 0x3fff), Ok(1));
    assert_eq!(rig.unmap(0x1000, 0x1fff), Ok(1));
    map_both(&mut rig);
    assert_eq!(rig.unmap(0x1000, 0x3fff), Ok(2));
}
