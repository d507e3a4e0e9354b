//! R10–R18: requests as descriptors (virtio 1.2 §2.7, §5.13.6, §5.13.6.2).

use calgary_tests::guest::iommu::{F_MAP_UNMAP, F_PROBE, Request};
use calgary_tests::guest::{GuestPhys, IommuOptions, RawExchange, RawReply};

use crate::guest::{AREA, Guest, INVAL, NOENT, OK, PAGE, READ};
use crate::rig::{ENDPOINTS, Rig};

const DOMAIN: u32 = 1;

/// ATTACH, MAP, UNMAP, PROBE and DETACH: all succeed in this order, again and again.
fn a_life() -> [Request; 5] {
    let (domain, endpoint) = (DOMAIN, ENDPOINTS[0]);
    let (first, last) = (AREA, AREA + PAGE - 1);
    [
        Request::Attach { domain, endpoint, flags: 0 },
        Request::Map { domain, first, last, target: GuestPhys(0), flags: READ },
        Request::Unmap { domain, first, last },
        Request::Probe { endpoint },
        Request::Detach { domain, endpoint },
    ]
}

/// Bytes that the device writes for a request.
fn answer(guest: &Guest, request: &Request) -> u32 {
    if matches!(request, Request::Probe { .. }) { guest.probe_answer() } else { 4 }
}

/// Insists that `reply` is a whole answer with `status`, and that nothing follows it.
fn expect(reply: &RawReply, answer: u32, status: u8, context: &str) {
    assert_eq!(reply.used_bytes, answer, "{context}");
    let end = answer as usize;
    assert_eq!(reply.writable[end - 4..end], [status, 0, 0, 0], "{context}");
    assert!(reply.writable[end..].iter().all(|&byte| byte == RawExchange::POISON), "{context}");
}

/// Insists that nothing was written and a used length of 0 reported.
fn expect_silence(reply: &RawReply, context: &str) {
    assert_eq!(reply.used_bytes, 0, "{context}");
    assert!(reply.writable.iter().all(|&byte| byte == RawExchange::POISON), "{context}");
}

#[test]
fn r10_success_is_status_0_with_reserved_bytes_of_0() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for request in a_life() {
        let answer = answer(&guest, &request);
        expect(&guest.exchange(&request.to_bytes(), answer), answer, OK, &format!("{request:?}"));
    }
}

#[test]
fn r11_reserved_bytes_of_the_head_are_ignored() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for reserved in [[0xff; 3], [1, 0, 0], [0, 0x80, 0], [0, 0, 1]] {
        for request in a_life() {
            let mut bytes = request.to_bytes();
            bytes[1..4].copy_from_slice(&reserved);
            let answer = answer(&guest, &request);
            expect(&guest.exchange(&bytes, answer), answer, OK, &format!("{request:?} with {reserved:x?}"));
        }
    }
}

#[test]
fn r12_an_unknown_type_writes_nothing_and_reports_0() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for kind in (0..=u8::MAX).filter(|kind| !(1..=5).contains(kind)) {
        for (readable, writable) in [(4, 4), (20, 4), (72, 516), (80, 600)] {
            let mut bytes = vec![0; readable];
            bytes[0] = kind;
            expect_silence(&guest.exchange(&bytes, writable), &format!("type {kind} in {readable} bytes"));
        }
    }
}

#[test]
fn r13_a_request_without_all_its_bytes_or_a_tail_writes_nothing_and_does_nothing() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for request in a_life() {
        let bytes = request.to_bytes();
        for len in 0..bytes.len() {
            let reply = guest.exchange(&bytes[..len], answer(&guest, &request));
            expect_silence(&reply, &format!("{request:?} cut to {len} bytes"));
        }
        for writable in 0..4 {
            expect_silence(&guest.exchange(&bytes, writable), &format!("{request:?} with {writable} writable bytes"));
        }
        // A tail that the device may only read is none.
        let mut read_only = RawExchange::new(&bytes, 0);
        read_only.readable.push(vec![0; 4]);
        read_only.writable.clear();
        expect_silence(&guest.send(&read_only), &format!("{request:?} with a read-only tail"));
    }
    // None of them attached, mapped or detached anything.
    assert_eq!(guest.unmap(DOMAIN, 0, u64::MAX), NOENT);
}

