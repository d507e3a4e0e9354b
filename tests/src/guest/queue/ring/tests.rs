use std::fs::File;
use std::os::fd::AsFd;

use proptest::prelude::*;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::guest::queue::Descriptor;

const SIZE: u16 = 16;

/// The driver, and a device made of the crate `virtio-queue` over the same memory.
struct Pair {
    driver: SplitQueue,
    device: Queue,
    device_memory: GuestMemoryMmap,
    table: IndirectTable,
}

fn pair(event_idx: bool) -> Pair {
    let memory = Arc::new(GuestMemory::new(1).unwrap());
    let file = File::from(memory.file().as_fd().try_clone_to_owned().unwrap());
    let range = (GuestAddress(0), 1 << 20, Some(FileOffset::new(file, 0)));
    let device_memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
    let run = memory.take_run(RingBytes::of(SIZE).total()).unwrap();
    let ring = RingPlacement::contiguous(run, run.into(), SIZE);
    let table = memory.take_page().unwrap();
    let mut device = Queue::new(SIZE).unwrap();
    device.try_set_desc_table_address(GuestAddress(ring.descriptors.device.0)).unwrap();
    device.try_set_avail_ring_address(GuestAddress(ring.available.device.0)).unwrap();
    device.try_set_used_ring_address(GuestAddress(ring.used.device.0)).unwrap();
    device.set_event_idx(event_idx);
    device.set_ready(true);
    assert!(device.is_valid(&device_memory));
    let driver = SplitQueue::new(memory, ring, SIZE, event_idx).unwrap();
    Pair { driver, device, device_memory, table: IndirectTable { memory: table, device: table.into() } }
}

fn segments(readable: u32, writable: u32) -> Vec<Segment> {
    let segment = |index: u32, writable| Segment {
        address: DeviceAddr(0x8_0000 + u64::from(index) * 0x100),
        bytes: 0x10 + index,
        writable,
    };
    let readable_part = (0..readable).map(|index| segment(index, false));
    readable_part.chain((readable..readable + writable).map(|index| segment(index, true))).collect()
}

impl Pair {
    /// Pop one chain: its head and its segments.
    fn pop(&mut self) -> Option<(u16, Vec<Segment>)> {
        let chain = self.device.pop_descriptor_chain(&self.device_memory)?;
        let head = chain.head_index();
        let segments = chain.map(|descriptor| Segment {
            address: DeviceAddr(descriptor.addr().0),
            bytes: descriptor.len(),
            writable: descriptor.is_write_only(),
        });
        Some((head, segments.collect()))
    }

    fn give(&mut self, head: u16, bytes: u32) {
        self.device.add_used(&self.device_memory, head, bytes).unwrap();
    }
}

#[test]
fn the_device_sees_what_the_driver_added() {
    let mut pair = pair(true);
    let (direct, indirect) = (segments(2, 1), segments(3, 4));
    let first = pair.driver.add(&direct).unwrap();
    let second = pair.driver.add_indirect(&indirect, pair.table).unwrap();
    assert_eq!(pair.pop(), None, "nothing is visible before it is published");
    pair.driver.publish().unwrap();
    assert_eq!(pair.pop(), Some((first, direct)));
    assert_eq!(pair.pop(), Some((second, indirect)));
    assert_eq!(pair.driver.take_used().unwrap(), None);
    pair.give(second, 5);
    pair.give(first, 0);
    assert_eq!(pair.driver.take_used().unwrap(), Some(Used { head: second, bytes: 5 }));
    assert_eq!(pair.driver.take_used().unwrap(), Some(Used { head: first, bytes: 0 }));
    assert_eq!(pair.driver.free_descriptors(), usize::from(SIZE));
}

#[test]
fn a_full_ring_and_a_bad_order_are_refused() {
    let mut pair = pair(false);
    for _ in 0..5 {
        pair.driver.add(&segments(1, 2)).unwrap();
    }
    assert!(matches!(pair.driver.add(&segments(1, 1)), Err(QueueError::Full)));
    pair.driver.add_indirect(&segments(1, 1), pair.table).unwrap();
    assert!(matches!(pair.driver.add_indirect(&segments(1, 1), pair.table), Err(QueueError::Full)));
    let mut backwards = segments(1, 1);
    backwards.reverse();
    assert!(matches!(pair.driver.add(&backwards), Err(QueueError::BadRequest { .. })));
    assert!(matches!(pair.driver.add(&[]), Err(QueueError::BadRequest { .. })));
}

#[test]
fn kicks_are_left_out_when_the_device_says_so() {
    for event_idx in [false, true] {
        let mut pair = pair(event_idx);
        pair.driver.add(&segments(1, 1)).unwrap();
        pair.driver.publish().unwrap();
        assert!(pair.driver.needs_kick().unwrap());
        assert!(!pair.driver.needs_kick().unwrap(), "one kick for one batch");
        let (head, _) = pair.pop().unwrap();
        pair.give(head, 0);
        if event_idx {
            // avail_event still names the entry that was passed: the device polls.
        } else {
            pair.device.disable_notification(&pair.device_memory).unwrap();
        }
        pair.driver.take_used().unwrap().unwrap();
        pair.driver.add(&segments(1, 1)).unwrap();
        pair.driver.publish().unwrap();
        assert!(!pair.driver.needs_kick().unwrap());
        let (head, _) = pair.pop().unwrap();
        pair.give(head, 0);
        assert!(!pair.device.enable_notification(&pair.device_memory).unwrap());
        pair.driver.take_used().unwrap().unwrap();
        pair.driver.add(&segments(1, 1)).unwrap();
        pair.driver.publish().unwrap();
        assert!(pair.driver.needs_kick().unwrap());
    }
}

