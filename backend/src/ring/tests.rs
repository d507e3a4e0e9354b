//! Rings and chains as a hostile driver lays them out.

use std::sync::Arc;
use std::time::Duration;

use frontend_spec::virtio::{Descriptor, descriptor_flag};
use iommu_calgary::{
    Calgary, DomainId, DomainKind, EndpointId, FaultReason, Iova, Limits, Permissions, RealAddr, TableSize,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

use super::*;
use crate::dma::{Dma, DmaFaultReason};
use crate::memory::GuestRam;

const RAM: usize = 1 << 20;
const DESCRIPTORS: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const SIZE: u16 = 8;

struct Bench {
    memory: GuestMemoryMmap,
    dma: Dma,
}

impl Bench {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
        let mut dma = Dma::direct();
        dma.set_memory(GuestRam::new(&memory));
        Self { memory, dma }
    }

    fn layout(event_idx: bool) -> RingLayout {
        RingLayout { descriptors: DESCRIPTORS, avail: AVAIL, used: USED, size: SIZE, event_idx }
    }

    fn put_u16(&self, address: u64, value: u16) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    fn get_u16(&self, address: u64) -> u16 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    fn table(&self, at: u64, descriptors: &[Fields]) {
        for (index, &(addr, len, flags, next)) in descriptors.iter().enumerate() {
            let descriptor = Descriptor::new(addr, len, flags, next);
            self.memory.write_slice(descriptor.as_bytes(), GuestAddress(at + 16 * index as u64)).unwrap();
        }
    }

    fn load(&mut self, head: u16) -> Result<Chain, ChainError> {
        let mut chain = Chain::default();
        Ring::new(Self::layout(false), 0).load_chain(&self.dma.enter(), head, &mut chain).map(|()| chain)
    }
}

/// Address, length, flags, next.
type Fields = (u64, u32, u16, u16);

const NEXT: u16 = descriptor_flag::NEXT;
const WRITE: u16 = descriptor_flag::WRITE;
const INDIRECT: u16 = descriptor_flag::INDIRECT;

#[test]
fn a_chain_is_split_into_what_the_device_reads_and_writes() {
    let mut bench = Bench::new();
    bench.table(DESCRIPTORS, &[(0x100, 4, NEXT, 2), (0, 0, 0, 0), (0x200, 8, NEXT | WRITE, 3), (0x300, 1, WRITE, 0)]);
    let chain = bench.load(0).unwrap();
    assert_eq!(chain.readable, [Buffer { address: 0x100, len: 4 }]);
    assert_eq!(chain.writable, [Buffer { address: 0x200, len: 8 }, Buffer { address: 0x300, len: 1 }]);
    assert_eq!((chain.readable_len(), chain.writable_len()), (4, 9));
}

#[test]
fn an_indirect_table_replaces_the_rest_of_the_chain() {
    let mut bench = Bench::new();
    bench.table(DESCRIPTORS, &[(0x100, 4, NEXT, 1), (0x8000, 32, INDIRECT, 0)]);
    bench.table(0x8000, &[(0x200, 5, NEXT, 1), (0x300, 6, WRITE, 0)]);
    let chain = bench.load(0).unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (9, 6));
}

#[test]
fn every_malformed_chain_is_named_and_ends() {
    let mut bench = Bench::new();
    let cases: [(&[Fields], ChainError); 9] = [
        (&[(0, 1, NEXT, 0)], ChainError::TooLong),
        (&[(0, 1, NEXT, 1), (0, 1, NEXT, 0)], ChainError::TooLong),
        (&[(0, 1, NEXT, SIZE)], ChainError::Index(SIZE)),
        (&[(0, 1, WRITE | NEXT, 1), (0, 1, 0, 0)], ChainError::Order),
        (&[(0x8000, 0, INDIRECT, 0)], ChainError::Indirect),
        (&[(0x8000, 17, INDIRECT, 0)], ChainError::Indirect),
        (&[(0x8000, 16, INDIRECT | NEXT, 1), (0, 1, 0, 0)], ChainError::Indirect),
        (&[(0x8000, !15, INDIRECT, 0)], ChainError::TooLong),
        (&[(0x9000, 16, INDIRECT, 0)], ChainError::Indirect),
    ];
    bench.table(0x8000, &[(0, 1, NEXT, 5)]);
    bench.table(0x9000, &[(0x8000, 16, INDIRECT, 0)]);
    for (table, expected) in cases {
        bench.table(DESCRIPTORS, table);
        assert_eq!(bench.load(0).unwrap_err(), expected, "{table:?}");
    }
    bench.table(DESCRIPTORS, &[(0x8000, 32, INDIRECT, 0)]);
    assert_eq!(bench.load(0).unwrap_err(), ChainError::Index(5));
    assert_eq!(bench.load(SIZE).unwrap_err(), ChainError::Index(SIZE));
    assert_eq!(bench.load(u16::MAX).unwrap_err(), ChainError::Index(u16::MAX));
}

