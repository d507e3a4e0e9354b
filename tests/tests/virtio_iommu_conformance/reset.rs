//! R95–R96: reset and pause (virtio 1.2 §2.4, §5.13.5).

use std::sync::{Arc, Mutex, MutexGuard};

use calgary_tests::guest::queue::RingPlacement;
use calgary_tests::guest::{Doorbell, IommuOptions, Transport, TransportError, VhostUserDevice, VhostUserOptions};
use vhost::vhost_user::{VhostUserFrontend, VhostUserProtocolFeatures};

use crate::endpoint::Endpoint;
use crate::guest::{AREA, BYPASS, Guest, INVAL, NOENT, OK, PAGE, READ};
use crate::rig::{ENDPOINTS, Rig};

/// Reason of a fault of an unattached endpoint.
const DOMAIN: u8 = 1;

/// A connection that a driver uses and on which a test can send messages of its own.
#[derive(Clone, Debug)]
struct Shared(Arc<Mutex<VhostUserDevice>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, VhostUserDevice> {
        self.0.lock().unwrap()
    }
}

impl Transport for Shared {
    fn offered(&self) -> u64 {
        self.lock().offered()
    }

    fn negotiate(&mut self, wanted: u64) -> Result<u64, TransportError> {
        self.lock().negotiate(wanted)
    }

    fn queue_count(&self) -> usize {
        self.lock().queue_count()
    }

    fn read_config(&mut self, offset: u32, buffer: &mut [u8]) -> Result<(), TransportError> {
        self.lock().read_config(offset, buffer)
    }

    fn write_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), TransportError> {
        self.lock().write_config(offset, bytes)
    }

    fn start_queue(
        &mut self,
        index: usize,
        ring: &RingPlacement,
        size: u16,
        base: u16,
    ) -> Result<Arc<dyn Doorbell>, TransportError> {
        self.lock().start_queue(index, ring, size, base)
    }

    fn stop_queue(&mut self, index: usize) -> Result<u16, TransportError> {
        self.lock().stop_queue(index)
    }

    fn reconnect(&mut self) -> Result<(), TransportError> {
        self.lock().reconnect()
    }
}

#[test]
fn r95_reset_device_detaches_everything_at_once_and_keeps_bypass() {
    let rig = Rig::new();
    let memory = Guest::new_memory();
    let mut options = VhostUserOptions::new(rig.iommu_socket(), 2);
    options.protocol_features |= VhostUserProtocolFeatures::RESET_DEVICE;
    let device = VhostUserDevice::connect(Arc::clone(&memory), options).unwrap();
    let device = Shared(Arc::new(Mutex::new(device)));
    let guest = Guest::over(Box::new(device.clone()), memory, &IommuOptions::default());
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    let (page, _) = guest.marked_page();
    assert_eq!(guest.map_pages(1, AREA, 1, page, READ), OK);
    guest.iommu.set_bypass(1).unwrap();
    assert!(!endpoint.reaches_untranslated(&guest), "attached");
    guest.iommu.stop().unwrap();
    device.lock().frontend().reset_device().unwrap();
    assert_eq!(rig.iommu().live_mappings(), 0, "no new driver is needed for that");
    assert!(endpoint.reaches_untranslated(&guest), "unattached, with bypass kept");
    guest.iommu.restart().unwrap();
    assert_eq!(guest.unmap(1, 0, u64::MAX), NOENT);
    assert_eq!(guest.iommu.bypass().unwrap(), 1);
}

#[test]
fn r95_a_new_driver_finds_nothing_attached() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut first = Endpoint::attached(&rig, &guest, 0, 1);
    let (page, _) = guest.marked_page();
    assert_eq!(guest.map_pages(1, AREA, 1, page, READ), OK);
    assert_eq!(guest.attach(2, ENDPOINTS[1], BYPASS), OK);
    for round in 0..3 {
        guest.reset();
        for domain in [1, 2] {
            assert_eq!(guest.unmap(domain, 0, u64::MAX), NOENT);
            for endpoint in ENDPOINTS {
                assert_eq!(guest.detach(domain, endpoint), INVAL, "attached nowhere");
            }
        }
        assert_eq!(rig.iommu().live_mappings(), 0);
        let event = first.expect_cut_off(&guest);
        assert_eq!((event.reason, event.endpoint), (DOMAIN, ENDPOINTS[0]));
        // The ids are free for either kind, and what is attached anew starts empty.
        assert_eq!(guest.attach(2, ENDPOINTS[0], 0), OK);
        first.map_home(&guest, 2);
        first.restart();
        assert!(!first.reaches(&guest, AREA, page), "round {round}");
    }
}

#[test]
fn r95_a_new_driver_finds_bypass_as_it_was() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    guest.iommu.set_bypass(1).unwrap();
    guest.reset();
    assert_eq!(guest.iommu.bypass().unwrap(), 1);
    assert!(endpoint.reaches_untranslated(&guest), "unattached now");
}

#[test]
fn r95_a_new_front_end_finds_nothing_attached() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    assert_eq!(guest.attach(1, ENDPOINTS[0], 0), OK);
    assert_eq!(guest.map(1, AREA, AREA + PAGE - 1, 0, READ), OK);
    guest.iommu.reconnect().unwrap();
    guest.iommu.restart().unwrap();
    assert_eq!(guest.unmap(1, 0, u64::MAX), NOENT);
    assert_eq!(rig.iommu().live_mappings(), 0);
}

#[test]
fn r96_a_pause_keeps_everything() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let mut endpoint = Endpoint::attached(&rig, &guest, 0, 1);
    let (page, mark) = guest.marked_page();
    assert_eq!(guest.map_pages(1, AREA, 1, page, READ), OK);
    let live = rig.iommu().live_mappings();
    for _ in 0..5 {
        let stopped = guest.iommu.stop().unwrap();
        assert_eq!(endpoint.fetch(AREA, 8).unwrap(), mark, "an endpoint may run on meanwhile");
        guest.iommu.resume(stopped).unwrap();
        assert_eq!(rig.iommu().live_mappings(), live);
        assert_eq!(guest.detach(2, ENDPOINTS[0]), INVAL, "the driver goes on");
        assert_eq!(endpoint.fetch(AREA, 8).unwrap(), mark);
    }
}
