//! The guest: its memory, the IOMMU's driver, and requests as bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use calgary_tests::guest::iommu::{FaultEvent, Request};
use calgary_tests::guest::{GuestMemory, GuestPhys, Iommu, IommuOptions, RawExchange, RawReply};
use calgary_tests::guest::{Transport, VhostUserDevice, VhostUserOptions};

use crate::rig::{Rig, WINDOW};

pub(crate) const OK: u8 = 0;
pub(crate) const INVAL: u8 = 4;
pub(crate) const RANGE: u8 = 5;
pub(crate) const NOENT: u8 = 6;
pub(crate) const NOMEM: u8 = 8;

pub(crate) const READ: u32 = 1;
pub(crate) const WRITE: u32 = 2;
pub(crate) const MMIO: u32 = 4;
pub(crate) const BOTH: u32 = READ | WRITE;
/// ATTACH flag.
pub(crate) const BYPASS: u32 = 1;

pub(crate) const PAGE: u64 = 4096;
/// Where tests map: far from what a driver keeps mapped for itself.
pub(crate) const AREA: u64 = 16 << 20;
/// Long enough for any machine; nothing that comes is waited for this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes at the bottom of RAM that no driver uses: they hold the reserved hole.
const LOW: usize = 2 << 20;

/// A guest with a driver for the IOMMU and none yet for the shares.
pub(crate) struct Guest {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) iommu: Arc<Iommu>,
    next: AtomicU64,
}

impl Guest {
    /// A guest that negotiates what Linux does.
    pub(crate) fn boot(rig: &Rig) -> Self {
        Self::with_options(rig, &IommuOptions::default())
    }

    /// A guest that accepts `features` alone, where offered.
    pub(crate) fn with_features(rig: &Rig, features: u64) -> Self {
        Self::with_options(rig, &IommuOptions { features, ..IommuOptions::default() })
    }

    pub(crate) fn with_options(rig: &Rig, options: &IommuOptions) -> Self {
        let memory = Self::new_memory();
        let connection = VhostUserOptions::new(rig.iommu_socket(), 2);
        let device = VhostUserDevice::connect(Arc::clone(&memory), connection).unwrap();
        Self::over(Box::new(device), memory, options)
    }

    /// Guest RAM, with nothing of the drivers' where the reserved hole would cut what they map.
    pub(crate) fn new_memory() -> Arc<GuestMemory> {
        let memory = Arc::new(GuestMemory::new(WINDOW >> 20).unwrap());
        memory.take_run(LOW - 4096).unwrap();
        memory
    }

    /// A guest whose IOMMU comes over `device`.
    pub(crate) fn over(device: Box<dyn Transport>, memory: Arc<GuestMemory>, options: &IommuOptions) -> Self {
        let iommu = Iommu::start(device, Arc::clone(&memory), options).unwrap();
        let guest = Self { memory, iommu: Arc::new(iommu), next: AtomicU64::new(1) };
        guest.greet();
        guest
    }

    /// Sends a request without effect. The device forgets an earlier driver, and faults of its time, when it first looks
    /// at a new driver's request queue, which is some time after the start.
    fn greet(&self) {
        assert_eq!(self.detach(0, u32::MAX), NOENT);
    }

    /// Sends a request in one readable and one writable piece.
    pub(crate) fn exchange(&self, bytes: &[u8], writable: u32) -> RawReply {
        self.send(&RawExchange::new(bytes, writable))
    }

    pub(crate) fn send(&self, exchange: &RawExchange) -> RawReply {
        self.iommu.exchange(exchange).unwrap()
    }

    /// The status that answers `bytes`, in a tail of its own.
    pub(crate) fn ask_bytes(&self, bytes: &[u8]) -> u8 {
        let reply = self.exchange(bytes, 4);
        assert_eq!(reply.used_bytes, 4, "used length for {bytes:x?}");
        assert_eq!(reply.writable[1..], [0; 3], "reserved bytes of the tail for {bytes:x?}");
        reply.writable[0]
    }

    pub(crate) fn ask(&self, request: Request) -> u8 {
        self.ask_bytes(&request.to_bytes())
    }

    pub(crate) fn attach(&self, domain: u32, endpoint: u32, flags: u32) -> u8 {
        self.ask(Request::Attach { domain, endpoint, flags })
    }

    pub(crate) fn detach(&self, domain: u32, endpoint: u32) -> u8 {
        self.ask(Request::Detach { domain, endpoint })
    }

    /// MAP of `first..=last`.
    pub(crate) fn map(&self, domain: u32, first: u64, last: u64, target: u64, flags: u32) -> u8 {
        self.ask(Request::Map { domain, first, last, target: GuestPhys(target), flags })
    }

    /// MAP of `pages` pages at `first`.
    pub(crate) fn map_pages(&self, domain: u32, first: u64, pages: u64, target: GuestPhys, flags: u32) -> u8 {
        self.map(domain, first, first + pages * PAGE - 1, target.0, flags)
    }

    pub(crate) fn unmap(&self, domain: u32, first: u64, last: u64) -> u8 {
        self.ask(Request::Unmap { domain, first, last })
    }

    /// Bytes that a PROBE writes: its properties and the tail.
    pub(crate) fn probe_answer(&self) -> u32 {
        self.iommu.config().probe_bytes + 4
    }

    /// A page with content of its own, which is returned with it.
    pub(crate) fn marked_page(&self) -> (GuestPhys, [u8; 8]) {
        let page = self.memory.take_page().unwrap();
        let mark = (0xc0de_0000_0000 + self.next.fetch_add(1, Ordering::Relaxed)).to_le_bytes();
        self.memory.write(page, &mark).unwrap();
        (page, mark)
    }

    /// `pages` neighbouring pages, the first of which starts with a mark.
    pub(crate) fn marked_run(&self, pages: u64) -> (GuestPhys, [u8; 8]) {
        let run = self.memory.take_run(usize::try_from(pages * PAGE).unwrap()).unwrap();
        let mark = (0xc0de_0000_0000 + self.next.fetch_add(1, Ordering::Relaxed)).to_le_bytes();
        self.memory.write(run, &mark).unwrap();
        (run, mark)
    }

    pub(crate) fn read(&self, page: GuestPhys) -> [u8; 8] {
        let mut bytes = [0; 8];
        self.memory.read(page, &mut bytes).unwrap();
        bytes
    }

    /// The next fault that the device reports.
    pub(crate) fn fault(&self) -> FaultEvent {
        self.iommu.wait_fault(PATIENCE).unwrap().expect("a fault event")
    }

    /// The whole configuration space.
    pub(crate) fn config_bytes(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        self.iommu.with_device(|device| device.read_config(0, &mut bytes)).unwrap();
        bytes
    }

    /// Stops both queues and starts them as a new driver does.
    pub(crate) fn reset(&self) {
        self.iommu.stop().unwrap();
        self.iommu.restart().unwrap();
        self.greet();
    }
}
