//! Whatever a guest sends, the queue goes on and the daemon lives.

use std::sync::Arc;

use calgary_tests::guest::iommu::Request;
use calgary_tests::guest::queue::Descriptor;
use calgary_tests::guest::{DeviceAddr, Direct, GuestPhys, Iommu, Mapping, ROOT_FID, RawExchange, RawReply, Session};

use crate::rig::{DIRECT, ENDPOINT, Rig};

const INVAL: u8 = 4;
const RANGE: u8 = 5;
const NOENT: u8 = 6;
/// Bytes of properties in a PROBE answer, from the device's configuration.
fn probe_size(iommu: &Iommu) -> u32 {
    iommu.config().probe_bytes
}

fn exchange(iommu: &Iommu, exchange: &RawExchange) -> RawReply {
    iommu.exchange(exchange).unwrap()
}

/// One valid request of each type, for the attached domain.
fn one_of_each(domain: u32) -> Vec<Request> {
    vec![
        Request::Attach { domain, endpoint: ENDPOINT, flags: 0 },
        Request::Map { domain, first: 0x10_0000, last: 0x10_0fff, target: GuestPhys(0), flags: 1 },
        Request::Unmap { domain, first: 0x10_0000, last: 0x10_0fff },
        Request::Probe { endpoint: ENDPOINT },
    ]
}

#[test]
fn a_request_may_be_cut_anywhere() {
    let rig = Rig::new();
    let guest = rig.guest(Mapping::Strict);
    let (iommu, domain) = (guest.iommu.clone().unwrap(), guest.shares[0].domain.unwrap());
    let tail = probe_size(&iommu) + 4;
    for indirect in [false, true] {
        for request in one_of_each(domain) {
            let bytes = request.to_bytes();
            let writable = if matches!(request, Request::Probe { .. }) { tail } else { 4 };
            for cut in 1..bytes.len() {
                let mut whole = RawExchange::new(&bytes, writable).cut_readable(&[cut]);
                whole.indirect = indirect;
                whole.writable = vec![1, 0, writable - 1];
                let reply = exchange(&iommu, &whole);
                assert_eq!(reply.used_bytes, writable, "{request:?} cut at {cut}");
                let status = reply.writable[writable as usize - 4];
                // MAP of what is mapped already is the one refusal here: requests repeat.
                let repeated = matches!(request, Request::Map { .. }) && cut > 1;
                assert_eq!(status, if repeated { INVAL } else { 0 }, "{request:?} cut at {cut}");
            }
        }
    }
}

#[test]
fn a_truncated_request_changes_nothing_and_writes_nothing() {
    let rig = Rig::new();
    let guest = rig.guest(Mapping::Strict);
    let (iommu, domain) = (guest.iommu.clone().unwrap(), guest.shares[0].domain.unwrap());
    let live = rig.iommu().live_mappings();
    for request in one_of_each(domain) {
        let bytes = request.to_bytes();
        for len in 0..bytes.len() {
            let reply = exchange(&iommu, &RawExchange::new(&bytes[..len], 600));
            assert_eq!(reply.used_bytes, 0, "{request:?} of {len} bytes");
            assert!(reply.writable.iter().all(|&byte| byte == RawExchange::POISON));
        }
        for writable in 0..4 {
            let reply = exchange(&iommu, &RawExchange::new(&bytes, writable));
            assert_eq!(reply.used_bytes, 0, "{request:?} with {writable} writable bytes");
        }
    }
    assert_eq!(rig.iommu().live_mappings(), live);
}

#[test]
fn an_unknown_type_is_not_answered() {
    let rig = Rig::new();
    let guest = rig.guest(Mapping::Strict);
    let iommu = guest.iommu.clone().unwrap();
    for kind in (0..=255).filter(|kind| !(1..=5).contains(kind)) {
        let mut bytes = [0; 72];
        bytes[0] = kind;
        let reply = exchange(&iommu, &RawExchange::new(&bytes, 64));
        assert_eq!(reply.used_bytes, 0, "type {kind}");
        assert!(reply.writable.iter().all(|&byte| byte == RawExchange::POISON), "type {kind}");
    }
}

