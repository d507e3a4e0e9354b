//! R80–R83: who reaches memory untranslated (virtio 1.2 §5.13.3, §5.13.5).
//!
//! | endpoint | `bypass` 0 | `bypass` 1 |
//! |---|---|---|
//! | unattached | nothing | everything |
//! | in a bypass domain | everything | everything |
//! | in another domain | what is mapped | what is mapped |

use calgary_tests::guest::iommu::{F_BYPASS, F_BYPASS_CONFIG};
use calgary_tests::guest::{GuestPhys, IommuOptions};

use crate::endpoint::Endpoint;
use crate::guest::{AREA, BOTH, BYPASS, Guest, OK, PAGE};
use crate::rig::{ENDPOINTS, Rig, WINDOW};

/// Reason of a fault of an unattached endpoint.
const DOMAIN: u8 = 1;

/// With and without BYPASS_CONFIG.
fn both_negotiations() -> [u64; 2] {
    let features = IommuOptions::default().features;
    [features | F_BYPASS_CONFIG, features & !F_BYPASS_CONFIG]
}

/// The endpoint reaches guest-physical addresses, and no others.
fn expect_identity(endpoint: &mut Endpoint, guest: &Guest) {
    for _ in 0..4 {
        assert!(endpoint.reaches_untranslated(guest));
    }
    for outside in [WINDOW, 1 << 40, (1 << 48) - PAGE, 1 << 48, u64::MAX - PAGE + 1] {
        assert_eq!(endpoint.fetch(outside, 8), None, "{outside:#x} is no RAM");
    }
}

#[test]
fn r80_an_unattached_endpoint_bypasses_while_bypass_is_1_whatever_was_negotiated() {
    for features in both_negotiations() {
        let rig = Rig::with_bypass(true);
        let guest = Guest::with_features(&rig, features);
        let mut endpoint = Endpoint::start(&rig, &guest, 0);
        endpoint.open();
        expect_identity(&mut endpoint, &guest);
    }
}

#[test]
fn r80_bypass_ends_and_begins_with_the_byte() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::start(&rig, &guest, 0);
    for _ in 0..3 {
        assert_eq!(endpoint.expect_cut_off(&guest).reason, DOMAIN);
        guest.iommu.set_bypass(1).unwrap();
        endpoint.restart();
        expect_identity(&mut endpoint, &guest);
        guest.iommu.set_bypass(0).unwrap();
    }
}

#[test]
fn r80_attached_endpoints_do_not_follow_the_byte() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut translated = Endpoint::attached(&rig, &guest, 0, 1);
    let mut bypassing = Endpoint::start(&rig, &guest, 1);
    assert_eq!(guest.attach(2, ENDPOINTS[1], BYPASS), OK);
    bypassing.open();
    let (page, _) = guest.marked_page();
    assert_eq!(guest.map_pages(1, AREA, 1, page, BOTH), OK);
    for value in [1, 0, 1] {
        guest.iommu.set_bypass(value).unwrap();
        assert!(translated.reaches(&guest, AREA, page), "bypass {value}");
        assert!(!translated.reaches(&guest, page.0, page), "bypass {value}");
        expect_identity(&mut bypassing, &guest);
    }
}

#[test]
fn r81_a_bypass_domain_bypasses_for_all_its_endpoints() {
    for boot_bypass in [false, true] {
        let rig = Rig::with_bypass(boot_bypass);
        let guest = Guest::boot(&rig);
        for number in [0, 1] {
            assert_eq!(guest.attach(1, ENDPOINTS[number], BYPASS), OK);
            let mut endpoint = Endpoint::start(&rig, &guest, number);
            endpoint.open();
            expect_identity(&mut endpoint, &guest);
        }
    }
}

#[test]
fn r82_the_old_bypass_bit_cannot_be_negotiated() {
    let rig = Rig::new();
    let guest = Guest::with_features(&rig, IommuOptions::default().features | F_BYPASS);
    assert_eq!(guest.iommu.features() & F_BYPASS, 0);
    let mut endpoint = Endpoint::start(&rig, &guest, 0);
    assert_eq!(endpoint.expect_cut_off(&guest).reason, DOMAIN);
}

#[test]
fn r83_otherwise_an_unattached_endpoint_reaches_nothing() {
    for features in both_negotiations() {
        let rig = Rig::new();
        let guest = Guest::with_features(&rig, features);
        let mut endpoint = Endpoint::start(&rig, &guest, 0);
        // Neither a mapping of somebody else's domain nor guest-physical memory.
        assert_eq!(guest.attach(1, ENDPOINTS[1], 0), OK);
        endpoint.map_home(&guest, 1);
        let event = endpoint.expect_cut_off(&guest);
        assert_eq!((event.reason, event.endpoint), (DOMAIN, ENDPOINTS[0]));
    }
}

#[test]
fn r83_an_endpoint_that_leaves_follows_the_byte_again() {
    let rig = Rig::with_bypass(true);
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::start(&rig, &guest, 0);
    endpoint.open();
    assert_eq!(guest.attach(1, ENDPOINTS[0], 0), OK);
    endpoint.map_home(&guest, 1);
    assert_eq!(endpoint.fetch(GuestPhys(AREA).0, 8), None);
    assert_eq!(guest.detach(1, ENDPOINTS[0]), OK);
    expect_identity(&mut endpoint, &guest);
    assert_eq!(guest.attach(1, ENDPOINTS[0], 0), OK);
    endpoint.map_home(&guest, 1);
    guest.iommu.set_bypass(0).unwrap();
    assert_eq!(guest.detach(1, ENDPOINTS[0]), OK);
    assert_eq!(endpoint.expect_cut_off(&guest).reason, DOMAIN);
}