#[test]
fn interrupts_come_only_where_they_are_wanted() {
    let mut pair = pair(true);
    pair.driver.disable_interrupts().unwrap();
    for wanted in [false, true] {
        for _ in 0..2 {
            pair.driver.add(&segments(1, 1)).unwrap();
        }
        pair.driver.publish().unwrap();
        if wanted {
            assert!(!pair.driver.enable_interrupts().unwrap());
        }
        let (first, _) = pair.pop().unwrap();
        let (second, _) = pair.pop().unwrap();
        pair.give(first, 0);
        // The device's first question is answered yes whatever the driver asked for.
        let asked = pair.device.needs_notification(&pair.device_memory).unwrap();
        assert!(!wanted || asked);
        pair.give(second, 0);
        assert!(!pair.device.needs_notification(&pair.device_memory).unwrap());
        assert!(pair.driver.enable_interrupts().unwrap(), "used requests are waiting");
        pair.driver.disable_interrupts().unwrap();
        while pair.driver.take_used().unwrap().is_some() {}
    }
}

#[test]
fn a_lying_device_is_found_out() {
    let mut pair = pair(false);
    let head = pair.driver.add(&segments(1, 1)).unwrap();
    pair.driver.publish().unwrap();
    pair.give(head, 0x12);
    let used = pair.driver.take_used();
    assert!(matches!(used, Err(QueueError::DeviceUsedLength { bytes: 0x12, writable: 0x11, .. })));
    pair.driver.add(&segments(1, 1)).unwrap();
    pair.give(9, 0);
    assert!(matches!(pair.driver.take_used(), Err(QueueError::DeviceUsedId(9))));
    pair.give(head, 0);
    pair.give(head, 0);
    assert!(matches!(pair.driver.take_used(), Err(QueueError::DeviceUsedIndex { returned: 2, outstanding: 1 })));
}

#[test]
fn hostile_entries_reach_the_device_as_they_are() {
    let mut pair = pair(false);
    let bad = Descriptor { address: DeviceAddr(u64::MAX - 1), bytes: u32::MAX, flags: 2, next: 77 };
    pair.driver.raw_descriptor(5, bad).unwrap();
    assert!(pair.driver.raw_descriptor(SIZE, bad).is_err());
    pair.driver.raw_offer(5, 0).unwrap();
    pair.driver.publish().unwrap();
    let segment = Segment { address: bad.address, bytes: bad.bytes, writable: true };
    assert_eq!(pair.pop(), Some((5, vec![segment])));
    pair.give(5, 0);
    assert_eq!(pair.driver.take_used().unwrap(), Some(Used { head: 5, bytes: 0 }));
    pair.driver.raw_available_index(SIZE + 2).unwrap();
    assert!(pair.device.iter(&pair.device_memory).is_err(), "more entries than the ring has");
    pair.driver.reset().unwrap();
    pair.driver.raw_available(0, 0xffff).unwrap();
    assert_eq!(pair.driver.memory.load_u16(pair.driver.ring.available.memory + 4, Ordering::Relaxed).unwrap(), 0xffff);
}

proptest! {
    /// Any mix of requests, taken and returned in any order, comes back complete, and the
    /// indices survive their wrap.
    #[test]
    fn no_request_is_lost_or_made_up(
        steps in proptest::collection::vec((1_u32..4, 0_u32..4, any::<bool>(), any::<prop::sample::Index>()), 1..300),
        start in any::<u16>(),
    ) {
        let mut pair = pair(false);
        // As if that many requests had gone through before.
        pair.driver.next_avail = start;
        pair.driver.next_used = start;
        pair.driver.kicked_avail = start;
        pair.driver.memory.store_u16(pair.driver.ring.used.memory + 2, start, Ordering::Release).unwrap();
        pair.driver.publish().unwrap();
        pair.device.set_next_avail(start);
        pair.device.set_next_used(start);
        let mut held: Vec<(u16, Vec<Segment>)> = Vec::new();
        let mut out: std::collections::BTreeMap<u16, Vec<Segment>> = Default::default();
        for (readable, writable, give, index) in steps {
            let request = segments(readable, writable);
            match pair.driver.add(&request) {
                Ok(head) => prop_assert!(out.insert(head, request).is_none()),
                Err(QueueError::Full) => prop_assert!(!out.is_empty()),
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
            pair.driver.publish().unwrap();
            while let Some((head, seen)) = pair.pop() {
                prop_assert_eq!(Some(&seen), out.get(&head));
                held.push((head, seen));
            }
            if give && !held.is_empty() {
                let (head, _) = held.swap_remove(index.index(held.len()));
                pair.give(head, 0);
                let used = pair.driver.take_used().unwrap();
                prop_assert_eq!(used, Some(Used { head, bytes: 0 }));
                prop_assert!(out.remove(&head).is_some());
            }
            prop_assert_eq!(pair.driver.outstanding() as usize, out.len());
        }
    }
}
