//! A device behind the IOMMU reaches what is mapped, as it is mapped, and nothing else; the guest is told of the rest.

use std::time::Duration;

use crate::rig::{ENDPOINT, Rig, TRANSLATED};
use calgary_tests::guest::iommu::{FaultEvent, MAP_F_READ, MAP_F_WRITE};
use calgary_tests::guest::ninep::NONUNAME;
use calgary_tests::guest::queue::Descriptor;
use calgary_tests::guest::{DeviceAddr, Direct, GuestPhys, Iommu, Mapping, ROOT_FID, RawExchange, Session};

/// Fault reasons and flags (virtio 1.2 §5.13.6.9).
const DOMAIN: u8 = 1;
const MAPPING: u8 = 2;
const READ: u32 = 1;
const WRITE: u32 = 2;
const ADDRESS: u32 = 1 << 8;
/// Long enough for any machine; an event that comes is not waited for this long.
const PATIENCE: Duration = Duration::from_secs(30);
const FILE: u32 = 7;

fn fault(iommu: &Iommu) -> FaultEvent {
    iommu.wait_fault(PATIENCE).unwrap().expect("a fault event")
}

/// A guest with the file `name` open at [`FILE`].
fn guest_with_file(rig: &Rig, content: &[u8]) -> Session {
    std::fs::write(rig.shared().join("file"), content).unwrap();
    let mut guest = rig.guest(Mapping::Strict);
    let client = &mut guest.shares[0].client;
    client.walk(ROOT_FID, FILE, &[b"file"]).unwrap();
    client.lopen(FILE, 2).unwrap();
    guest
}

/// `size[4] type[1] tag[2] body`.
fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(7 + body.len()).unwrap();
    [&size.to_le_bytes()[..], &[kind], &1_u16.to_le_bytes(), body].concat()
}

/// Tread of `count` bytes at the start of [`FILE`].
fn tread(count: u32) -> Vec<u8> {
    frame(116, &[&FILE.to_le_bytes()[..], &0_u64.to_le_bytes(), &count.to_le_bytes()].concat())
}

/// Twrite of `data` at the start of [`FILE`].
fn twrite(data: &[u8]) -> Vec<u8> {
    let count = u32::try_from(data.len()).unwrap();
    frame(118, &[&FILE.to_le_bytes()[..], &0_u64.to_le_bytes(), &count.to_le_bytes(), data].concat())
}

#[test]
fn buffers_that_are_not_mapped_stay_untouched_and_are_reported() {
    let rig = Rig::new();
    let mut guest = guest_with_file(&rig, b"secret");
    let memory = guest.memory.clone();
    // Guest-physical addresses mean nothing behind the IOMMU, and none of these is mapped as an IOVA.
    let exchange = RawExchange::new(&tread(6), 4096);
    let reply = exchange.run(guest.shares[0].client.queue(), &memory, &Direct).unwrap();
    assert_eq!(reply.used_bytes, 0);
    assert!(reply.writable.iter().all(|&byte| byte == RawExchange::POISON), "a byte moved");
    let event = fault(guest.iommu.as_ref().unwrap());
    assert_eq!((event.reason, event.endpoint, event.flags), (MAPPING, ENDPOINT, READ | ADDRESS));

    let reply =
        RawExchange::new(&twrite(b"forged"), 4096).run(guest.shares[0].client.queue(), &memory, &Direct).unwrap();
    assert_eq!(reply.used_bytes, 0);
    assert_eq!(std::fs::read(rig.shared().join("file")).unwrap(), b"secret");
    assert_eq!(fault(guest.iommu.as_ref().unwrap()).reason, MAPPING);

    // The device goes on serving what is mapped.
    assert_eq!(guest.shares[0].client.read(FILE, 0, 6).unwrap(), b"secret");
    assert_eq!(rig.iommu().faults().recorded(), 2);
    assert_eq!(rig.daemon.share(TRANSLATED).unwrap().stats().faults, 2);
}

/// Maps the request and reply pages of one exchange by hand and sends it; the mapper is out of the picture.
struct ByHand<'a> {
    guest: &'a mut Session,
    domain: u32,
}

impl ByHand<'_> {
    const REQUEST: DeviceAddr = DeviceAddr(0x10_0000);
    const REPLY: DeviceAddr = DeviceAddr(0x20_0000);

    fn map(&self, at: DeviceAddr, page: GuestPhys, flags: u32) {
        self.guest.iommu.as_ref().unwrap().map(self.domain, at.0, at.0 + 4095, page, flags).unwrap();
    }

    /// Sends `request`, with its reply page mapped as `reply_flags` say or not at all; returns the used length and
    /// the reply page.
    fn send(&mut self, request: &[u8], request_flags: u32, reply_flags: Option<u32>) -> (u32, Vec<u8>) {
        let memory = self.guest.memory.clone();
        let pages = [memory.take_page().unwrap(), memory.take_page().unwrap()];
        memory.write(pages[0], request).unwrap();
        memory.fill(pages[1], RawExchange::POISON, 4096).unwrap();
        self.map(Self::REQUEST, pages[0], request_flags);
        if let Some(flags) = reply_flags {
            self.map(Self::REPLY, pages[1], flags);
        }
        let queue = self.guest.shares[0].client.queue();
        let ring = queue.ring();
        let request_len = u32::try_from(request.len()).unwrap();
        let descriptors = [(Self::REQUEST, request_len, 1, 1), (Self::REPLY, 4096, 2, 0)];
        for (index, (address, bytes, flags, next)) in (0..).zip(descriptors) {
            let descriptor = Descriptor { address, bytes, flags, next };
            ring.raw_descriptor(index, descriptor).unwrap();
        }
        ring.raw_offer(0, 4096).unwrap();
        queue.publish().unwrap();
        queue.force_kick().unwrap();
        let used = queue.take().unwrap();
        let iommu = self.guest.iommu.as_ref().unwrap();
        iommu.unmap(self.domain, 0x10_0000, 0x2f_ffff).unwrap();
        (used.bytes, memory.read_vec(pages[1], 4096).unwrap())
    }
}

