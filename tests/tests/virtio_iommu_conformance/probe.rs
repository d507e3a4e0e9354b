//! R70–R78: PROBE (virtio 1.2 §5.13.6.7, §5.13.6.8).

use calgary_tests::guest::RawExchange;
use calgary_tests::guest::iommu::Request;

use crate::endpoint::Endpoint;
use crate::guest::{Guest, INVAL, NOENT, OK, PAGE};
use crate::rig::{ENDPOINTS, NO_ENDPOINT, Rig, WINDOW};

const TAIL: usize = 4;
/// Type, length, and the value of a RESV_MEM property.
const HEADER: usize = 4;
const RESV_MEM: u16 = 1;
const RESV_MEM_BYTES: usize = 20;
const MSI: u8 = 1;
/// Reason of a fault without a mapping.
const MAPPING: u8 = 2;

fn request(endpoint: u32) -> Vec<u8> {
    Request::Probe { endpoint }.to_bytes()
}

/// The property bytes of the first endpoint.
fn properties(guest: &Guest) -> Vec<u8> {
    let reply = guest.exchange(&request(ENDPOINTS[0]), guest.probe_answer());
    assert_eq!(reply.used_bytes, guest.probe_answer());
    let (properties, tail) = reply.writable.split_at(reply.writable.len() - TAIL);
    assert_eq!(tail, [OK, 0, 0, 0]);
    properties.to_vec()
}

/// One property as it stands in the list.
#[derive(Debug)]
struct Property {
    kind: u16,
    value: Vec<u8>,
}

impl Property {
    fn long(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.value[at..at + 8].try_into().unwrap())
    }
}

/// Walks the list; returns the properties and where the list ends.
fn walk(bytes: &[u8]) -> (Vec<Property>, usize) {
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let (mut list, mut at) = (Vec::new(), 0);
    while at + HEADER <= bytes.len() && half(at) & 0xfff != 0 {
        let len = usize::from(half(at + 2));
        list.push(Property { kind: half(at), value: bytes[at + HEADER..at + HEADER + len].to_vec() });
        at += HEADER + len;
    }
    (list, at)
}

#[test]
fn r70_reserved_bytes_are_ignored() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let expected = guest.exchange(&request(ENDPOINTS[0]), guest.probe_answer());
    for byte in 8..72 {
        let mut bytes = request(ENDPOINTS[0]);
        bytes[byte] = 0xff;
        assert_eq!(guest.exchange(&bytes, guest.probe_answer()), expected, "byte {byte}");
    }
}

#[test]
fn r71_an_unknown_endpoint_is_noent_behind_empty_properties() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for endpoint in [0, NO_ENDPOINT, u32::MAX] {
        let reply = guest.exchange(&request(endpoint), guest.probe_answer());
        assert_eq!(reply.used_bytes, guest.probe_answer());
        let (properties, tail) = reply.writable.split_at(reply.writable.len() - TAIL);
        assert_eq!(tail, [NOENT, 0, 0, 0]);
        assert!(properties.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn r72_the_length_of_a_property_excludes_its_header() {
    let rig = Rig::new();
    let bytes = properties(&Guest::boot(&rig));
    assert_eq!(bytes[..4], [1, 0, 20, 0], "RESV_MEM, 20 bytes");
}

#[test]
fn r73_each_property_follows_the_one_before() {
    let rig = Rig::new();
    let (list, end) = walk(&properties(&Guest::boot(&rig)));
    assert!(list.len() >= 2, "the hole and the MSI window: {list:x?}");
    assert!(list.iter().all(|property| property.kind == RESV_MEM && property.value.len() == RESV_MEM_BYTES));
    assert_eq!(end, list.len() * (HEADER + RESV_MEM_BYTES));
    let known =
        |msi: u8, first: u64, last: u64| list.iter().any(|p| (p.value[0], p.long(4), p.long(12)) == (msi, first, last));
    assert!(known(0, 0xa_0000, 0xf_ffff), "the hole below 1 MiB: {list:x?}");
    assert!(known(MSI, 0xfee0_0000, 0xfeef_ffff), "the MSI window: {list:x?}");
}

#[test]
fn r74_reserved_bits_and_unused_bytes_are_0() {
    let rig = Rig::new();
    let bytes = properties(&Guest::boot(&rig));
    let (list, end) = walk(&bytes);
    for property in &list {
        assert_eq!(property.kind & 0xf000, 0, "reserved bits of the type");
        assert_eq!(property.value[1..4], [0; 3], "reserved bytes of RESV_MEM");
    }
    assert!(bytes[end..].iter().all(|&byte| byte == 0));
}

#[test]
fn r75_a_short_buffer_gets_no_property_and_inval_in_its_last_bytes() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for endpoint in [ENDPOINTS[0], NO_ENDPOINT] {
        for writable in 4..guest.probe_answer() {
            let reply = guest.exchange(&request(endpoint), writable);
            assert_eq!(reply.used_bytes, writable);
            let (properties, tail) = reply.writable.split_at(reply.writable.len() - TAIL);
            assert_eq!(tail, [INVAL, 0, 0, 0], "{writable} bytes");
            assert!(properties.iter().all(|&byte| byte == 0), "{writable} bytes");
        }
    }
}

#[test]
fn r76_in_a_longer_buffer_the_tail_stays_at_probe_size() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let answer = guest.probe_answer();
    let exact = guest.exchange(&request(ENDPOINTS[0]), answer);
    for more in [1, 3, 4, 100, 4096] {
        let reply = guest.exchange(&request(ENDPOINTS[0]), answer + more);
        assert_eq!(reply.used_bytes, answer);
        let (written, rest) = reply.writable.split_at(answer as usize);
        assert_eq!(written, exact.writable, "{more} bytes more");
        assert!(rest.iter().all(|&byte| byte == RawExchange::POISON), "{more} bytes more");
    }
}

#[test]
fn r77_regions_do_not_overlap_and_one_at_most_is_for_msi() {
    let rig = Rig::new();
    let (list, _) = walk(&properties(&Guest::boot(&rig)));
    assert!(list.iter().all(|property| property.value[0] <= MSI), "known subtypes: {list:x?}");
    assert!(list.iter().filter(|property| property.value[0] == MSI).count() <= 1);
    for (index, property) in list.iter().enumerate() {
        let (first, last) = (property.long(4), property.long(12));
        assert!(first <= last);
        for other in &list[..index] {
            assert!(other.long(12) < first || last < other.long(4), "{property:x?} overlaps {other:x?}");
        }
    }
}

#[test]
fn r78_an_access_to_a_reserved_region_reaches_nothing() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    for region in guest.iommu.probe(ENDPOINTS[0]).unwrap() {
        for address in [region.first, region.first + 5 * PAGE, region.last & !(PAGE - 1)] {
            let ram = (address < WINDOW).then_some(calgary_tests::guest::GuestPhys(address));
            let before = ram.map(|page| guest.read(page));
            assert_eq!(endpoint.fetch(address, 8), None, "{address:#x}");
            assert_eq!((guest.fault().reason, guest.iommu.take_faults().unwrap().len()), (MAPPING, 0));
            assert!(!endpoint.store(address, b"doorbell"), "{address:#x}");
            let event = guest.fault();
            assert_eq!((event.reason, event.endpoint, event.address), (MAPPING, ENDPOINTS[0], address));
            assert_eq!(ram.map(|page| guest.read(page)), before, "RAM of that number at {address:#x}");
        }
    }
}
