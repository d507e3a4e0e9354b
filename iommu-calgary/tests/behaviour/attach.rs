//! The life of domains, virtio 1.2 §5.13.6.3 and §5.13.6.4.

use std::os::fd::AsFd;

use iommu_calgary::{
    AttachError, Calgary, DetachError, DomainId, DomainKind, EndpointId, Error, FaultReason, Iova, Limits, Permissions,
    RealAddr, TableSize,
};
use rustix::io::pread;

use crate::rig::{AT_ONCE, D1, D2, DISK, NIC, Rig, reach};

use DomainKind::{Bypass, Translated};

#[test]
fn an_unattached_endpoint_reaches_nothing_or_everything() {
    let mut rig = Rig::new();
    assert_eq!(reach(&rig.nic, 0x1000), Err(FaultReason::NotAttached));
    rig.iommu.set_bypass(true);
    rig.commit();
    assert_eq!(reach(&rig.nic, 0x1234), Ok(0x1234));
    assert_eq!(reach(&rig.nic, (1 << 48) - 1), Ok((1 << 48) - 1));
    assert_eq!(reach(&rig.nic, 1 << 48), Err(FaultReason::NotMapped));
    let late = rig.iommu.add_endpoint(EndpointId(24)).unwrap();
    assert_eq!(reach(&late, 0x1234), Ok(0x1234));
    rig.iommu.set_bypass(false);
    rig.commit();
    assert_eq!(reach(&rig.nic, 0x1234), Err(FaultReason::NotAttached));
    assert_eq!(reach(&late, 0x1234), Err(FaultReason::NotAttached));
}

#[test]
fn bypass_does_not_concern_attached_endpoints() {
    let mut rig = Rig::attached();
    rig.iommu.attach(D2, DISK, Bypass).unwrap();
    rig.iommu.set_bypass(true);
    rig.commit();
    assert_eq!(reach(&rig.nic, 0x1000), Err(FaultReason::NotMapped));
    rig.iommu.set_bypass(false);
    rig.commit();
    assert_eq!(reach(&rig.disk, 0x1000), Ok(0x1000));
}

#[test]
fn an_endpoint_moves_between_all_kinds_of_target() {
    let mut rig = Rig::new();
    rig.iommu.attach(D1, DISK, Translated).unwrap();
    rig.map(0x1000, 0x1fff, 0x5000).unwrap();
    for _ in 0..2 {
        rig.iommu.attach(D1, NIC, Translated).unwrap();
        rig.commit();
        assert_eq!(reach(&rig.nic, 0x1000), Ok(0x5000));
        rig.iommu.attach(D2, NIC, Bypass).unwrap();
        rig.commit();
        assert_eq!(reach(&rig.nic, 0x1000), Ok(0x1000));
        rig.iommu.attach(DomainId(3), NIC, Translated).unwrap();
        rig.commit();
        assert_eq!(reach(&rig.nic, 0x1000), Err(FaultReason::NotMapped));
        rig.iommu.detach(DomainId(3), NIC).unwrap();
        rig.commit();
        assert_eq!(reach(&rig.nic, 0x1000), Err(FaultReason::NotAttached));
        assert_eq!(reach(&rig.disk, 0x1000), Ok(0x5000));
    }
}

#[test]
fn attach_refuses_unknown_endpoints_and_the_wrong_kind_without_side_effect() {
    let mut rig = Rig::attached();
    rig.map(0x1000, 0x1fff, 0x5000).unwrap();
    rig.iommu.attach(D2, DISK, Bypass).unwrap();
    rig.commit();
    assert!(matches!(rig.iommu.attach(D1, EndpointId(99), Translated), Err(AttachError::NoEndpoint)));
    assert!(matches!(rig.iommu.attach(D2, NIC, Translated), Err(AttachError::KindMismatch)));
    assert!(matches!(rig.iommu.attach(D1, NIC, Bypass), Err(AttachError::KindMismatch)));
    assert!(matches!(rig.iommu.attach(D1, DISK, Bypass), Err(AttachError::KindMismatch)));
    assert_eq!(rig.commit().invalidated, 0);
    assert_eq!(rig.iommu.endpoint_domain(NIC), Some(D1));
    assert_eq!(rig.iommu.endpoint_domain(DISK), Some(D2));
    assert_eq!(reach(&rig.nic, 0x1000), Ok(0x5000));
    assert_eq!(reach(&rig.disk, 0x1000), Ok(0x1000));
}

