//! A front end stops rings for a pause and for a reboot alike; only where they start again tells the two apart.

use crate::rig::{DIRECT, Rig, TRANSLATED};
use calgary_tests::guest::iommu::{MAP_F_READ, Request};
use calgary_tests::guest::{GuestPhys, Mapping, ROOT_FID, Session, transfer};

const FILE: u32 = 5;

#[test]
fn domains_and_fids_survive_a_pause() {
    let rig = Rig::new();
    std::fs::write(rig.shared().join("file"), b"content").unwrap();
    let mut guest = rig.guest(Mapping::Strict);
    for share in &mut guest.shares {
        share.client.walk(ROOT_FID, FILE, &[b"file"]).unwrap();
        share.client.lopen(FILE, 0).unwrap();
    }
    let live = rig.iommu().live_mappings();
    for _ in 0..3 {
        let paused = guest.pause().unwrap();
        guest.resume(&paused).unwrap();
        for share in &mut guest.shares {
            assert_eq!(share.client.read(FILE, 0, 7).unwrap(), b"content");
        }
        assert_eq!(rig.iommu().live_mappings(), live);
    }
}

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
fn a_pause_after_exactly_65536_requests_is_no_reboot() {
    let rig = Rig::new();
    let mut guest = rig.guest(Mapping::Strict);
    let iommu = guest.iommu.clone().unwrap();
    let domain = guest.shares[0].domain.unwrap();
    let live = rig.iommu().live_mappings();
    // Requests that change nothing, until the ring's 16-bit index is back at 0.
    let idle = Request::Unmap { domain, first: 0x1000, last: 0x1fff };
    let mut next = iommu.with_requests(|queue| queue.ring().next_avail());
    while next != 0 {
        let count = usize::from(0_u16.wrapping_sub(next)).min(32);
        iommu.batch(&vec![idle; count]).unwrap();
        next = iommu.with_requests(|queue| queue.ring().next_avail());
    }
    let paused = guest.pause().unwrap();
    guest.resume(&paused).unwrap();
    assert_eq!(rig.iommu().live_mappings(), live, "the pause was taken for a reboot");
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