#[test]
fn r14_a_request_may_be_cut_between_any_two_bytes() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for indirect in [false, true] {
        for cut in 1..72 {
            for request in a_life() {
                let (bytes, answer) = (request.to_bytes(), answer(&guest, &request));
                let mut exchange = RawExchange::new(&bytes, 0).cut_readable(&[cut]);
                // The tail falls apart too, at one of its four places.
                let first = (u32::try_from(cut).unwrap() % 4 + answer - 4).min(answer);
                exchange.writable = vec![first, 0, answer - first];
                exchange.indirect = indirect;
                expect(&guest.send(&exchange), answer, OK, &format!("{request:?} cut at {cut}, indirect {indirect}"));
            }
        }
    }
}

#[test]
fn r14_a_request_may_come_byte_by_byte() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for indirect in [false, true] {
        for request in a_life() {
            let (bytes, answer) = (request.to_bytes(), answer(&guest, &request));
            let all: Vec<usize> = (1..bytes.len()).collect();
            let mut exchange = RawExchange::new(&bytes, 0).cut_readable(&all);
            exchange.writable = [vec![answer - 4], vec![1; 4]].concat();
            exchange.indirect = indirect;
            expect(&guest.send(&exchange), answer, OK, &format!("{request:?}, indirect {indirect}"));
        }
    }
}

#[test]
fn r14_empty_descriptors_are_skipped() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for request in a_life() {
        let (bytes, answer) = (request.to_bytes(), answer(&guest, &request));
        let (head, body) = bytes.split_at(4);
        let readable = [&[][..], head, &[], &[], body, &[]].map(<[u8]>::to_vec).to_vec();
        let exchange = RawExchange { readable, writable: vec![0, 0, answer, 0], indirect: true };
        expect(&guest.send(&exchange), answer, OK, &format!("{request:?}"));
    }
}

#[test]
fn r14_properties_may_be_cut_between_any_two_bytes() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let bytes = Request::Probe { endpoint: ENDPOINTS[0] }.to_bytes();
    let answer = guest.probe_answer();
    let whole = guest.exchange(&bytes, answer);
    for cut in 0..=answer {
        let exchange =
            RawExchange { readable: vec![bytes.clone()], writable: vec![cut, answer - cut], indirect: false };
        assert_eq!(guest.send(&exchange), whole, "cut at {cut}");
    }
}

#[test]
fn r15_readable_bytes_beyond_the_request_are_ignored() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for more in [1, 4, 52, 4096] {
        for request in a_life() {
            let answer = answer(&guest, &request);
            let longer = [request.to_bytes(), vec![0xff; more]].concat();
            expect(&guest.exchange(&longer, answer), answer, OK, &format!("{request:?} and {more} bytes"));
        }
    }
}

#[test]
fn r16_the_used_length_counts_what_was_written_in_success_and_failure() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let (domain, nobody) = (99, u32::MAX);
    let refused = [
        Request::Attach { domain, endpoint: nobody, flags: 0 },
        Request::Detach { domain, endpoint: nobody },
        Request::Map { domain, first: 0, last: 4095, target: GuestPhys(0), flags: READ },
        Request::Unmap { domain, first: 0, last: 4095 },
        Request::Probe { endpoint: nobody },
    ];
    for extra in [0, 1, 100] {
        for request in a_life() {
            let answer = answer(&guest, &request);
            expect(&guest.exchange(&request.to_bytes(), answer + extra), answer, OK, &format!("{request:?}+{extra}"));
        }
        for request in &refused {
            let answer = answer(&guest, request);
            expect(
                &guest.exchange(&request.to_bytes(), answer + extra),
                answer,
                NOENT,
                &format!("{request:?}+{extra}"),
            );
        }
    }
}

#[test]
fn r17_probe_is_not_answered_unless_negotiated() {
    let rig = Rig::new();
    let guest = Guest::with_features(&rig, IommuOptions::default().features & !F_PROBE);
    let bytes = Request::Probe { endpoint: ENDPOINTS[0] }.to_bytes();
    for writable in [4, 516, 600] {
        expect_silence(&guest.exchange(&bytes, writable), &format!("{writable} writable bytes"));
    }
}

#[test]
fn r18_map_and_unmap_are_not_answered_unless_negotiated() {
    let rig = Rig::new();
    let guest = Guest::with_features(&rig, IommuOptions::default().features & !F_MAP_UNMAP);
    assert_eq!(guest.attach(DOMAIN, ENDPOINTS[0], 0), OK);
    for request in a_life().into_iter().filter(|r| matches!(r, Request::Map { .. } | Request::Unmap { .. })) {
        expect_silence(&guest.exchange(&request.to_bytes(), 4), &format!("{request:?}"));
    }
    assert_eq!(rig.iommu().live_mappings(), 0);
    assert_eq!(guest.attach(DOMAIN, ENDPOINTS[1], 1), INVAL, "the rest of the device works");
}
