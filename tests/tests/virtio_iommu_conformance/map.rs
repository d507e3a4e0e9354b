//! R45–R57: MAP (virtio 1.2 §5.13.6.5).

use calgary_tests::guest::iommu::{F_MMIO, FaultEvent};
use calgary_tests::guest::{GuestPhys, IommuOptions};

use crate::endpoint::Endpoint;
use crate::guest::{AREA, BOTH, BYPASS, Guest, INVAL, MMIO, NOENT, NOMEM, OK, PAGE, RANGE, READ, WRITE};
use crate::rig::{ENDPOINTS, Rig, WINDOW};

/// Reason and flags of a fault event (virtio 1.2 §5.13.6.9).
const MAPPING: u8 = 2;
const ADDRESS: u32 = 1 << 8;

/// A daemon, and a guest with a domain 1 that maps nothing.
fn attached() -> (Rig, Guest) {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    assert_eq!(guest.attach(1, ENDPOINTS[0], 0), OK);
    (rig, guest)
}

#[test]
fn r45_an_address_that_is_not_a_multiple_of_the_granule_is_range() {
    let (rig, guest) = attached();
    for skew in [1, 8, 0x7ff, 0x800, 0xfff] {
        assert_eq!(guest.map(1, AREA + skew, AREA + PAGE - 1, 0, READ), RANGE, "virt_start + {skew:#x}");
        assert_eq!(guest.map(1, AREA, AREA + PAGE - 1 + skew, 0, READ), RANGE, "virt_end + {skew:#x}");
        assert_eq!(guest.map(1, AREA, AREA + PAGE - 1, skew, READ), RANGE, "phys_start + {skew:#x}");
        assert_eq!(guest.map(1, AREA + skew, AREA + PAGE - 1 + skew, skew, READ), RANGE, "all + {skew:#x}");
    }
    assert_eq!(rig.iommu().live_mappings(), 0);
}

#[test]
fn r46_an_overlap_is_inval_and_the_old_mapping_stays() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    let (old, mark) = guest.marked_run(3);
    let (new, _) = guest.marked_page();
    let first = AREA + 4 * PAGE;
    assert_eq!(guest.map_pages(1, first, 3, old, READ), OK);
    let live = rig.iommu().live_mappings();
    // The same, each of its pages, across either end, around it, and from far on both sides.
    let overlaps = [(4, 3), (4, 1), (5, 1), (6, 1), (3, 2), (6, 2), (3, 5), (0, 5), (6, 100), (0, 200), (5, 2), (4, 2)];
    for (page, pages) in overlaps {
        assert_eq!(guest.map_pages(1, AREA + page * PAGE, pages, new, BOTH), INVAL, "{pages} pages from {page}");
        assert_eq!(rig.iommu().live_mappings(), live);
        assert_eq!(endpoint.fetch(first, 8).unwrap(), mark, "the old mapping");
        assert!(!endpoint.store(first, &[0; 8]), "with its old permissions");
        assert_eq!(endpoint.fetch(AREA, 8), None, "nothing of the new one");
    }
    assert_eq!(guest.map_pages(1, AREA + 3 * PAGE, 1, new, READ), OK, "a neighbour below is no overlap");
    assert_eq!(guest.map_pages(1, AREA + 7 * PAGE, 1, new, READ), OK, "nor one above");
}

#[test]
fn r47_an_unknown_flag_is_inval() {
    let (rig, guest) = attached();
    for bit in 3..32 {
        for flags in [1 << bit, 1 << bit | BOTH] {
            assert_eq!(guest.map(1, AREA, AREA + PAGE - 1, 0, flags), INVAL, "flags {flags:#x}");
        }
    }
    assert_eq!(rig.iommu().live_mappings(), 0);
}

#[test]
fn r47_mmio_is_an_unknown_flag_unless_negotiated() {
    let rig = Rig::new();
    let guest = Guest::with_features(&rig, IommuOptions::default().features & !F_MMIO);
    assert_eq!(guest.attach(1, ENDPOINTS[0], 0), OK);
    for flags in [MMIO, MMIO | READ, MMIO | BOTH] {
        assert_eq!(guest.map(1, AREA, AREA + PAGE - 1, 0, flags), INVAL, "flags {flags:#x}");
    }
    drop(guest);
    let guest = Guest::with_features(&rig, IommuOptions::default().features | F_MMIO);
    if guest.iommu.features() & F_MMIO != 0 {
        assert_eq!(guest.attach(1, ENDPOINTS[0], 0), OK);
        for (page, flags) in [(0, MMIO), (1, MMIO | READ), (2, MMIO | BOTH)] {
            assert_eq!(guest.map_pages(1, AREA + page * PAGE, 1, GuestPhys(0), flags), OK, "flags {flags:#x}");
        }
    }
}