#[test]
fn permissions_hold_in_both_directions() {
    let rig = Rig::new();
    let mut guest = guest_with_file(&rig, b"secret");
    let domain = guest.shares[0].domain.unwrap();
    let mut hand = ByHand { guest: &mut guest, domain };

    let (used, reply) = hand.send(&tread(6), MAP_F_READ, Some(MAP_F_WRITE));
    assert_eq!((used, &reply[11..17]), (17, &b"secret"[..]), "this is how it works");

    let (used, reply) = hand.send(&tread(6), MAP_F_READ, Some(MAP_F_READ));
    assert_eq!(used, 0);
    assert!(reply.iter().all(|&byte| byte == RawExchange::POISON), "wrote through a read-only mapping");
    let event = fault(hand.guest.iommu.as_ref().unwrap());
    assert_eq!((event.reason, event.flags, event.address), (MAPPING, WRITE | ADDRESS, ByHand::REPLY.0));

    let (used, _) = hand.send(&tread(6), MAP_F_WRITE, Some(MAP_F_WRITE));
    assert_eq!(used, 0, "read through a write-only mapping");
    let event = fault(hand.guest.iommu.as_ref().unwrap());
    assert_eq!((event.reason, event.flags, event.address), (MAPPING, READ | ADDRESS, ByHand::REQUEST.0));

    let (used, _) = hand.send(&tread(6), 0, Some(MAP_F_WRITE));
    assert_eq!(used, 0, "read through a mapping without any permission");
    assert_eq!(fault(hand.guest.iommu.as_ref().unwrap()).reason, MAPPING);
}

#[test]
fn a_mapping_to_an_address_outside_ram_reaches_nothing() {
    let rig = Rig::new();
    let mut guest = guest_with_file(&rig, b"secret");
    let domain = guest.shares[0].domain.unwrap();
    let hand = ByHand { guest: &mut guest, domain };
    for outside in [crate::rig::WINDOW_MIB << 20, 1 << 40, (1 << 48) - 4096] {
        hand.map(ByHand::REPLY, GuestPhys(outside), MAP_F_READ | MAP_F_WRITE);
        hand.guest.iommu.as_ref().unwrap().unmap(domain, ByHand::REPLY.0, ByHand::REPLY.0 + 4095).unwrap();
    }
    hand.map(ByHand::REQUEST, GuestPhys(1 << 40), MAP_F_READ | MAP_F_WRITE);
    let queue = hand.guest.shares[0].client.queue();
    let descriptor = Descriptor { address: ByHand::REQUEST, bytes: 23, flags: 0, next: 0 };
    queue.ring().raw_descriptor(0, descriptor).unwrap();
    queue.ring().raw_offer(0, 0).unwrap();
    queue.publish().unwrap();
    queue.force_kick().unwrap();
    assert_eq!(queue.take().unwrap().bytes, 0);
    let event = fault(hand.guest.iommu.as_ref().unwrap());
    assert_eq!((event.reason, event.address), (0, ByHand::REQUEST.0));
}

#[test]
fn a_detached_endpoint_loses_even_its_rings() {
    let rig = Rig::new();
    let mut guest = guest_with_file(&rig, b"secret");
    let domain = guest.shares[0].domain.unwrap();
    let iommu = guest.iommu.clone().unwrap();
    iommu.detach(domain, ENDPOINT).unwrap();
    assert_eq!(rig.iommu().live_mappings(), 0, "a domain without endpoints has no mappings");
    let queue = guest.shares[0].client.queue();
    queue.ring().raw_offer(0, 0).unwrap();
    queue.publish().unwrap();
    queue.force_kick().unwrap();
    let event = fault(&iommu);
    assert_eq!((event.reason, event.endpoint), (DOMAIN, ENDPOINT));
    assert!(queue.take_within(Duration::from_millis(50)).unwrap().is_none());
    // A driver that starts anew is served.
    guest.reboot().unwrap();
    assert_eq!(guest.shares[0].client.walk(ROOT_FID, FILE, &[b"file"]).unwrap().len(), 1);
}

#[test]
fn bypass_lets_an_unattached_endpoint_through_and_its_end_does_not() {
    let rig = Rig::with_bypass(true);
    std::fs::write(rig.shared().join("file"), b"open").unwrap();
    let mut options = rig.guest_options(1, Mapping::Strict);
    // The driver of the share believes that there is no IOMMU, as a guest without a driver for one does.
    options.shares[0].translated = false;
    let mut guest = Session::boot(options).unwrap();
    let client = &mut guest.shares[0].client;
    client.walk(ROOT_FID, FILE, &[b"file"]).unwrap();
    let iommu = guest.iommu.clone().unwrap();
    // The device has seen the driver once it has answered it; its start would undo what follows.
    iommu.probe(ENDPOINT).unwrap();
    assert_eq!(iommu.bypass().unwrap(), 1);
    iommu.set_bypass(0).unwrap();
    assert_eq!(iommu.bypass().unwrap(), 0);
    let queue = guest.shares[0].client.queue();
    queue.ring().raw_offer(0, 0).unwrap();
    queue.publish().unwrap();
    queue.force_kick().unwrap();
    assert_eq!(fault(&iommu).reason, DOMAIN);
    iommu.set_bypass(1).unwrap();
    guest.reboot().unwrap();
    guest.shares[0].client.attach(99, b"", NONUNAME).unwrap();
}