#[test]
fn boundary_values_get_the_status_of_their_rule() {
    let rig = Rig::new();
    let guest = rig.guest(Mapping::Strict);
    let (iommu, domain) = (guest.iommu.clone().unwrap(), guest.shares[0].domain.unwrap());
    let end = (crate::rig::WINDOW_MIB << 20) - 1;
    let map =
        |domain, first, last, target, flags| Request::Map { domain, first, last, target: GuestPhys(target), flags };
    let cases = [
        (map(domain, 0x1001, 0x1fff, 0, 1), RANGE),
        (map(domain, 0x1000, 0x1ffe, 0, 1), RANGE),
        (map(domain, 0x1000, 0x1fff, 1, 1), RANGE),
        (map(domain, 0x2000, 0x1fff, 0, 1), RANGE),
        (map(domain, 0x1000, 0x1000, 0, 1), RANGE),
        (map(domain, end + 1, end + 0x1000, 0, 1), RANGE),
        (map(domain, end - 0xfff, end + 0x1000, 0, 1), RANGE),
        (map(domain, 0, u64::MAX, 0, 1), RANGE),
        (map(domain, u64::MAX - 0xfff, u64::MAX, 0, 1), RANGE),
        (map(domain, 0x1000, 0x1fff, 1 << 48, 1), RANGE),
        (map(domain, 0x1000, 0x2fff, (1 << 48) - 0x1000, 1), RANGE),
        (map(domain, 0x1000, 0x1fff, !0xfff, 1), RANGE),
        (map(domain, 0x1000, 0x1fff, 0, 8), INVAL),
        (map(domain, 0x1000, 0x1fff, 0, 1 << 31), INVAL),
        (map(domain, 0xa_0000, 0xa_0fff, 0, 1), INVAL),
        (map(domain, 0x9_f000, 0x10_0fff, 0, 1), INVAL),
        (map(domain + 1, 0x1000, 0x1fff, 0, 1), NOENT),
        (Request::Unmap { domain, first: 0x2000, last: 0x1fff }, RANGE),
        (Request::Unmap { domain: domain + 1, first: 0, last: 0xfff }, NOENT),
        (Request::Unmap { domain, first: end + 1, last: u64::MAX }, 0),
        (Request::Attach { domain, endpoint: 0, flags: 0 }, NOENT),
        (Request::Attach { domain, endpoint: ENDPOINT, flags: 2 }, INVAL),
        (Request::Attach { domain: u32::MAX, endpoint: ENDPOINT, flags: 0 }, RANGE),
        (Request::Detach { domain, endpoint: u32::MAX }, NOENT),
        (Request::Detach { domain: domain + 1, endpoint: ENDPOINT }, INVAL),
    ];
    let live = rig.iommu().live_mappings();
    for (request, expected) in cases {
        let reply = exchange(&iommu, &RawExchange::new(&request.to_bytes(), 4));
        assert_eq!(reply.writable, [expected, 0, 0, 0], "{request:x?}");
        assert_eq!(reply.used_bytes, 4);
    }
    assert_eq!(rig.iommu().live_mappings(), live);
    let reply = exchange(&iommu, &RawExchange::new(&Request::Probe { endpoint: 1 }.to_bytes(), probe_size(&iommu) + 4));
    assert_eq!(reply.writable[probe_size(&iommu) as usize], NOENT);
    let reply = exchange(&iommu, &RawExchange::new(&Request::Probe { endpoint: ENDPOINT }.to_bytes(), 100));
    assert_eq!((reply.used_bytes, reply.writable[96]), (100, INVAL));
}

