//! R35–R39: DETACH (virtio 1.2 §5.13.6.4).

use calgary_tests::guest::iommu::Request;

use crate::endpoint::Endpoint;
use crate::guest::{AREA, BOTH, BYPASS, Guest, INVAL, NOENT, OK, PAGE, READ, WRITE};
use crate::rig::{ENDPOINTS, NO_ENDPOINT, Rig};

/// Reason of a fault of an unattached endpoint.
const DOMAIN_FAULT: u8 = 1;
/// Rounds of a race, and bytes of the DMA that is under way in it.
const ROUNDS: u32 = 40;
const RACE_PAGES: u64 = 12;

#[test]
fn r35_reserved_bytes_are_ignored() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for byte in 12..20 {
        assert_eq!(guest.attach(1, ENDPOINTS[0], 0), OK);
        let mut bytes = Request::Detach { domain: 1, endpoint: ENDPOINTS[0] }.to_bytes();
        bytes[byte] = 0xff;
        assert_eq!(guest.ask_bytes(&bytes), OK, "byte {byte}");
        assert_eq!(guest.unmap(1, 0, u64::MAX), NOENT, "detached");
    }
}

#[test]
fn r36_an_unknown_endpoint_is_noent() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    assert_eq!(guest.attach(1, ENDPOINTS[0], 0), OK);
    for endpoint in [0, NO_ENDPOINT, u32::MAX] {
        for domain in [1, 2, u32::MAX] {
            assert_eq!(guest.detach(domain, endpoint), NOENT);
        }
    }
}

#[test]
fn r37_the_wrong_domain_is_inval_and_the_endpoint_stays() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut first = Endpoint::attached(&rig, &guest, 0, 1);
    let (page, mark) = guest.marked_page();
    assert_eq!(guest.map_pages(1, AREA, 1, page, READ), OK);
    assert_eq!(guest.detach(2, ENDPOINTS[0]), INVAL, "a domain that does not exist");
    assert_eq!(guest.attach(2, ENDPOINTS[1], 0), OK);
    assert_eq!(guest.detach(2, ENDPOINTS[0]), INVAL, "a domain of another endpoint");
    assert_eq!(guest.detach(1, ENDPOINTS[1]), INVAL);
    assert_eq!(first.fetch(AREA, 8).unwrap(), mark);
    assert_eq!(guest.detach(2, ENDPOINTS[1]), OK);
    assert_eq!(guest.detach(2, ENDPOINTS[1]), INVAL, "attached nowhere");
}

#[test]
fn r38_a_detached_endpoint_reaches_nothing() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut leaving = Endpoint::attached(&rig, &guest, 0, 1);
    let mut staying = Endpoint::attached(&rig, &guest, 1, 1);
    let (page, _) = guest.marked_page();
    assert_eq!(guest.map_pages(1, AREA, 1, page, BOTH), OK);
    assert!(leaving.reaches(&guest, AREA, page));
    assert_eq!(guest.detach(1, ENDPOINTS[0]), OK);
    let event = leaving.expect_cut_off(&guest);
    assert_eq!((event.reason, event.endpoint), (DOMAIN_FAULT, ENDPOINTS[0]));
    assert!(staying.reaches(&guest, AREA, page), "the other endpoint keeps the domain");
    // Attached again, it works again.
    assert_eq!(guest.attach(1, ENDPOINTS[0], 0), OK);
    leaving.restart();
    assert!(leaving.reaches(&guest, AREA, page));
}

#[test]
fn r38_nothing_arrives_after_detach_of_a_dma_under_way() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    let bytes = usize::try_from(RACE_PAGES * PAGE).unwrap();
    let target = guest.memory.take_run(bytes).unwrap();
    let data = vec![0x11; bytes];
    for round in 0..ROUNDS {
        assert_eq!(guest.map_pages(1, AREA, RACE_PAGES, target, WRITE), OK);
        endpoint.begin_store(AREA, &data);
        assert_eq!(guest.detach(1, ENDPOINTS[0]), OK);
        guest.memory.fill(target, 0xee, bytes).unwrap();
        endpoint.stop();
        let late = guest.memory.read_vec(target, bytes).unwrap().iter().filter(|&&byte| byte != 0xee).count();
        assert_eq!(late, 0, "round {round}: {late} bytes arrived after the DETACH");
        assert_eq!(guest.attach(1, ENDPOINTS[0], 0), OK);
        endpoint.map_home(&guest, 1);
        endpoint.restart();
    }
}

#[test]
fn r38_nothing_arrives_after_unmap_of_a_dma_under_way() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    let bytes = usize::try_from(RACE_PAGES * PAGE).unwrap();
    let target = guest.memory.take_run(bytes).unwrap();
    let data = vec![0x11; bytes];
    for round in 0..ROUNDS {
        assert_eq!(guest.map_pages(1, AREA, RACE_PAGES, target, WRITE), OK);
        endpoint.begin_store(AREA, &data);
        assert_eq!(guest.unmap(1, AREA, AREA + RACE_PAGES * PAGE - 1), OK);
        guest.memory.fill(target, 0xee, bytes).unwrap();
        endpoint.finish();
        let late = guest.memory.read_vec(target, bytes).unwrap().iter().filter(|&&byte| byte != 0xee).count();
        assert_eq!(late, 0, "round {round}: {late} bytes arrived after the UNMAP");
    }
}

#[test]
fn r39_a_domain_ends_with_its_last_endpoint_and_its_id_is_free() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let (page, _) = guest.marked_page();
    for (flags, other) in [(0, BYPASS), (BYPASS, 0)] {
        for endpoint in ENDPOINTS {
            assert_eq!(guest.attach(1, endpoint, flags), OK);
        }
        if flags == 0 {
            assert_eq!(guest.map_pages(1, AREA, 4, page, READ), OK);
            assert_eq!(guest.map_pages(1, AREA + 8 * PAGE, 1, page, READ), OK);
        }
        assert_eq!(guest.detach(1, ENDPOINTS[0]), OK);
        assert_eq!(guest.attach(1, ENDPOINTS[0], other), INVAL, "the domain lives while one endpoint is in it");
        assert_eq!(rig.iommu().live_mappings(), if flags == 0 { 2 } else { 0 });
        assert_eq!(guest.detach(1, ENDPOINTS[1]), OK);
        assert_eq!(rig.iommu().live_mappings(), 0);
        assert_eq!(guest.unmap(1, 0, u64::MAX), NOENT);
        assert_eq!(guest.attach(1, ENDPOINTS[0], other), OK, "either kind may have the id");
        assert_eq!(guest.detach(1, ENDPOINTS[0]), OK);
    }
    // A domain made anew under an old id has none of the old mappings.
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    assert!(!endpoint.reaches(&guest, AREA, page));
}
