//! R90–R93: the event queue (virtio 1.2 §5.13.6.9).

use std::sync::Arc;

use calgary_tests::guest::iommu::{EVENT_QUEUE, Request};
use calgary_tests::guest::queue::{RingBytes, RingPlacement, Segment};
use calgary_tests::guest::transport::F_EVENT_IDX;
use calgary_tests::guest::{GuestPhys, IommuOptions, RawExchange, SplitQueue, VirtQueue, Waiting};

use crate::endpoint::Endpoint;
use crate::guest::{AREA, BOTH, Guest, OK, PAGE, READ, WRITE};
use crate::rig::{ENDPOINTS, Rig};

const EVENT_BYTES: u32 = 24;
const UNKNOWN: u8 = 0;
const MAPPING: u8 = 2;
const ADDRESS: u32 = 1 << 8;
const RING_SIZE: u16 = 16;

/// A guest whose driver keeps no buffers in the event queue.
fn guest_without_buffers(rig: &Rig) -> Guest {
    Guest::with_options(rig, &IommuOptions { event_buffers: 0, ..IommuOptions::default() })
}

/// An event queue filled by hand.
struct EventQueue<'a> {
    guest: &'a Guest,
    queue: VirtQueue,
}

impl<'a> EventQueue<'a> {
    /// Takes the place of the driver's own.
    fn start(guest: &'a Guest) -> Self {
        let run = guest.memory.take_run(RingBytes::of(RING_SIZE).total()).unwrap();
        let placement = RingPlacement::contiguous(run, run.into(), RING_SIZE);
        let event_idx = guest.iommu.features() & F_EVENT_IDX != 0;
        let ring = SplitQueue::new(Arc::clone(&guest.memory), placement, RING_SIZE, event_idx).unwrap();
        let doorbell = guest.iommu.with_device(|device| {
            device.stop_queue(EVENT_QUEUE).unwrap();
            device.start_queue(EVENT_QUEUE, &placement, RING_SIZE, 0).unwrap()
        });
        Self { guest, queue: VirtQueue::new(ring, doorbell, Waiting::Interrupt).unwrap() }
    }

    /// Offers one buffer of `pieces` bytes, poisoned; returns its head and where it lies.
    fn offer(&mut self, pieces: &[u32]) -> (u16, GuestPhys) {
        let page = self.guest.memory.take_page().unwrap();
        self.guest.memory.fill(page, RawExchange::POISON, 4096).unwrap();
        let mut at = page;
        let mut segments = Vec::new();
        for &bytes in pieces {
            segments.push(Segment { address: at.into(), bytes, writable: true });
            at = at + u64::from(bytes);
        }
        let head = self.queue.add(&segments, None).unwrap();
        self.queue.publish().unwrap();
        self.queue.force_kick().unwrap();
        (head, page)
    }

    /// Waits for the buffer with `head`; returns its used length.
    fn take(&mut self, head: u16) -> u32 {
        let used = self.queue.take().unwrap();
        assert_eq!(used.head, head);
        used.bytes
    }
}