#[test]
fn a_table_outside_ram_is_a_fault_and_not_an_end() {
    let mut bench = Bench::new();
    for address in [RAM as u64, u64::MAX - 15, u64::MAX] {
        bench.table(DESCRIPTORS, &[(address, 16, INDIRECT, 0)]);
        let ChainError::Fault(fault) = bench.load(0).unwrap_err() else { panic!("no fault at {address:#x}") };
        assert_eq!((fault.address, fault.reason), (address, DmaFaultReason::NotRam));
    }
}

#[test]
fn bytes_are_gathered_and_scattered_across_descriptors() {
    let mut bench = Bench::new();
    bench.table(
        DESCRIPTORS,
        &[
            (0x100, 1, NEXT, 1),
            (0x110, 0, NEXT, 2),
            (0x120, 3, NEXT, 3),
            (0x200, 2, NEXT | WRITE, 4),
            (0x210, 5, WRITE, 0),
        ],
    );
    bench.memory.write_slice(b"a", GuestAddress(0x100)).unwrap();
    bench.memory.write_slice(b"bcd", GuestAddress(0x120)).unwrap();
    let chain = bench.load(0).unwrap();
    let window = bench.dma.enter();
    let mut bytes = [0; 8];
    assert_eq!(chain.copy_in(&window, &mut bytes), Ok(4));
    assert_eq!(&bytes[..4], b"abcd");
    assert_eq!(chain.copy_out(&window, b"wxyz"), Ok(4));
    assert_eq!(bench.memory.read_obj::<[u8; 2]>(GuestAddress(0x200)).unwrap(), *b"wx");
    assert_eq!(bench.memory.read_obj::<[u8; 3]>(GuestAddress(0x210)).unwrap(), *b"yz\0");
}

#[test]
fn an_index_too_far_ahead_is_refused() {
    let mut bench = Bench::new();
    let ring = Ring::new(Bench::layout(false), 0xfffc);
    let memory = bench.memory.clone();
    let set = |value: u16| memory.write_obj(value, GuestAddress(AVAIL + 2)).unwrap();
    set(0xfffc);
    assert_eq!(ring.pending(&bench.dma.enter()), Ok(0));
    set(4);
    assert_eq!(ring.pending(&bench.dma.enter()), Ok(SIZE));
    set(5);
    assert!(matches!(ring.pending(&bench.dma.enter()), Err(RingError::AvailIndex { avail: 5, next: 0xfffc })));
}

#[test]
fn used_elements_appear_at_publication_only() {
    let mut bench = Bench::new();
    let mut ring = Ring::new(Bench::layout(false), 0);
    for slot in 0..3 {
        bench.put_u16(AVAIL + 4 + 2 * u64::from(slot), 5 - slot);
    }
    bench.put_u16(AVAIL + 2, 3);
    let heads: Vec<u16> = (0..3).map(|_| ring.take(&bench.dma.enter()).unwrap()).collect();
    assert_eq!(heads, [5, 4, 3]);
    for head in heads {
        ring.push_used(&bench.dma.enter(), head, u32::from(head) * 10).unwrap();
    }
    assert_eq!(bench.get_u16(USED + 2), 0);
    ring.publish(&bench.dma.enter()).unwrap();
    assert_eq!(bench.get_u16(USED + 2), 3);
    assert_eq!(bench.memory.read_obj::<[u32; 2]>(GuestAddress(USED + 4)).unwrap(), [5, 50]);
    assert!(ring.has_history(&bench.dma.enter()).unwrap());
}

#[test]
fn a_fresh_ring_has_no_history() {
    let mut bench = Bench::new();
    assert!(!Ring::new(Bench::layout(false), 0).has_history(&bench.dma.enter()).unwrap());
}

/// Publishes one element and says whether the driver wants to hear of it.
fn complete_one(bench: &mut Bench, ring: &mut Ring) -> bool {
    let window = bench.dma.enter();
    ring.push_used(&window, 0, 0).unwrap();
    ring.publish(&window).unwrap();
    ring.wants_interrupt(&window).unwrap()
}