#[test]
fn attaching_again_to_the_same_domain_keeps_its_mappings() {
    let mut rig = Rig::attached();
    rig.map(0x1000, 0x1fff, 0x5000).unwrap();
    rig.iommu.attach(D1, NIC, Translated).unwrap();
    assert_eq!(rig.commit().invalidated, 0);
    assert_eq!(rig.iommu.live_mappings_of(D1), 1);
    assert_eq!(reach(&rig.nic, 0x1000), Ok(0x5000));
}

#[test]
fn detach_from_the_wrong_domain_leaves_the_endpoint_where_it_is() {
    let mut rig = Rig::attached();
    rig.iommu.attach(D2, DISK, Translated).unwrap();
    assert_eq!(rig.iommu.detach(D2, NIC), Err(DetachError::NotAttached));
    assert_eq!(rig.iommu.detach(DomainId(9), NIC), Err(DetachError::NotAttached));
    assert_eq!(rig.iommu.detach(D1, EndpointId(99)), Err(DetachError::NoEndpoint));
    assert_eq!(rig.iommu.endpoint_domain(NIC), Some(D1));
    rig.iommu.detach(D1, NIC).unwrap();
    assert_eq!(rig.iommu.detach(D1, NIC), Err(DetachError::NotAttached));
}

#[test]
fn a_domain_and_its_mappings_vanish_with_the_last_endpoint() {
    let mut rig = Rig::attached();
    rig.iommu.attach(D1, DISK, Translated).unwrap();
    rig.map(0x1000, 0x1fff, 0x5000).unwrap();
    rig.iommu.detach(D1, NIC).unwrap();
    rig.commit();
    assert_eq!(reach(&rig.nic, 0x1000), Err(FaultReason::NotAttached));
    assert_eq!(reach(&rig.disk, 0x1000), Ok(0x5000));
    // Moving the last endpoint away is an implicit detach.
    rig.iommu.attach(D2, DISK, Translated).unwrap();
    assert_eq!(rig.iommu.domains().collect::<Vec<_>>(), [D2]);
    assert_eq!(rig.iommu.live_mappings(), 0);
    // The id can come back as the other kind, even in the same batch.
    rig.iommu.attach(D1, NIC, Bypass).unwrap();
    assert_eq!(rig.iommu.domain_kind(D1), Some(Bypass));
    rig.commit();
    assert_eq!(reach(&rig.disk, 0x1000), Err(FaultReason::NotMapped));
    assert_eq!(reach(&rig.nic, 0x1000), Ok(0x1000));
}

#[test]
fn a_domain_made_anew_in_one_batch_is_empty() {
    let mut rig = Rig::attached();
    rig.map(0x1000, 0x1fff, 0x5000).unwrap();
    rig.commit();
    rig.unmap(0x1000, 0x1fff).unwrap();
    rig.map(0x1000, 0x1fff, 0x5000).unwrap();
    rig.iommu.detach(D1, NIC).unwrap();
    rig.iommu.attach(D1, NIC, Translated).unwrap();
    rig.map(0x2000, 0x2fff, 0x6000).unwrap();
    rig.commit();
    assert_eq!(reach(&rig.nic, 0x1000), Err(FaultReason::NotMapped));
    assert_eq!(reach(&rig.nic, 0x2000), Ok(0x6000));
}

#[test]
fn endpoints_of_one_domain_share_its_mappings() {
    let mut rig = Rig::attached();
    rig.iommu.attach(D1, DISK, Translated).unwrap();
    rig.map(0x1000, 0x1fff, 0x5000).unwrap();
    rig.commit();
    assert_eq!(reach(&rig.nic, 0x1000), Ok(0x5000));
    assert_eq!(reach(&rig.disk, 0x1000), Ok(0x5000));
    rig.unmap(0, u64::MAX).unwrap();
    assert_eq!(rig.commit().invalidated, 2);
}