#[test]
fn r90_without_buffers_faults_block_nothing() {
    let rig = Rig::new();
    let guest = guest_without_buffers(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    let (page, mark) = guest.marked_page();
    assert_eq!(guest.map_pages(1, AREA, 1, page, READ), OK);
    let faults = 300;
    for _ in 0..faults {
        assert_eq!(endpoint.fetch(AREA + PAGE, 8), None);
    }
    assert_eq!(endpoint.fetch(AREA, 8).unwrap(), mark, "the endpoint goes on");
    assert_eq!(guest.unmap(1, AREA, AREA + PAGE - 1), OK, "and so does the IOMMU");
    let log = rig.iommu().faults();
    assert_eq!(log.recorded(), faults);
    assert!(log.dropped() > 0, "what waits for buffers is bounded");
    // Buffers that come later tell of faults that were kept, oldest first.
    let mut events = EventQueue::start(&guest);
    let (head, page) = events.offer(&[EVENT_BYTES]);
    assert_eq!(events.take(head), EVENT_BYTES);
    assert_eq!(guest.memory.read_vec(page + 16, 8).unwrap(), (AREA + PAGE).to_le_bytes());
}

#[test]
fn r91_an_event_names_endpoint_access_and_address_and_its_other_bits_are_0() {
    let rig = Rig::new();
    let guest = guest_without_buffers(&rig);
    let mut endpoints = [Endpoint::attached(&rig, &guest, 0, 1), Endpoint::attached(&rig, &guest, 1, 1)];
    assert_eq!(guest.map_pages(1, AREA, 1, GuestPhys(1 << 40), BOTH), OK);
    let mut events = EventQueue::start(&guest);
    let beyond = AREA + PAGE;
    for (number, write, address, reason) in [
        (0, false, beyond, MAPPING),
        (0, true, beyond + 0x123, MAPPING),
        (1, false, beyond + 8, MAPPING),
        (1, true, AREA, UNKNOWN),
        (0, false, AREA + 4, UNKNOWN),
        (1, false, 1 << 63, MAPPING),
    ] {
        let (head, page) = events.offer(&[EVENT_BYTES]);
        if write {
            assert!(!endpoints[number].store(address, &[1; 8]));
        } else {
            assert_eq!(endpoints[number].fetch(address, 8), None);
        }
        assert_eq!(events.take(head), EVENT_BYTES);
        let mut expected = vec![reason, 0, 0, 0];
        expected.extend((ADDRESS | if write { WRITE } else { READ }).to_le_bytes());
        expected.extend(ENDPOINTS[number].to_le_bytes());
        expected.extend([0; 4]);
        expected.extend(address.to_le_bytes());
        assert_eq!(guest.memory.read_vec(page, 24).unwrap(), expected, "address {address:#x}");
    }
}

#[test]
fn r91_the_address_is_the_first_that_failed() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    let (page, _) = guest.marked_page();
    assert_eq!(guest.map_pages(1, AREA, 1, page, BOTH), OK);
    assert_eq!(endpoint.fetch(AREA + PAGE - 16, 32), None, "half of it is not mapped");
    assert_eq!(guest.fault().address, AREA + PAGE);
    assert!(!endpoint.store(AREA + PAGE - 16, &[7; 32]));
    assert_eq!(guest.fault().address, AREA + PAGE);
    assert_eq!(guest.memory.read_vec(page + (PAGE - 16), 16).unwrap(), [0; 16], "nothing moved");
}

#[test]
fn r92_a_buffer_too_small_comes_back_unused_and_the_next_one_gets_the_event() {
    let rig = Rig::new();
    let guest = guest_without_buffers(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    let mut events = EventQueue::start(&guest);
    let small: Vec<_> = [1, 8, 16, 23].iter().map(|&bytes| (events.offer(&[bytes]), bytes)).collect();
    let (large, page) = events.offer(&[100]);
    assert_eq!(endpoint.fetch(AREA, 8), None);
    for ((head, page), bytes) in small {
        assert_eq!(events.take(head), 0, "a buffer of {bytes} bytes");
        let bytes = guest.memory.read_vec(page, 24).unwrap();
        assert!(bytes.iter().all(|&byte| byte == RawExchange::POISON), "an event was spread over buffers");
    }
    assert_eq!(events.take(large), EVENT_BYTES);
    let bytes = guest.memory.read_vec(page, 100).unwrap();
    assert_eq!(bytes[16..24], AREA.to_le_bytes());
    assert!(bytes[24..].iter().all(|&byte| byte == RawExchange::POISON), "beyond the event");
}

#[test]
fn r92_a_buffer_in_pieces_is_one_buffer() {
    let rig = Rig::new();
    let guest = guest_without_buffers(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    let mut events = EventQueue::start(&guest);
    let (head, page) = events.offer(&[1, 3, 0, 13, 7]);
    assert_eq!(endpoint.fetch(AREA, 8), None);
    assert_eq!(events.take(head), EVENT_BYTES);
    assert_eq!(guest.memory.read_vec(page + 16, 8).unwrap(), AREA.to_le_bytes());
}

#[test]
fn r93_a_broken_request_queue_is_no_fault_of_an_endpoint() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    guest.iommu.with_requests(|queue| {
        let next = queue.ring().next_avail();
        queue.ring().raw_available_index(next.wrapping_add(0x7000)).unwrap();
        queue.force_kick().unwrap();
    });
    // The endpoint works on, and the first event is that of its own fault.
    assert_eq!(endpoint.fetch(AREA, 8), None);
    let event = guest.fault();
    assert_eq!((event.reason, event.endpoint, event.address), (MAPPING, ENDPOINTS[0], AREA));
    assert_eq!(rig.iommu().faults().recorded(), 1);
    guest.reset();
    assert_eq!(guest.ask(Request::Attach { domain: 1, endpoint: ENDPOINTS[0], flags: 0 }), OK, "a reset mends it");
}
