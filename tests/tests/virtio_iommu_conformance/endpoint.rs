//! An endpoint that does DMA where a test wants it: the share behind it, driven by hand.
//!
//! Rings and message heads lie on a few pages, the *home*, which the device sees at their guest-physical addresses; a
//! test maps the home in each domain that the endpoint is to work in. Only file data goes to the address under test: a
//! Twrite makes the device read it, a Tread makes it write there. The file on the host shows what it saw.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use calgary_tests::guest::iommu::FaultEvent;
use calgary_tests::guest::queue::{RingBytes, RingPlacement, Segment};
use calgary_tests::guest::transport::{F_INDIRECT_DESC, F_VERSION_1, Transport};
use calgary_tests::guest::{
    DeviceAddr, GuestMemory, GuestPhys, SplitQueue, VhostUserDevice, VhostUserOptions, VirtQueue, Waiting,
};
use calgaryd::device::iommu::Iommu;

use crate::guest::{BOTH, Guest, OK, PAGE, PATIENCE};
use crate::rig::{ENDPOINTS, Rig};

const RING_SIZE: u16 = 16;
/// The ring, the request and the reply.
const HOME_PAGES: u64 = 4;
const REQUEST_PAGE: u64 = 2;
const REPLY_PAGE: u64 = 3;
/// The open file.
const FILE: u32 = 1;
/// Bytes before the data of Rread, Twrite and of an Rwrite as a whole.
const RREAD_HEAD: u32 = 11;
const TWRITE_HEAD: u32 = 23;
const RWRITE: u32 = 11;
const RLERROR: u8 = 7;
/// `VIRTIO_9P_F_MOUNT_TAG`.
const F_MOUNT_TAG: u64 = 1;

/// The driver of one share, and what it is made of.
pub(crate) struct Endpoint {
    device: VhostUserDevice,
    memory: Arc<GuestMemory>,
    iommu: Arc<Iommu>,
    queue: VirtQueue,
    home: GuestPhys,
    file: PathBuf,
}

impl Endpoint {
    /// The share of `ENDPOINTS[number]` with its ring running and no session yet. Unless the ring can be reached by
    /// then, the start itself may fault.
    pub(crate) fn start(rig: &Rig, guest: &Guest, number: usize) -> Self {
        Self::at(rig, guest, number, take_home(guest))
    }

    fn at(rig: &Rig, guest: &Guest, number: usize, home: GuestPhys) -> Self {
        let memory = Arc::clone(&guest.memory);
        let options = VhostUserOptions::new(rig.share_socket(number), 1);
        let mut device = VhostUserDevice::connect(Arc::clone(&memory), options).unwrap();
        device.negotiate(F_VERSION_1 | F_INDIRECT_DESC | F_MOUNT_TAG).unwrap();
        let queue = open_queue(&mut device, &memory, home);
        let file = rig.folder(number).join("file");
        std::fs::write(&file, b"").unwrap();
        Self { device, memory, iommu: Arc::clone(rig.iommu()), queue, home, file }
    }

    /// An endpoint attached to `domain`, with its home mapped there and a session open.
    pub(crate) fn attached(rig: &Rig, guest: &Guest, number: usize, domain: u32) -> Self {
        let home = take_home(guest);
        assert_eq!(guest.attach(domain, ENDPOINTS[number], 0), OK);
        assert_eq!(guest.map_pages(domain, home.0, HOME_PAGES, home, BOTH), OK);
        let mut endpoint = Self::at(rig, guest, number, home);
        endpoint.open();
        endpoint
    }

    /// Maps the home in `domain`.
    pub(crate) fn map_home(&self, guest: &Guest, domain: u32) {
        assert_eq!(
            guest.map_pages(domain, self.home.0, HOME_PAGES, self.home, BOTH),
            OK,
            "the home in domain {domain}"
        );
    }

    /// Opens a session with the file in it.
    pub(crate) fn open(&mut self) {
        let none = u32::MAX.to_le_bytes();
        let (root, file) = (0_u32.to_le_bytes(), FILE.to_le_bytes());
        let version = [&65536_u32.to_le_bytes()[..], &8_u16.to_le_bytes(), b"9P2000.L"].concat();
        let attach = [&root[..], &none, &[0; 4], &none].concat();
        let walk = [&root[..], &file, &1_u16.to_le_bytes(), &4_u16.to_le_bytes(), b"file"].concat();
        let open = [file, 2_u32.to_le_bytes()].concat();
        for (kind, body) in [(100, version), (104, attach), (110, walk), (12, open)] {
            let request = self.request(kind, &body, 0);
            let used = self.run(&[request], &[self.reply(PAGE)]);
            let kind = self.memory.read_vec(self.home + REPLY_PAGE * PAGE + 4, 1).unwrap()[0];
            assert!(used > 0 && kind != RLERROR, "message {kind} of the set-up failed");
        }
    }

    /// What the device reads at `address`, or `None` if it may not.
    pub(crate) fn fetch(&mut self, address: u64, bytes: u32) -> Option<Vec<u8>> {
        std::fs::write(&self.file, b"").unwrap();
        let body = [&FILE.to_le_bytes()[..], &0_u64.to_le_bytes(), &bytes.to_le_bytes()].concat();
        let head = self.request(118, &body, bytes);
        assert_eq!(head.bytes, TWRITE_HEAD);
        let data = Segment { address: DeviceAddr(address), bytes, writable: false };
        let used = self.run(&[head, data], &[self.reply(PAGE)]);
        let seen = std::fs::read(&self.file).unwrap();
        match used {
            RWRITE => assert_eq!(seen.len(), usize::try_from(bytes).unwrap(), "a short write"),
            used => assert!(used == 0 && seen.is_empty(), "used length {used}, {} bytes read", seen.len()),
        }
        (used == RWRITE).then_some(seen)
    }