#[test]
fn the_limit_of_domains_counts_what_would_be_left() {
    let mut rig = Rig::with(TableSize::MiB32, Limits { max_domains: 1, ..Limits::default() });
    rig.iommu.attach(D1, NIC, Translated).unwrap();
    assert!(matches!(rig.iommu.attach(D2, DISK, Translated), Err(AttachError::TooManyDomains)));
    assert_eq!(rig.iommu.endpoint_domain(DISK), None);
    rig.iommu.attach(D2, NIC, Translated).unwrap();
    rig.iommu.attach(D2, DISK, Translated).unwrap();
    assert!(matches!(rig.iommu.attach(D1, NIC, Translated), Err(AttachError::TooManyDomains)));
    assert_eq!(rig.iommu.endpoint_domain(NIC), Some(D2));
}

#[test]
fn many_domains_are_kept_apart() {
    let mut iommu = Calgary::new(TableSize::MiB32, Limits::default()).unwrap();
    let phbs: Vec<_> = (0..20).map(|id| iommu.add_endpoint(EndpointId(id)).unwrap()).collect();
    for id in (0..20).rev() {
        iommu.attach(DomainId(id), EndpointId(id), Translated).unwrap();
    }
    for id in 0..20 {
        let real = RealAddr(u64::from(id) << 12);
        iommu.map(DomainId(id), Iova(0), Iova(0xfff), real, Permissions::READ).unwrap();
    }
    iommu.commit(AT_ONCE);
    for id in (0..20).step_by(2) {
        iommu.detach(DomainId(id), EndpointId(id)).unwrap();
        assert_eq!(iommu.unmap(DomainId(id + 1), Iova(0), Iova(0xfff)), Ok(1));
        let real = RealAddr(u64::from(id) << 20);
        iommu.map(DomainId(id + 1), Iova(0), Iova(0xfff), real, Permissions::READ).unwrap();
    }
    iommu.commit(AT_ONCE);
    for (id, phb) in phbs.iter().enumerate() {
        let expected = if id % 2 == 0 { Err(FaultReason::NotAttached) } else { Ok((id as u64 - 1) << 20) };
        assert_eq!(reach(phb, 0), expected);
    }
}

#[test]
fn reset_drops_domains_and_keeps_bypass() {
    let mut rig = Rig::attached();
    rig.map(0x1000, 0x1fff, 0x5000).unwrap();
    rig.iommu.set_bypass(true);
    assert_eq!(rig.iommu.reset().broken, []);
    assert!(rig.iommu.bypass());
    assert_eq!(rig.iommu.domains().count(), 0);
    assert_eq!(rig.iommu.live_mappings(), 0);
    assert_eq!(rig.iommu.endpoint_domain(NIC), None);
    assert_eq!(reach(&rig.nic, 0x1000), Ok(0x1000));
}

#[test]
fn a_dropped_unit_leaves_its_devices_without_access() {
    let mut rig = Rig::attached();
    rig.map(0x1000, 0x1fff, 0x5000).unwrap();
    rig.iommu.attach(D2, DISK, Bypass).unwrap();
    rig.commit();
    drop(rig.iommu);
    assert_eq!(reach(&rig.nic, 0x1000), Err(FaultReason::NotAttached));
    assert_eq!(reach(&rig.disk, 0x1000), Err(FaultReason::NotAttached));
}

#[test]
fn a_domain_shows_its_table_to_others() {
    let mut rig = Rig::attached();
    rig.map(0x3000, 0x3fff, 0x1234_5000).unwrap();
    rig.commit();
    let mut bytes = [0; 8];
    pread(rig.iommu.domain(D1).unwrap().table().as_fd(), &mut bytes, 24).unwrap();
    assert_eq!(bytes, [0x00, 0x00, 0x00, 0x00, 0x12, 0x34, 0x50, 0x03]);
}

#[test]
fn set_up_mistakes_are_told() {
    let limits = Limits { max_domains: 0, ..Limits::default() };
    assert!(matches!(Calgary::new(TableSize::MiB32, limits), Err(Error::NoDomains)));
    let mut rig = Rig::new();
    assert!(matches!(rig.iommu.add_endpoint(NIC), Err(Error::DuplicateEndpoint(NIC))));
}
