//! R60–R67: UNMAP (virtio 1.2 §5.13.6.6).

use calgary_tests::guest::iommu::Request;

use crate::endpoint::Endpoint;
use crate::guest::{AREA, BOTH, BYPASS, Guest, INVAL, NOENT, OK, PAGE, RANGE, READ};
use crate::rig::{ENDPOINTS, Rig, WINDOW};

/// A guest with an endpoint at work in domain 1, which maps that endpoint's home.
struct Bench {
    rig: Rig,
    guest: Guest,
    endpoint: Endpoint,
}

impl Bench {
    fn new() -> Self {
        let rig = Rig::new();
        let guest = Guest::boot(&rig);
        let endpoint = Endpoint::attached(&rig, &guest, 0, 1);
        Self { rig, guest, endpoint }
    }

    /// Mappings without the home.
    fn live(&self) -> u64 {
        self.rig.iommu().live_mappings() - 1
    }

    /// Maps `pages` pages from page `at` of the area.
    fn map(&self, at: u64, pages: u64) {
        let (run, _) = self.guest.marked_run(pages);
        assert_eq!(self.guest.map_pages(1, AREA + at * PAGE, pages, run, BOTH), OK);
    }

    /// UNMAP of the bytes from `first` to `last` of the area.
    fn unmap(&self, first: u64, last: u64) -> u8 {
        self.guest.unmap(1, AREA + first, AREA + last)
    }

    /// Whether the device reaches page `at` of the area.
    fn reaches(&mut self, at: u64) -> bool {
        self.endpoint.fetch(AREA + at * PAGE, 1).is_some()
    }
}

#[test]
fn r60_reserved_bytes_are_ignored() {
    let bench = Bench::new();
    for byte in 24..28 {
        bench.map(0, 1);
        let mut bytes = Request::Unmap { domain: 1, first: AREA, last: AREA + PAGE - 1 }.to_bytes();
        bytes[byte] = 0xff;
        assert_eq!(bench.guest.ask_bytes(&bytes), OK, "byte {byte}");
        assert_eq!(bench.live(), 0);
    }
}

#[test]
fn r61_an_unknown_domain_is_noent_and_a_bypass_domain_inval() {
    let bench = Bench::new();
    for domain in [0, 2, u32::MAX] {
        assert_eq!(bench.guest.unmap(domain, 0, u64::MAX), NOENT, "domain {domain}");
    }
    assert_eq!(bench.guest.attach(2, ENDPOINTS[1], BYPASS), OK);
    assert_eq!(bench.guest.unmap(2, 0, u64::MAX), INVAL);
    assert_eq!(bench.guest.unmap(2, AREA, AREA + PAGE - 1), INVAL);
}

#[test]
fn r62_a_range_that_would_split_a_mapping_is_range_and_removes_nothing() {
    let mut bench = Bench::new();
    for at in [0, 2, 3, 8] {
        bench.map(at, 1);
    }
    bench.map(4, 3);
    let live = bench.live();
    let page = PAGE;
    // From whole mappings into the middle of one, from either side, at page and at byte boundaries.
    for (first, last) in [
        (0, 5 * page - 1),
        (0, 6 * page - 1),
        (2 * page, 5 * page - 1),
        (5 * page, 9 * page - 1),
        (6 * page, 9 * page - 1),
        (5 * page, 6 * page - 1),
        (0, 7 * page - 2),
        (4 * page + 1, 9 * page - 1),
        (0, 4 * page),
        (7 * page - 1, 9 * page - 1),
        (0, 9 * page - 2),
        (1, 9 * page - 1),
    ] {
        assert_eq!(bench.unmap(first, last), RANGE, "{first:#x}..={last:#x}");
        assert_eq!(bench.live(), live, "{first:#x}..={last:#x}");
        for at in [0, 2, 3, 4, 5, 6, 8] {
            assert!(bench.reaches(at), "page {at} after {first:#x}..={last:#x}");
        }
    }
    assert_eq!(bench.unmap(0, 9 * page - 1), OK);
    assert_eq!(bench.live(), 0);
}

#[test]
fn r63_holes_are_ok_and_everything_inside_is_removed() {
    let mut bench = Bench::new();
    assert_eq!(bench.unmap(0, 100 * PAGE - 1), OK, "nothing is mapped");
    let mapped = [0, 1, 5, 63, 64, 65, 127, 128, 200];
    for at in mapped {
        bench.map(at, 1);
    }
    bench.map(300, 1);
    assert_eq!(bench.unmap(0, 256 * PAGE - 1), OK);
    assert_eq!(bench.live(), 1);
    for at in mapped {
        assert!(!bench.reaches(at), "page {at}");
    }
    assert!(bench.reaches(300), "what lies outside stays");
    assert_eq!(bench.unmap(0, 256 * PAGE - 1), OK, "once more");
}