#[test]
fn r48_an_unknown_domain_is_noent_and_a_bypass_domain_inval() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    assert_eq!(guest.attach(1, ENDPOINTS[0], BYPASS), OK);
    assert_eq!(guest.attach(2, ENDPOINTS[1], 0), OK);
    for domain in [0, 3, u32::MAX] {
        assert_eq!(guest.map(domain, AREA, AREA + PAGE - 1, 0, READ), NOENT, "domain {domain}");
    }
    assert_eq!(guest.map(1, AREA, AREA + PAGE - 1, 0, READ), INVAL);
    assert_eq!(guest.map(2, AREA, AREA + PAGE - 1, 0, READ), OK);
    assert_eq!(rig.iommu().live_mappings(), 1);
}

#[test]
fn r49_a_range_outside_input_range_is_range() {
    let (rig, guest) = attached();
    let config = *guest.iommu.config();
    assert_eq!((config.input_first, config.input_last), (0, WINDOW - 1));
    for (first, last) in [
        (WINDOW, WINDOW + PAGE - 1),
        (WINDOW - PAGE, WINDOW + PAGE - 1),
        (AREA, WINDOW + PAGE - 1),
        (1 << 32, (1 << 32) + PAGE - 1),
        (1 << 63, (1 << 63) + PAGE - 1),
    ] {
        assert_eq!(guest.map(1, first, last, 0, READ), RANGE, "{first:#x}..={last:#x}");
    }
    assert_eq!(rig.iommu().live_mappings(), 0);
    assert_eq!(guest.map(1, WINDOW - PAGE, WINDOW - 1, 0, READ), OK, "the last page");
    assert_eq!(guest.map(1, 0, PAGE - 1, 0, READ), OK, "the first page");
}

#[test]
fn r50_a_range_that_touches_a_reserved_region_is_inval() {
    let (rig, guest) = attached();
    let regions = guest.iommu.probe(ENDPOINTS[0]).unwrap();
    let inside: Vec<_> = regions.iter().filter(|region| region.last < WINDOW).collect();
    assert!(!inside.is_empty(), "the hole below 1 MiB at least");
    for region in inside {
        let (first, end) = (region.first, region.last + 1);
        for (from, to) in [
            (first, end),
            (first, first + PAGE),
            (end - PAGE, end),
            (first - PAGE, first + PAGE),
            (end - PAGE, end + PAGE),
            (first - PAGE, end + PAGE),
            (0, WINDOW),
        ] {
            assert_eq!(guest.map(1, from, to - 1, 0, READ), INVAL, "{from:#x}..{to:#x}");
        }
        assert_eq!(rig.iommu().live_mappings(), 0);
        assert_eq!(guest.map(1, first - PAGE, first - 1, 0, READ), OK, "up to the region");
        assert_eq!(guest.map(1, end, end + PAGE - 1, 0, READ), OK, "right behind it");
        assert_eq!(guest.unmap(1, 0, u64::MAX), OK);
    }
}

#[test]
fn r51_a_mapping_permits_what_its_flags_say_and_nothing_else() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    for flags in [0, READ, WRITE, BOTH] {
        let (page, mark) = guest.marked_page();
        assert_eq!(guest.map_pages(1, AREA, 1, page, flags), OK);
        let seen = endpoint.fetch(AREA, 8);
        assert_eq!(seen.is_some(), flags & READ != 0, "reading with flags {flags}");
        assert!(seen.is_none_or(|seen| seen == mark));
        assert_eq!(endpoint.store(AREA, b"forgery!"), flags & WRITE != 0, "writing with flags {flags}");
        assert_eq!(&guest.read(page), if flags & WRITE != 0 { b"forgery!" } else { &mark });
        for (wanted, flag) in [(READ, READ), (WRITE, WRITE)] {
            if flags & flag == 0 {
                let event = guest.fault();
                let expected =
                    FaultEvent { reason: MAPPING, flags: wanted | ADDRESS, endpoint: ENDPOINTS[0], address: AREA };
                assert_eq!(event, expected, "flags {flags}");
            }
        }
        assert_eq!(guest.unmap(1, AREA, AREA + PAGE - 1), OK);
    }
}