/// Chains that no driver builds, over a table of `address` buffers.
fn hostile_chains(address: DeviceAddr) -> Vec<[Descriptor; 3]> {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    let d = |bytes, flags, next| Descriptor { address, bytes, flags, next };
    let far = |at| Descriptor { address: DeviceAddr(at), bytes: 64, flags: 0, next: 0 };
    vec![
        [d(16, NEXT, 0); 3],
        [d(16, NEXT, 1), d(16, NEXT, 2), d(16, NEXT, 0)],
        [d(16, NEXT, 0xffff); 3],
        [d(16, WRITE | NEXT, 1), d(16, 0, 0), d(0, 0, 0)],
        [d(0, INDIRECT, 0); 3],
        [d(15, INDIRECT, 0); 3],
        [d(u32::MAX, INDIRECT, 0); 3],
        [d(16, INDIRECT | NEXT, 1); 3],
        [d(u32::MAX, NEXT, 1), d(u32::MAX, WRITE, 0), d(0, 0, 0)],
        [far(u64::MAX); 3],
        [far(1 << 52); 3],
        [d(0, 0xfff8, 0); 3],
    ]
}

#[test]
fn hostile_chains_come_back_and_the_queue_goes_on() {
    let rig = Rig::new();
    let mut guest = rig.guest(Mapping::Strict);
    let (iommu, domain) = (guest.iommu.clone().unwrap(), guest.shares[0].domain.unwrap());
    let page = guest.memory.take_page().unwrap();
    for chain in hostile_chains(page.into()) {
        iommu.with_requests(|queue| send(queue, &chain));
        assert!(iommu.unmap(domain, 0x1000, 0x1fff).is_ok());
    }
    let page = guest.memory.take_page().unwrap();
    for share in 0..2 {
        for chain in hostile_chains(page.into()) {
            let client = &mut guest.shares[share].client;
            send(client.queue(), &chain);
            client.getattr(ROOT_FID, 1).unwrap();
        }
    }
}

/// Offers `chain` with its head at descriptor 0 of an idle ring and waits for it.
fn send(queue: &mut calgary_tests::guest::VirtQueue, chain: &[Descriptor]) {
    for (index, descriptor) in (0..).zip(chain) {
        queue.ring().raw_descriptor(index, *descriptor).unwrap();
    }
    queue.ring().raw_offer(0, u64::from(u32::MAX)).unwrap();
    queue.publish().unwrap();
    queue.force_kick().unwrap();
    queue.take().unwrap();
}

#[test]
fn an_impossible_index_stops_the_queue_until_a_new_driver() {
    let rig = Rig::new();
    let mut guest = rig.guest(Mapping::Strict);
    let iommu = guest.iommu.clone().unwrap();
    for share in &mut guest.shares {
        let queue = share.client.queue();
        let next = queue.ring().next_avail();
        queue.ring().raw_available_index(next.wrapping_add(0x7000)).unwrap();
        queue.force_kick().unwrap();
    }
    iommu.with_requests(|queue| {
        let next = queue.ring().next_avail();
        queue.ring().raw_available_index(next.wrapping_sub(1)).unwrap();
        queue.force_kick().unwrap();
    });
    guest.reboot().unwrap();
    for share in &mut guest.shares {
        share.client.getattr(ROOT_FID, 1).unwrap();
    }
}

#[test]
fn a_head_outside_the_table_is_skipped_or_returned_but_not_followed() {
    let rig = Rig::new();
    let mut guest = rig.guest(Mapping::Strict);
    for share in &mut guest.shares {
        let queue = share.client.queue();
        let next = queue.ring().next_avail();
        queue.ring().raw_available(next, 0xffff).unwrap();
        queue.ring().raw_available_index(next.wrapping_add(1)).unwrap();
        queue.force_kick().unwrap();
    }
    guest.reboot().unwrap();
    for share in &mut guest.shares {
        share.client.getattr(ROOT_FID, 1).unwrap();
    }
}