#[test]
fn the_interrupt_flag_is_honoured() {
    let mut bench = Bench::new();
    let mut ring = Ring::new(Bench::layout(false), 0);
    assert!(complete_one(&mut bench, &mut ring));
    assert!(!ring.wants_interrupt(&bench.dma.enter()).unwrap(), "nothing new was published");
    bench.put_u16(AVAIL, AVAIL_NO_INTERRUPT);
    assert!(!complete_one(&mut bench, &mut ring));
}

#[test]
fn a_wish_that_comes_late_is_found_at_the_end() {
    for event_idx in [false, true] {
        let mut bench = Bench::new();
        let mut ring = Ring::new(Bench::layout(event_idx), 0);
        let used_event = AVAIL + 4 + 2 * u64::from(SIZE);
        let wish = |bench: &mut Bench, event, flags| {
            bench.put_u16(used_event, event);
            bench.put_u16(AVAIL, flags);
        };
        let give_back = |bench: &mut Bench, ring: &mut Ring| {
            let window = bench.dma.enter();
            ring.push_used(&window, 0, 0).unwrap();
            ring.publish(&window).unwrap();
            ring.wants_interrupt_already(&window).unwrap()
        };
        wish(&mut bench, 0, 0);
        assert!(give_back(&mut bench, &mut ring), "told at once");
        assert!(!ring.wants_interrupt(&bench.dma.enter()).unwrap(), "and not a second time");

        wish(&mut bench, 9, AVAIL_NO_INTERRUPT);
        assert!(!give_back(&mut bench, &mut ring));
        assert!(!give_back(&mut bench, &mut ring));
        // The driver asked for the first of the two, and its wish became visible only now.
        wish(&mut bench, 1, 0);
        assert!(ring.wants_interrupt(&bench.dma.enter()).unwrap());
        assert!(!ring.wants_interrupt(&bench.dma.enter()).unwrap());
    }
}

#[test]
fn a_wish_that_cannot_be_read_is_found_when_it_can() {
    for event_idx in [false, true] {
        let mut behind = Behind::new();
        let mut ring = Ring::new(Bench::layout(event_idx), 0);
        ring.complete(&behind.dma.enter(), 0, 0).unwrap();
        behind.unmap(AVAIL);
        behind.commit();
        assert!(ring.wants_interrupt_already(&behind.dma.enter()).is_err());
        assert!(ring.wants_interrupt(&behind.dma.enter()).is_err());
        behind.map(AVAIL, 0x1_2000);
        behind.commit();
        assert_eq!(ring.wants_interrupt(&behind.dma.enter()), Ok(true), "event_idx {event_idx}: never told");
        assert_eq!(ring.wants_interrupt(&behind.dma.enter()), Ok(false));
    }
}

#[test]
fn the_interrupt_index_is_honoured_across_the_wrap() {
    for base in [0, 0xffff] {
        let mut bench = Bench::new();
        let mut ring = Ring::new(Bench::layout(true), base);
        let used_event = AVAIL + 4 + 2 * u64::from(SIZE);
        bench.put_u16(used_event, base.wrapping_add(1));
        assert!(!complete_one(&mut bench, &mut ring), "first element, the driver waits for the second");
        assert!(complete_one(&mut bench, &mut ring), "second element");
        assert!(!complete_one(&mut bench, &mut ring), "third element, the driver has not asked again");
    }
}

#[test]
fn kicks_are_asked_for_by_index_or_by_flag() {
    let mut bench = Bench::new();
    let mut ring = Ring::new(Bench::layout(true), 7);
    bench.put_u16(AVAIL + 2, 7);
    ring.request_kicks(&bench.dma.enter()).unwrap();
    assert_eq!(bench.get_u16(USED + 4 + 8 * u64::from(SIZE)), 7);
    ring.retract_kicks(&bench.dma.enter()).unwrap();
    assert_eq!(bench.get_u16(USED + 4 + 8 * u64::from(SIZE)), 6, "the driver passed it long ago");

    let mut ring = Ring::new(Bench::layout(false), 7);
    ring.suppress_kicks(&bench.dma.enter()).unwrap();
    assert_eq!(bench.get_u16(USED), USED_NO_NOTIFY);
    bench.put_u16(AVAIL + 2, 9);
    assert_eq!(ring.request_kicks(&bench.dma.enter()).unwrap(), 2);
    assert_eq!(bench.get_u16(USED), 0);
    ring.retract_kicks(&bench.dma.enter()).unwrap();
    assert_eq!(bench.get_u16(USED), USED_NO_NOTIFY);
}

