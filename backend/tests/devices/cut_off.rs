//! An endpoint whose DMA did not end in time: nothing that it may still use is said to be taken away.

use std::sync::Arc;
use std::time::Duration;

use calgaryd::device::PollPolicy;
use calgaryd::device::iommu::{Iommu, IommuDevice};
use calgaryd::memory::GuestRam;
use calgaryd::transport::Device;
use frontend_spec::iommu::{
    AttachFlags, AttachRequest, DetachRequest, MapFlags, MapRequest, REQUEST_QUEUE, Status, UnmapRequest, feature,
};
use iommu_calgary::{Iova, TableSize};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

use crate::driver::{BUFFERS, Deaf, ENDPOINT, Ring};

/// Another endpoint, 00:07.0.
const OTHER: u32 = 7 << 3;

struct Rig {
    device: IommuDevice,
    memory: GuestMemoryMmap,
    ring: Ring,
}

impl Rig {
    /// The answers to a batch, which finds an access in its way at once.
    fn ask(&mut self, requests: &[&[u8]]) -> Vec<u8> {
        self.ring.offer(requests);
        self.device.service(REQUEST_QUEUE);
        assert!(self.ring.is_answered());
        let tail = |place: u64| self.memory.read_obj(GuestAddress(BUFFERS + 0x200 * place + 0x100)).unwrap();
        (0..requests.len() as u64).map(tail).collect()
    }
}

#[test]
fn what_an_endpoint_that_was_cut_off_may_still_use_is_not_acknowledged() {
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    let iommu = Arc::new(Iommu::with_quiesce_limit(TableSize::MiB32, false, Duration::ZERO).unwrap());
    let phb = iommu.add_endpoint(ENDPOINT).unwrap();
    iommu.add_endpoint(OTHER).unwrap();
    let device = IommuDevice::new(Arc::clone(&iommu), PollPolicy::Off);
    device.ack_features(feature::MAP_UNMAP);
    device.set_memory(GuestRam::new(&memory));
    let ring = Ring::new(&memory, [0x1000, 0x2000, 0x3000], true);
    device.activate(REQUEST_QUEUE, ring.layout, 0, Arc::new(Deaf));
    let mut rig = Rig { device, memory, ring };
    let (ok, failed) = (Status::Ok as u8, Status::DevErr as u8);

    let attach = |domain, endpoint| AttachRequest::new(domain, endpoint, AttachFlags::NONE);
    let map = |page: u64| MapRequest::new(1, page << 12, (page << 12) + 0xfff, 0, MapFlags::READ_WRITE);
    let unmap = |page: u64| UnmapRequest::new(1, page << 12, (page << 12) + 0xfff);
    let home = attach(1, ENDPOINT);
    let start = [home.as_bytes(), map(1).as_bytes(), map(2).as_bytes(), map(3).as_bytes()].map(<[u8]>::to_vec);
    assert_eq!(rig.ask(&start.each_ref().map(Vec::as_slice)), [ok; 4]);

    // An access to two pages that does not end.
    let pins = phb.new_pins();
    phb.new_port().enter().pin(&pins, Iova(0x1000), 0x2000);
    assert_eq!(rig.ask(&[unmap(1).as_bytes()]), [failed]);
    // It goes on in the second page, which no commit waits for any more.
    assert_eq!(rig.ask(&[unmap(2).as_bytes()]), [failed]);
    // What gives something, or takes it from somebody else, succeeds.
    let elsewhere = attach(2, OTHER);
    assert_eq!(rig.ask(&[home.as_bytes(), map(4).as_bytes(), elsewhere.as_bytes()]), [ok; 3]);
    let leave = DetachRequest::new(1, ENDPOINT);
    assert_eq!(rig.ask(&[unmap(3).as_bytes(), leave.as_bytes()]), [failed; 2]);
    assert_eq!(rig.ask(&[leave.as_bytes(), home.as_bytes()]), [Status::Inval as u8, failed]);

    // A start that is a new driver's waits no longer than a reset does, and tells whoever wants the endpoint.
    rig.device.stop(REQUEST_QUEUE);
    rig.ring = Ring::new(&rig.memory, [0x4000, 0x5000, 0x6000], true);
    rig.device.activate(REQUEST_QUEUE, rig.ring.layout, 0, Arc::new(Deaf));
    assert_eq!(rig.ask(&[elsewhere.as_bytes(), home.as_bytes()]), [ok, failed]);
    rig.device.reset();
    assert!(!rig.device.has_settled(), "the access goes on");
    drop(pins);
    assert!(rig.device.has_settled());
    rig.device.ack_features(feature::MAP_UNMAP);
    assert_eq!(rig.ask(&[home.as_bytes(), map(1).as_bytes(), unmap(1).as_bytes()]), [ok; 3]);
}