#[test]
fn r52_an_inverted_or_empty_range_is_range() {
    let (rig, guest) = attached();
    for (first, last) in [
        (AREA, AREA),
        (AREA, AREA - 1),
        (AREA + PAGE, AREA + PAGE - 1),
        (AREA + PAGE, AREA - 1),
        (AREA + PAGE, 0),
        (u64::MAX, 0),
        (u64::MAX - PAGE + 1, 0),
        (WINDOW, PAGE - 1),
        (0, 0),
    ] {
        assert_eq!(guest.map(1, first, last, 0, READ), RANGE, "{first:#x}..={last:#x}");
    }
    assert_eq!(rig.iommu().live_mappings(), 0);
}

#[test]
fn r53_a_physical_range_beyond_48_bits_or_around_the_end_is_range() {
    let (rig, guest) = attached();
    let limit = 1 << 48;
    for (pages, target) in [
        (1, limit),
        (2, limit - PAGE),
        (1, 1 << 52),
        (1, 1 << 63),
        (1, u64::MAX - PAGE + 1),
        (2, u64::MAX - PAGE + 1),
        (1000, limit - 999 * PAGE),
    ] {
        assert_eq!(guest.map_pages(1, AREA, pages, GuestPhys(target), READ), RANGE, "{pages} pages to {target:#x}");
    }
    assert_eq!(rig.iommu().live_mappings(), 0);
    assert_eq!(guest.map_pages(1, AREA, 2, GuestPhys(limit - 2 * PAGE), READ), OK, "the last two pages");
}

#[test]
fn r53_a_physical_range_without_ram_maps_and_moves_nothing() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    for target in [WINDOW, 1 << 40, (1 << 48) - PAGE] {
        assert_eq!(guest.map_pages(1, AREA, 1, GuestPhys(target), BOTH), OK);
        assert_eq!(endpoint.fetch(AREA, 8), None);
        let event = guest.fault();
        assert_eq!((event.reason, event.address), (0, AREA), "no fault of the mapping");
        assert!(!endpoint.store(AREA, &[1; 8]));
        assert_eq!(guest.fault().reason, 0);
        assert_eq!(guest.unmap(1, AREA, AREA + PAGE - 1), OK);
    }
}

#[test]
fn r54_a_mapping_without_flags_is_a_mapping() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    let live = rig.iommu().live_mappings();
    // To an address of 0 too, where the entry has no bit set at all.
    for target in [GuestPhys(0), guest.marked_page().0] {
        assert_eq!(guest.map_pages(1, AREA, 2, target, 0), OK);
        assert_eq!(rig.iommu().live_mappings(), live + 1);
        assert_eq!(endpoint.fetch(AREA, 8), None);
        assert!(!endpoint.store(AREA, &[1; 8]));
        assert_eq!(guest.map_pages(1, AREA + PAGE, 1, target, BOTH), INVAL, "it occupies its range");
        assert_eq!(guest.unmap(1, AREA, AREA + PAGE - 1), RANGE, "it cannot be cut");
        assert_eq!(guest.unmap(1, AREA, AREA + 2 * PAGE - 1), OK);
        assert_eq!(rig.iommu().live_mappings(), live);
    }
}

#[test]
fn r55_ranges_up_to_the_last_address_are_range() {
    let (rig, guest) = attached();
    for first in [0, AREA, WINDOW - PAGE, WINDOW, u64::MAX - PAGE + 1] {
        assert_eq!(guest.map(1, first, u64::MAX, 0, READ), RANGE, "{first:#x}..=2^64-1");
    }
    assert_eq!(rig.iommu().live_mappings(), 0);
}

#[test]
fn r56_there_is_no_domain_before_attach() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for domain in [0, 1, guest.iommu.config().domain_last] {
        assert_eq!(guest.map(domain, AREA, AREA + PAGE - 1, 0, READ), NOENT);
    }
}

#[test]
fn r57_out_of_resources_is_nomem_and_changes_nothing() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let many = 1024;
    let endpoints: Vec<u32> = (0..many).map(|number| 0x1000 + number).collect();
    for &endpoint in &endpoints {
        rig.iommu().add_endpoint(endpoint).unwrap();
    }
    let refused = endpoints.iter().position(|&endpoint| match guest.attach(endpoint, endpoint, 0) {
        OK => false,
        status => {
            assert_eq!(status, NOMEM);
            true
        }
    });
    let full = refused.expect("domains have a limit");
    // The one that was refused is nowhere; it can join a domain that exists, and make one when another ends.
    let (late, early) = (endpoints[full], endpoints[0]);
    assert_eq!(guest.detach(late, late), INVAL);
    assert_eq!(guest.map(late, AREA, AREA + PAGE - 1, 0, READ), NOENT);
    assert_eq!(guest.attach(early, late, 0), OK);
    assert_eq!(guest.detach(early, late), OK);
    assert_eq!(guest.detach(early, early), OK);
    assert_eq!(guest.attach(late, late, 0), OK);
}
