//! What a driver said is forgotten when another one comes, in a new boot or on a new connection.

use crate::rig::{DIRECT, Rig, TRANSLATED};
use calgary_tests::guest::iommu::MAP_F_READ;
use calgary_tests::guest::{GuestPhys, Mapping, ROOT_FID, Session, transfer};

const FILE: u32 = 5;

#[test]
fn a_reboot_drops_domains_and_fids() {
    let rig = Rig::new();
    let mut guest = rig.guest(Mapping::Strict);
    let rings = rig.iommu().live_mappings();
    for share in &mut guest.shares {
        share.client.walk(ROOT_FID, FILE, &[]).unwrap();
    }
    let (iommu, domain) = (guest.iommu.clone().unwrap(), guest.shares[0].domain.unwrap());
    iommu.map(domain, 0x10_0000, 0x10_ffff, GuestPhys(0), MAP_F_READ).unwrap();
    assert_eq!(rig.iommu().live_mappings(), rings + 1);
    guest.reboot().unwrap();
    assert_eq!(rig.iommu().live_mappings(), rings);
    for tag in [TRANSLATED, DIRECT] {
        assert_eq!(rig.daemon.share(tag).unwrap().stats().fids, 1, "{tag}: the root alone");
    }
    assert!(transfer(&mut guest.shares[0], b"after", 1).unwrap().is_intact());
}

#[test]
fn a_front_end_that_comes_back_is_served() {
    let rig = Rig::new();
    let mut guest = rig.guest(Mapping::Lazy);
    for _ in 0..3 {
        guest.reconnect().unwrap();
        for share in &mut guest.shares {
            assert!(transfer(share, b"file", 1).unwrap().is_intact());
        }
    }
}

#[test]
fn a_second_front_end_waits_for_the_first() {
    let rig = Rig::new();
    let first = rig.guest(Mapping::Strict);
    let options = rig.guest_options(2, Mapping::Strict);
    let second = std::thread::spawn(move || Session::boot(options).map(drop));
    drop(first);
    second.join().unwrap().unwrap();
}