#[test]
fn impossible_layouts_are_refused() {
    assert!(Bench::layout(true).is_valid());
    for spoil in [
        |layout: &mut RingLayout| layout.size = 0,
        |layout: &mut RingLayout| layout.size = 3,
        |layout: &mut RingLayout| layout.descriptors += 8,
        |layout: &mut RingLayout| layout.avail += 1,
        |layout: &mut RingLayout| layout.used += 2,
        |layout: &mut RingLayout| layout.descriptors = u64::MAX - 15,
        |layout: &mut RingLayout| layout.avail = u64::MAX - 1,
        |layout: &mut RingLayout| layout.used = u64::MAX - 3,
    ] {
        let mut layout = Bench::layout(true);
        spoil(&mut layout);
        assert!(!layout.is_valid(), "{layout:?}");
    }
}

#[test]
fn memory_is_let_go_with_its_snapshot() {
    let ram = GuestRam::empty();
    let mut dma = Dma::direct();
    dma.set_memory(Arc::clone(&ram));
    assert!(dma.enter().load_u16(0).is_err());
}

/// A unit with one endpoint whose device has a ring: driver's parts at one IOVA page each, the used ring at a third.
struct Behind {
    calgary: Calgary,
    dma: Dma,
    memory: GuestMemoryMmap,
}

const DOMAIN: DomainId = DomainId(1);

impl Behind {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
        let mut calgary = Calgary::new(TableSize::MiB32, Limits::default()).unwrap();
        let phb = calgary.add_endpoint(EndpointId(8)).unwrap();
        calgary.attach(DOMAIN, EndpointId(8), DomainKind::Translated).unwrap();
        let mut dma = Dma::translated(&phb);
        dma.set_memory(GuestRam::new(&memory));
        let mut behind = Self { calgary, dma, memory };
        for (iova, real) in [(DESCRIPTORS, 0x1_1000), (AVAIL, 0x1_2000), (USED, 0x1_3000)] {
            behind.map(iova, real);
        }
        behind.commit();
        behind
    }

    fn map(&mut self, iova: u64, real: u64) {
        let (first, last) = (Iova(iova), Iova(iova + 0xfff));
        self.calgary.map(DOMAIN, first, last, RealAddr(real), Permissions::READ_WRITE).unwrap();
    }

    fn unmap(&mut self, iova: u64) {
        assert_eq!(self.calgary.unmap(DOMAIN, Iova(iova), Iova(iova + 0xfff)), Ok(1));
    }

    /// What a guest waits for before it sees its requests completed.
    fn commit(&mut self) {
        assert!(self.calgary.commit(Duration::from_secs(10)).broken.is_empty());
    }

    fn real_u16(&self, address: u64) -> u16 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }
}

