//! A vhost-user front end stops rings for a pause and for a reboot alike; only where they start again tells the two apart.

use crate::locks_wait_in_the_device::{BLOCKED, FILE, SUCCESS, guest, lock, park, parked, status, unlock};
use crate::rig::{Rig, TRANSLATED};
use calgary_tests::guest::iommu::Request;
use calgary_tests::guest::ninep::Call;
use calgary_tests::guest::{Mapping, ROOT_FID, transfer};

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
fn a_lock_that_waits_is_to_be_asked_for_again_after_a_pause() {
    let rig = Rig::new();
    let mut guest = guest(&rig);
    let waiting = park(&mut guest.shares[0].client);
    let paused = guest.pause().unwrap();
    assert_eq!(parked(&rig, TRANSLATED), 0, "where a queue stopped says that all before it is completed");
    guest.resume(&paused).unwrap();
    let client = &mut guest.shares[0].client;
    assert_eq!(status(client, waiting), BLOCKED);
    // It waits as before, and the lock of its holder has survived.
    let again = client.submit(Call::lock(FILE, &lock(2))).unwrap();
    client.kick().unwrap();
    client.getattr(FILE, 1).unwrap();
    assert_eq!(parked(&rig, TRANSLATED), 1);
    assert_eq!(client.lock(FILE, &unlock(1)).unwrap(), SUCCESS);
    assert_eq!(status(client, again), SUCCESS);
}
