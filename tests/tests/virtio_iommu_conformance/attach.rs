//! R20–R30: ATTACH (virtio 1.2 §5.13.6.3).

use calgary_tests::guest::IommuOptions;
use calgary_tests::guest::iommu::{F_BYPASS_CONFIG, Request};

use crate::endpoint::Endpoint;
use crate::guest::{AREA, BOTH, BYPASS, Guest, INVAL, NOENT, OK, PAGE, RANGE, READ};
use crate::rig::{ENDPOINTS, NO_ENDPOINT, Rig};

#[test]
fn r20_nonzero_reserved_bytes_are_inval_and_change_nothing() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut first = Endpoint::attached(&rig, &guest, 0, 1);
    let (page, mark) = guest.marked_page();
    assert_eq!(guest.map_pages(1, AREA, 1, page, READ), OK);
    for byte in 16..20 {
        for value in [1, 0x80, 0xff] {
            for (domain, endpoint) in [(2, ENDPOINTS[1]), (2, ENDPOINTS[0]), (1, ENDPOINTS[0])] {
                let mut bytes = Request::Attach { domain, endpoint, flags: 0 }.to_bytes();
                bytes[byte] = value;
                assert_eq!(guest.ask_bytes(&bytes), INVAL, "byte {byte} is {value:#x}");
            }
        }
    }
    assert_eq!(guest.unmap(2, 0, u64::MAX), NOENT, "domain 2 does not exist");
    assert_eq!(first.fetch(AREA, 8).unwrap(), mark, "the endpoint stays where it was");
}

#[test]
fn r21_an_unknown_flag_is_inval() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for bit in 1..32 {
        for flags in [1 << bit, 1 << bit | BYPASS] {
            assert_eq!(guest.attach(1, ENDPOINTS[0], flags), INVAL, "flags {flags:#x}");
        }
    }
    assert_eq!(guest.unmap(1, 0, u64::MAX), NOENT, "no domain was made");
}

#[test]
fn r21_bypass_is_an_unknown_flag_unless_bypass_config_was_negotiated() {
    let rig = Rig::new();
    let guest = Guest::with_features(&rig, IommuOptions::default().features & !F_BYPASS_CONFIG);
    assert_eq!(guest.attach(1, ENDPOINTS[0], BYPASS), INVAL);
    assert_eq!(guest.unmap(1, 0, u64::MAX), NOENT, "no domain was made");
    assert_eq!(guest.attach(1, ENDPOINTS[0], 0), OK);
}

#[test]
fn r22_an_unknown_endpoint_is_noent_and_makes_no_domain() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for endpoint in [0, NO_ENDPOINT, ENDPOINTS[0] + 1, ENDPOINTS[0] | 1 << 16, 5 << 3, u32::MAX] {
        for flags in [0, BYPASS] {
            assert_eq!(guest.attach(1, endpoint, flags), NOENT, "endpoint {endpoint:#x}");
        }
    }
    assert_eq!(guest.unmap(1, 0, u64::MAX), NOENT);
}

#[test]
fn r23_attach_creates_an_unknown_domain() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let config = *guest.iommu.config();
    for domain in [config.domain_first, 1, 1000, config.domain_last] {
        assert_eq!(guest.map(domain, AREA, AREA + PAGE - 1, 0, READ), NOENT);
        assert_eq!(guest.attach(domain, ENDPOINTS[0], 0), OK);
        assert_eq!(guest.map(domain, AREA, AREA + PAGE - 1, 0, READ), OK);
    }
}

#[test]
fn r24_endpoints_share_a_domain() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoints = [Endpoint::attached(&rig, &guest, 0, 1), Endpoint::attached(&rig, &guest, 1, 1)];
    let (page, _) = guest.marked_page();
    assert_eq!(guest.map_pages(1, AREA, 1, page, BOTH), OK);
    for endpoint in &mut endpoints {
        assert!(endpoint.reaches(&guest, AREA, page));
    }
    assert_eq!(guest.unmap(1, AREA, AREA + PAGE - 1), OK);
    for endpoint in &mut endpoints {
        assert!(!endpoint.reaches(&guest, AREA, page));
    }
}

#[test]
fn r25_a_domain_of_the_other_kind_is_inval_and_the_endpoint_stays_where_it_was() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut first = Endpoint::attached(&rig, &guest, 0, 1);
    let (page, mark) = guest.marked_page();
    assert_eq!(guest.map_pages(1, AREA, 1, page, READ), OK);
    assert_eq!(guest.attach(2, ENDPOINTS[1], BYPASS), OK);
    let live = rig.iommu().live_mappings();
    assert_eq!(guest.attach(2, ENDPOINTS[0], 0), INVAL);
    assert_eq!(guest.attach(1, ENDPOINTS[1], BYPASS), INVAL);
    assert_eq!(guest.attach(1, ENDPOINTS[0], BYPASS), INVAL, "not for its only endpoint either");
    assert_eq!(guest.attach(2, ENDPOINTS[1], 0), INVAL);
    assert_eq!(first.fetch(AREA, 8).unwrap(), mark);
    assert_eq!(rig.iommu().live_mappings(), live);
    assert_eq!(guest.map(2, AREA, AREA + PAGE - 1, 0, READ), INVAL, "domain 2 still bypasses");
}