#[test]
fn a_translated_ring_goes_where_its_pages_are_mapped_now() {
    let mut behind = Behind::new();
    let mut ring = Ring::new(Bench::layout(true), 0);
    let complete = |behind: &mut Behind, ring: &mut Ring| {
        let window = behind.dma.enter();
        ring.push_used(&window, 3, 7)?;
        ring.publish(&window)
    };
    complete(&mut behind, &mut ring).unwrap();
    assert_eq!(behind.real_u16(0x1_3002), 1);

    // What cannot be shown counts as not given back.
    behind.unmap(USED);
    behind.commit();
    assert!(ring.complete(&behind.dma.enter(), 4, 8).is_err());
    behind.map(USED, 0x1_3000);
    behind.commit();
    ring.publish(&behind.dma.enter()).unwrap();
    assert_eq!(behind.real_u16(0x1_3002), 1);

    // Moved: once the commit is over, nothing reaches the old page.
    behind.unmap(USED);
    behind.map(USED, 0x2_3000);
    behind.commit();
    complete(&mut behind, &mut ring).unwrap();
    assert_eq!((behind.real_u16(0x1_3002), behind.real_u16(0x2_3002)), (1, 2));

    // Gone.
    behind.unmap(USED);
    behind.commit();
    let not_mapped = |outcome: Result<(), RingError>| {
        let Err(RingError::Fault(fault)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(fault.reason, DmaFaultReason::Table(FaultReason::NotMapped));
    };
    not_mapped(complete(&mut behind, &mut ring));
    assert_eq!((behind.real_u16(0x1_3002), behind.real_u16(0x2_3002)), (1, 2));

    // The driver's part, read in one window and gone in the next.
    behind.memory.write_obj(1_u16, GuestAddress(0x1_2002)).unwrap();
    assert_eq!(ring.pending(&behind.dma.enter()), Ok(1));
    behind.unmap(AVAIL);
    behind.commit();
    not_mapped(ring.pending(&behind.dma.enter()).map(drop));

    // The whole address space.
    behind.map(AVAIL, 0x1_2000);
    behind.commit();
    assert_eq!(ring.pending(&behind.dma.enter()), Ok(1));
    behind.calgary.detach(DOMAIN, EndpointId(8)).unwrap();
    behind.commit();
    assert!(ring.pending(&behind.dma.enter()).is_err());
}

#[test]
fn a_translated_ring_may_be_scattered_and_read_only_where_the_driver_owns_it() {
    let mut behind = Behind::new();
    // 512 descriptors take two pages, here in reverse order.
    let layout = RingLayout { descriptors: 0x8000, size: 512, ..Bench::layout(true) };
    behind.map(0x8000, 0x5000);
    behind.map(0x9000, 0x4000);
    behind.commit();
    let ring = Ring::new(layout, 0);
    let mut chain = Chain::default();
    for (head, real) in [(1, 0x5010), (256, 0x4000)] {
        let descriptor = Descriptor::new(real, 9, 0, 0);
        behind.memory.write_slice(descriptor.as_bytes(), GuestAddress(real)).unwrap();
        ring.load_chain(&behind.dma.enter(), head, &mut chain).unwrap();
        assert_eq!(chain.readable, [Buffer { address: real, len: 9 }]);
    }
    // A device that may read its used ring but not write it completes nothing.
    behind.unmap(USED);
    let (first, last) = (Iova(USED), Iova(USED + 0xfff));
    behind.calgary.map(DOMAIN, first, last, RealAddr(0x1_3000), Permissions::READ).unwrap();
    behind.commit();
    let mut ring = Ring::new(Bench::layout(true), 0);
    assert!(ring.push_used(&behind.dma.enter(), 0, 0).is_err());
    assert!(ring.publish(&behind.dma.enter()).is_err());
    assert_eq!(behind.real_u16(0x1_3002), 0);
}

#[test]
fn only_the_usual_shape_is_a_pair() {
    let mut bench = Bench::new();
    let pair = |bench: &mut Bench, head: u16| {
        let window = bench.dma.enter();
        let ring = Ring::new(Bench::layout(false), 0);
        let place = ring.pairs(&window).place(&window, head)?;
        place.pair(&window).map(|pair| (pair.readable.bytes(), pair.writable.bytes()))
    };
    bench.table(0x8000, &[(0x200, 36, NEXT, 1), (0x300, 4, WRITE, 0)]);
    bench.table(DESCRIPTORS, &[(0x8000, 32, INDIRECT, 0), (0x200, 28, NEXT, 3), (0, 0, 0, 0), (0x300, 4, WRITE, 0)]);
    assert_eq!(pair(&mut bench, 0), Some((36, 4)));
    assert_eq!(pair(&mut bench, 1), Some((28, 4)));
    let beyond = RAM as u64 - 2;
    let unusual: [[Fields; 2]; 8] = [
        [(0x200, 4, 0, 1), (0x300, 4, WRITE, 0)],
        [(0x200, 4, NEXT | WRITE, 1), (0x300, 4, WRITE, 0)],
        [(0x200, 4, NEXT, 1), (0x300, 4, 0, 0)],
        [(0x200, 4, NEXT, 1), (0x300, 4, WRITE | NEXT, 0)],
        [(0x200, 4, NEXT, 0), (0x300, 4, WRITE, 0)],
        [(0x200, 0, NEXT, 1), (0x300, 4, WRITE, 0)],
        [(beyond, 4, NEXT, 1), (0x300, 4, WRITE, 0)],
        [(0x200, 4, NEXT, 1), (u64::MAX, 4, WRITE, 0)],
    ];
    for table in unusual {
        bench.table(0x8000, &table);
        assert_eq!(pair(&mut bench, 0), None, "{table:?}");
    }
    for head in [SIZE, u16::MAX] {
        assert_eq!(pair(&mut bench, head), None);
    }
    bench.table(DESCRIPTORS, &[(0x8000, 48, INDIRECT, 0), (0x200, 28, NEXT, SIZE)]);
    assert_eq!((pair(&mut bench, 0), pair(&mut bench, 1)), (None, None));
}