    /// Has the device write `data` to `address`; says whether it might.
    pub(crate) fn store(&mut self, address: u64, data: &[u8]) -> bool {
        std::fs::write(&self.file, data).unwrap();
        let bytes = u32::try_from(data.len()).unwrap();
        self.offer_store(address, bytes);
        self.queue.force_kick().unwrap();
        let used = self.queue.take().unwrap().bytes;
        assert!(used == 0 || used == RREAD_HEAD + bytes, "used length {used}");
        used != 0
    }

    /// Whether the device reads the first bytes of `page` at `address`, and writes there.
    pub(crate) fn reaches(&mut self, guest: &Guest, address: u64, page: GuestPhys) -> bool {
        let before = guest.read(page);
        let fetched = self.fetch(address, 8);
        let after: [u8; 8] = before.map(|byte| !byte);
        let stored = self.store(address, &after);
        assert_eq!(fetched.is_some(), stored, "one direction alone at {address:#x}");
        assert!(fetched.is_none_or(|seen| seen == before), "{address:#x} leads elsewhere");
        assert_eq!(guest.read(page), if stored { after } else { before });
        stored
    }

    /// Whether the device reaches guest memory by its guest-physical address.
    pub(crate) fn reaches_untranslated(&mut self, guest: &Guest) -> bool {
        let (page, _) = guest.marked_page();
        self.reaches(guest, page.0, page)
    }

    /// Kicks with a request waiting and checks that the device cannot even see it; returns the fault that tells so.
    pub(crate) fn expect_cut_off(&mut self, guest: &Guest) -> FaultEvent {
        guest.iommu.take_faults().unwrap();
        self.offer_store(0, 0);
        self.queue.publish().unwrap();
        let before = self.iommu.faults().recorded();
        self.queue.force_kick().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while self.iommu.faults().recorded() == before {
            assert!(Instant::now() < deadline, "the endpoint neither faults nor answers");
            assert!(self.queue.try_take().unwrap().is_none(), "the endpoint still serves its ring");
            std::thread::yield_now();
        }
        assert!(self.queue.try_take().unwrap().is_none(), "the endpoint still serves its ring");
        // Reports of earlier accesses may still be on their way.
        loop {
            let event = guest.fault();
            if (self.home.0..self.home.0 + REQUEST_PAGE * PAGE).contains(&event.address) {
                return event;
            }
        }
    }

    /// Starts anew on a ring of zeros, with a session.
    pub(crate) fn restart(&mut self) {
        self.device.stop_queue(0).unwrap();
        self.queue = open_queue(&mut self.device, &self.memory, self.home);
        self.open();
    }

    /// Waits until the device has nothing in hand.
    pub(crate) fn stop(&mut self) {
        self.device.stop_queue(0).unwrap();
    }

    /// Has the device write `bytes` bytes of the host's file to `address`, without waiting for it.
    pub(crate) fn begin_store(&mut self, address: u64, data: &[u8]) {
        std::fs::write(&self.file, data).unwrap();
        self.offer_store(address, u32::try_from(data.len()).unwrap());
        self.queue.publish().unwrap();
        self.queue.force_kick().unwrap();
    }

    /// Waits for the request of [`Self::begin_store`].
    pub(crate) fn finish(&mut self) -> u32 {
        self.queue.take().unwrap().bytes
    }

    fn offer_store(&mut self, address: u64, bytes: u32) {
        let body = [&FILE.to_le_bytes()[..], &0_u64.to_le_bytes(), &bytes.to_le_bytes()].concat();
        let request = self.request(116, &body, 0);
        let data = Segment { address: DeviceAddr(address), bytes, writable: true };
        self.queue.add(&[request, self.reply(u64::from(RREAD_HEAD)), data], None).unwrap();
        self.queue.publish().unwrap();
    }

    /// Writes the head of a message that `more` bytes follow.
    fn request(&self, kind: u8, body: &[u8], more: u32) -> Segment {
        let bytes = u32::try_from(7 + body.len()).unwrap();
        let at = self.home + REQUEST_PAGE * PAGE;
        let message = [&(bytes + more).to_le_bytes()[..], &[kind], &1_u16.to_le_bytes(), body].concat();
        self.memory.write(at, &message).unwrap();
        Segment { address: at.into(), bytes, writable: false }
    }

    fn reply(&self, bytes: u64) -> Segment {
        let at = self.home + REPLY_PAGE * PAGE;
        Segment { address: at.into(), bytes: u32::try_from(bytes).unwrap(), writable: true }
    }

    fn run(&mut self, readable: &[Segment], writable: &[Segment]) -> u32 {
        self.queue.add(&[readable, writable].concat(), None).unwrap();
        self.queue.publish().unwrap();
        self.queue.force_kick().unwrap();
        self.queue.take().unwrap().bytes
    }
}

fn take_home(guest: &Guest) -> GuestPhys {
    guest.memory.take_run(usize::try_from(HOME_PAGES * PAGE).unwrap()).unwrap()
}

fn open_queue(device: &mut VhostUserDevice, memory: &Arc<GuestMemory>, home: GuestPhys) -> VirtQueue {
    let placement = RingPlacement::contiguous(home, home.into(), RING_SIZE);
    assert!(RingBytes::of(RING_SIZE).total() as u64 <= REQUEST_PAGE * PAGE);
    let ring = SplitQueue::new(Arc::clone(memory), placement, RING_SIZE, false).unwrap();
    let doorbell = device.start_queue(0, &placement, RING_SIZE, 0).unwrap();
    VirtQueue::new(ring, doorbell, Waiting::Interrupt).unwrap()
}