/// xorshift64
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn random_9p_frames_leave_the_session_usable_and_the_outside_alone() {
    let rig = Rig::new();
    std::fs::write(rig.outside().join("precious"), b"precious").unwrap();
    let mut guest = rig.guest(Mapping::Lazy);
    let mut state = 0x5eed;
    for round in 0..3000_u32 {
        let kind = 100 + 2 * u8::try_from(random(&mut state) % 12).unwrap();
        let kind = if round % 2 == 0 { kind } else { 8 + 2 * u8::try_from(random(&mut state) % 35).unwrap() };
        let len = usize::try_from(random(&mut state) % 80).unwrap();
        let body: Vec<u8> = (0..len)
            .map(|_| match random(&mut state) % 4 {
                0 => b'.',
                1 => 0,
                2 => 1,
                _ => random(&mut state).to_le_bytes()[0],
            })
            .collect();
        let size = u32::try_from(7 + len).unwrap();
        let frame = [&size.to_le_bytes()[..], &[kind], &2_u16.to_le_bytes(), &body].concat();
        let writable = u32::try_from(random(&mut state) % 300).unwrap();
        let client = &mut guest.shares[usize::from(round % 3 == 0)].client;
        let reply = client.exchange(&RawExchange::new(&frame, writable)).unwrap();
        let used = usize::try_from(reply.used_bytes).unwrap();
        assert!(reply.writable[used..].iter().all(|&byte| byte == RawExchange::POISON), "wrote beyond the reply");
        if used > 0 {
            assert_eq!(reply.writable[..4], reply.used_bytes.to_le_bytes(), "the used length is the 9P size");
        }
    }
    for share in &mut guest.shares {
        share.client.version(65536).unwrap();
        share.client.attach(ROOT_FID, b"", 0).unwrap();
        share.client.getattr(ROOT_FID, 1).unwrap();
    }
    assert_eq!(std::fs::read(rig.outside().join("precious")).unwrap(), b"precious");
}

#[test]
fn every_truncation_of_a_9p_frame_is_an_error_or_nothing() {
    let rig = Rig::new();
    let mut guest = Session::boot(rig.guest_options(2, Mapping::Strict)).unwrap();
    // Twalk, Tread, Twrite and Txattrwalk of the root.
    let bodies: [(u8, Vec<u8>); 4] = [
        (110, [&[0; 4][..], &9_u32.to_le_bytes(), &1_u16.to_le_bytes(), &1_u16.to_le_bytes(), b"x"].concat()),
        (116, [&[0; 12][..], &100_u32.to_le_bytes()].concat()),
        (118, [&[0; 12][..], &4_u32.to_le_bytes(), b"data"].concat()),
        (30, [&[0; 4][..], &9_u32.to_le_bytes(), &4_u16.to_le_bytes(), b"user"].concat()),
    ];
    for share in &mut guest.shares {
        for (kind, body) in &bodies {
            for len in 0..body.len() {
                for claimed in [7 + len, 7 + body.len(), 6, 0, usize::from(u16::MAX)] {
                    let size = u32::try_from(claimed).unwrap();
                    let frame = [&size.to_le_bytes()[..], &[*kind], &3_u16.to_le_bytes(), &body[..len]].concat();
                    let reply = share.client.exchange(&RawExchange::new(&frame, 64)).unwrap();
                    let error = reply.used_bytes == 11 && reply.writable[4] == 7;
                    assert!(error || reply.used_bytes == 0, "type {kind}, {len} bytes, claimed {claimed}: {reply:?}");
                }
            }
        }
        share.client.getattr(ROOT_FID, 1).unwrap();
    }
}

#[test]
fn random_iommu_requests_never_reach_memory() {
    let rig = Rig::new();
    let guest = rig.guest(Mapping::Strict);
    let iommu: Arc<Iommu> = guest.iommu.clone().unwrap();
    let mut state = 2006;
    for _ in 0..3000 {
        let mut bytes = vec![0; usize::try_from(random(&mut state) % 80).unwrap()];
        for byte in &mut bytes {
            *byte = if random(&mut state).is_multiple_of(3) { random(&mut state).to_le_bytes()[0] } else { 0 };
        }
        if let Some(kind) = bytes.first_mut() {
            *kind %= 7;
        }
        let writable = u32::try_from(random(&mut state) % 8 * 150).unwrap();
        let mut request = RawExchange::new(&bytes, writable);
        request.indirect = random(&mut state).is_multiple_of(2);
        let reply = iommu.with_requests(|queue| request.run(queue, &guest.memory, &Direct)).unwrap();
        assert!(reply.used_bytes <= writable);
    }
    drop((iommu, guest));
    let mut again = rig.guest(Mapping::Strict);
    again.shares[0].client.getattr(ROOT_FID, 1).unwrap();
    assert!(rig.daemon.share(DIRECT).is_some());
}