#[test]
fn r64_bounds_need_no_alignment_where_they_cut_no_mapping() {
    let mut bench = Bench::new();
    let page = PAGE;
    for (first, last) in
        [(page - 1, 3 * page - 1), (1, 2 * page), (page, 2 * page), (page - 5, 2 * page + 7), (0, 3 * page - 2)]
    {
        bench.map(1, 1);
        assert_eq!(bench.unmap(first, last), OK, "{first:#x}..={last:#x}");
        assert_eq!(bench.live(), 0);
        assert!(!bench.reaches(1));
    }
    // One byte of an unmapped page, and one of a mapped page.
    assert_eq!(bench.unmap(5, 5), OK);
    bench.map(1, 1);
    for (first, last) in [(page, page), (page + 1, 2 * page - 1), (page, 2 * page - 2), (2 * page - 1, 2 * page - 1)] {
        assert_eq!(bench.unmap(first, last), RANGE, "{first:#x}..={last:#x}");
    }
    assert!(bench.reaches(1));
}

#[test]
fn r65_a_range_may_end_or_lie_outside_input_range() {
    let bench = Bench::new();
    for (first, last) in [(WINDOW, u64::MAX), (WINDOW, WINDOW), (1 << 63, u64::MAX), (u64::MAX, u64::MAX)] {
        assert_eq!(bench.guest.unmap(1, first, last), OK, "{first:#x}..={last:#x}");
    }
    for last in [WINDOW - 1, WINDOW, WINDOW + PAGE - 1, u64::MAX - 1, u64::MAX] {
        let page = bench.guest.marked_page().0;
        assert_eq!(bench.guest.map_pages(1, WINDOW - PAGE, 1, page, READ), OK);
        bench.map(0, 3);
        assert_eq!(bench.guest.unmap(1, AREA, last), OK, "up to {last:#x}");
        assert_eq!(bench.live(), 0);
    }
}

#[test]
fn r65_the_whole_address_space_unmaps_everything() {
    let mut bench = Bench::new();
    for at in 0..50 {
        bench.map(3 * at, 2);
    }
    assert_eq!(bench.guest.unmap(1, 0, u64::MAX), OK);
    assert_eq!(bench.rig.iommu().live_mappings(), 0, "the home went too");
    let event = bench.endpoint.expect_cut_off(&bench.guest);
    assert_eq!((event.reason, event.endpoint), (2, ENDPOINTS[0]), "attached, but nothing is mapped");
}

#[test]
fn r66_an_inverted_range_is_range_and_removes_nothing() {
    let mut bench = Bench::new();
    bench.map(0, 1);
    bench.map(1, 1);
    for (first, last) in
        [(AREA + PAGE, AREA), (AREA + PAGE, AREA + PAGE - 1), (u64::MAX, 0), (WINDOW, 0), (1, 0), (u64::MAX, WINDOW)]
    {
        assert_eq!(bench.guest.unmap(1, first, last), RANGE, "{first:#x}..={last:#x}");
    }
    assert!(bench.reaches(0) && bench.reaches(1));
    assert_eq!(bench.live(), 2);
}

#[test]
fn r67_one_map_is_one_unit() {
    let mut bench = Bench::new();
    // Neighbours in both address spaces are still two mappings.
    let (run, _) = bench.guest.marked_run(2);
    for at in 0..2 {
        assert_eq!(bench.guest.map_pages(1, AREA + at * PAGE, 1, run + at * PAGE, BOTH), OK);
    }
    assert_eq!(bench.unmap(0, PAGE - 1), OK, "separately");
    assert!(!bench.reaches(0) && bench.reaches(1));
    assert_eq!(bench.guest.map_pages(1, AREA, 1, run, BOTH), OK);
    assert_eq!(bench.unmap(0, 2 * PAGE - 1), OK, "together");
    assert_eq!(bench.live(), 0);
    // Two pages of one MAP are one.
    assert_eq!(bench.guest.map_pages(1, AREA, 2, run, BOTH), OK);
    assert_eq!(bench.unmap(0, PAGE - 1), RANGE);
    assert_eq!(bench.unmap(PAGE, 2 * PAGE - 1), RANGE);
    assert!(bench.reaches(0) && bench.reaches(1));
    // Also where one ends and the next begins inside the range.
    assert_eq!(bench.guest.map_pages(1, AREA + 2 * PAGE, 2, run, BOTH), OK);
    assert_eq!(bench.unmap(PAGE, 4 * PAGE - 1), RANGE);
    assert_eq!(bench.unmap(2 * PAGE, 4 * PAGE - 1), OK);
    assert_eq!(bench.unmap(0, 2 * PAGE - 1), OK);
    assert_eq!(bench.live(), 0);
}

#[test]
fn r67_mappings_of_all_lengths_around_the_words_of_a_bitmap_are_units() {
    let bench = Bench::new();
    for start in [0, 1, 62, 63, 64, 65] {
        for pages in [1, 2, 63, 64, 65, 128, 129] {
            bench.map(start, pages);
            let (first, last) = (start * PAGE, (start + pages) * PAGE - 1);
            if pages > 1 {
                assert_eq!(bench.unmap(first, last - PAGE), RANGE, "{pages} pages from {start}");
                assert_eq!(bench.unmap(first + PAGE, last), RANGE, "{pages} pages from {start}");
            }
            assert_eq!(bench.live(), 1);
            assert_eq!(bench.unmap(first, last), OK, "{pages} pages from {start}");
            assert_eq!(bench.live(), 0);
        }
    }
}