#[test]
fn r26_attach_elsewhere_moves_the_endpoint() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut moving = Endpoint::attached(&rig, &guest, 0, 1);
    let mut staying = Endpoint::attached(&rig, &guest, 1, 1);
    let ((old, old_mark), (new, new_mark)) = (guest.marked_page(), guest.marked_page());
    assert_eq!(guest.map_pages(1, AREA, 1, old, READ), OK);
    assert_eq!(guest.attach(2, ENDPOINTS[0], 0), OK);
    moving.map_home(&guest, 2);
    assert_eq!(moving.fetch(AREA, 8), None, "the old domain is out of reach");
    assert_eq!(guest.map_pages(2, AREA, 1, new, READ), OK);
    assert_eq!(moving.fetch(AREA, 8).unwrap(), new_mark);
    assert_eq!(staying.fetch(AREA, 8).unwrap(), old_mark, "the other endpoint keeps the old domain");
    // The last one leaves: the domain ends, and its mappings with it.
    assert_eq!(guest.attach(2, ENDPOINTS[1], 0), OK);
    assert_eq!(guest.unmap(1, 0, u64::MAX), NOENT);
    assert_eq!(rig.iommu().live_mappings(), 2, "the home and one page in domain 2");
}

#[test]
fn r26_attach_elsewhere_moves_between_kinds() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    let ((mapped, mark), (bare, bare_mark)) = (guest.marked_page(), guest.marked_page());
    assert_eq!(guest.map_pages(1, AREA, 1, mapped, READ), OK);
    assert_eq!(endpoint.fetch(AREA, 8).unwrap(), mark);
    assert_eq!(guest.attach(2, ENDPOINTS[0], BYPASS), OK);
    assert_eq!(rig.iommu().live_mappings(), 0, "domain 1 is gone");
    assert_eq!(endpoint.fetch(bare.0, 8).unwrap(), bare_mark, "addresses are guest-physical");
    assert_eq!(guest.attach(3, ENDPOINTS[0], 0), OK);
    endpoint.map_home(&guest, 3);
    assert_eq!(endpoint.fetch(bare.0, 8), None);
    assert_eq!(guest.attach(2, ENDPOINTS[0], 0), OK, "domain 2 ended with the move and is free for the other kind");
}

#[test]
fn r27_all_endpoints_have_the_same_properties() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let answers = ENDPOINTS.map(|endpoint| {
        let bytes = Request::Probe { endpoint }.to_bytes();
        guest.exchange(&bytes, guest.probe_answer()).writable
    });
    assert_eq!(answers[0], answers[1], "so no pair of them is incompatible, and UNSUPP never comes");
}

#[test]
fn r28_what_was_not_rejected_is_attached() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for number in [0, 1] {
        let mut endpoint = Endpoint::attached(&rig, &guest, number, 1 + u32::try_from(number).unwrap());
        let (page, _) = guest.marked_page();
        assert_eq!(guest.map_pages(1 + u32::try_from(number).unwrap(), AREA, 1, page, BOTH), OK);
        assert!(endpoint.reaches(&guest, AREA, page));
    }
}

#[test]
fn r29_attach_to_the_same_domain_keeps_its_mappings() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    let (page, mark) = guest.marked_page();
    assert_eq!(guest.map_pages(1, AREA, 1, page, READ), OK);
    let live = rig.iommu().live_mappings();
    for _ in 0..3 {
        assert_eq!(guest.attach(1, ENDPOINTS[0], 0), OK);
        assert_eq!(endpoint.fetch(AREA, 8).unwrap(), mark);
    }
    assert_eq!(rig.iommu().live_mappings(), live);
    assert_eq!(guest.detach(1, ENDPOINTS[0]), OK, "attached once");
    assert_eq!(guest.detach(1, ENDPOINTS[0]), INVAL);
}

#[test]
fn r30_a_domain_outside_the_range_is_refused() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let last = guest.iommu.config().domain_last;
    assert_eq!(guest.iommu.config().domain_first, 0);
    assert_eq!(guest.attach(1, ENDPOINTS[0], 0), OK);
    for domain in [last + 1, last + 2, u32::MAX] {
        for (endpoint, flags) in [(ENDPOINTS[0], 0), (ENDPOINTS[1], BYPASS)] {
            assert_eq!(guest.attach(domain, endpoint, flags), RANGE, "domain {domain:#x}");
        }
        assert_eq!(guest.detach(domain, ENDPOINTS[0]), INVAL);
        assert_eq!(guest.map(domain, AREA, AREA + PAGE - 1, 0, READ), NOENT);
        assert_eq!(guest.unmap(domain, 0, u64::MAX), NOENT);
    }
    assert_eq!(guest.map(1, AREA, AREA + PAGE - 1, 0, READ), OK, "the endpoint stays where it was");
}
