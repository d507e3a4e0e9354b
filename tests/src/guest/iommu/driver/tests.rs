use super::*;
use crate::guest::fake::{FakeDevice, FakeIommu};
use crate::guest::iommu::MAP_F_READ;
use crate::guest::vhost_user::{VhostUserDevice, VhostUserOptions};

fn start(fake: &FakeDevice<FakeIommu>, options: &IommuOptions) -> Iommu {
    let memory = Arc::new(GuestMemory::new(8).unwrap());
    let device = VhostUserDevice::connect(Arc::clone(&memory), VhostUserOptions::new(fake.socket(), 2)).unwrap();
    Iommu::start(Box::new(device), memory, options).unwrap()
}

fn map(page: u64) -> Request {
    let (first, target) = (page * 4096, GuestPhys(page * 8192));
    Request::Map { domain: 3, first, last: first + 4095, target, flags: MAP_F_READ }
}

#[test]
fn statuses_and_configuration_arrive() {
    let fake = FakeDevice::start(FakeIommu::new());
    let iommu = start(&fake, &IommuOptions::default());
    assert_eq!(iommu.config().input_last, FakeIommu::LAST_IOVA);
    assert_eq!(iommu.request(map(1)).unwrap(), Status::NoEntry);
    iommu.attach(3, 9, 0).unwrap();
    iommu.execute(map(1)).unwrap();
    let error = iommu.execute(map(1)).unwrap_err();
    assert!(matches!(error, IommuError::Refused { status: Status::Invalid, .. }));
    assert_eq!(fake.model.translate(9, 0x1234, false), Some(0x2234));
    assert_eq!(fake.model.translate(9, 0x1234, true), None);
    iommu.unmap(3, 0x1000, 0x1fff).unwrap();
    iommu.detach(3, 9).unwrap();
    let reserved = ReservedRegion { msi: true, first: 0x1f0_0000, last: 0x1ff_ffff };
    assert_eq!(iommu.probe(9).unwrap(), [reserved]);
    iommu.set_bypass(1).unwrap();
    assert_eq!(iommu.bypass().unwrap(), 1);
}

#[test]
fn a_batch_larger_than_the_ring_is_answered_in_order() {
    for indirect in [true, false] {
        let fake = FakeDevice::start(FakeIommu::new());
        let mut options = IommuOptions { queue_size: 32, waiting: Waiting::Interrupt, ..IommuOptions::default() };
        if !indirect {
            options.features &= !F_INDIRECT_DESC;
        }
        let iommu = start(&fake, &options);
        iommu.attach(3, 9, 0).unwrap();
        let mut requests: Vec<_> = (1..=200).map(map).collect();
        requests[150] = map(1);
        let replies = iommu.batch(&requests).unwrap();
        for (index, reply) in replies.into_iter().enumerate() {
            let expected = if index == 150 { Status::Invalid } else { Status::Ok };
            assert_eq!(reply.status().unwrap(), expected, "request {index}");
        }
    }
}

#[test]
fn a_batch_that_fits_takes_one_kick_at_most() {
    let fake = FakeDevice::start(FakeIommu::new());
    let iommu = start(&fake, &IommuOptions::default());
    iommu.attach(3, 9, 0).unwrap();
    let before = iommu.with_requests(|queue| queue.kicks());
    let requests: Vec<_> = (1..=100).map(map).collect();
    iommu.batch(&requests).unwrap();
    assert!(iommu.with_requests(|queue| queue.kicks()) <= before + 1);
}

#[test]
fn a_deferred_unmap_that_fails_is_reported_at_the_next_sync() {
    let fake = FakeDevice::start(FakeIommu::new());
    let iommu = start(&fake, &IommuOptions::default());
    iommu.defer(Request::Unmap { domain: 77, first: 0, last: 4095 }).unwrap();
    assert!(matches!(iommu.sync(), Err(IommuError::DeferredUnmap(Status::NoEntry))));
    iommu.sync().unwrap();
}

#[test]
fn raw_requests_show_what_was_written() {
    let fake = FakeDevice::start(FakeIommu::new());
    let iommu = start(&fake, &IommuOptions::default());
    let unknown = RawExchange::new(&[0x77; 20], 8);
    let reply = iommu.exchange(&unknown).unwrap();
    assert_eq!((reply.used_bytes, reply.writable), (0, vec![RawExchange::POISON; 8]));
    let attach = Request::Attach { domain: 1, endpoint: 2, flags: 0 }.to_bytes();
    let mut split = RawExchange::new(&attach, 0).cut_readable(&[1, 4, 11]);
    split.writable = vec![1, 3];
    for indirect in [false, true] {
        split.indirect = indirect;
        let reply = iommu.exchange(&split).unwrap();
        assert_eq!((reply.used_bytes, reply.writable), (4, vec![0; 4]));
    }
}

#[test]
fn faults_are_collected_and_their_buffers_recycled() {
    let fake = FakeDevice::start(FakeIommu::new());
    let mut event = [0; 24];
    event[0] = 2;
    event[4..8].copy_from_slice(&0x102_u32.to_le_bytes());
    event[8] = 9;
    event[17] = 0x50;
    fake.model.state().events = vec![[1; 24], event];
    let iommu = start(&fake, &IommuOptions::default());
    let fault = iommu.wait_fault(VirtQueue::DEFAULT_TIMEOUT).unwrap();
    assert_eq!(fault, Some(FaultEvent { reason: 2, flags: 0x102, endpoint: 9, address: 0x5000 }));
    let malformed = iommu.wait_fault(VirtQueue::DEFAULT_TIMEOUT);
    assert!(matches!(malformed, Err(IommuError::BadEvent(_))));
    assert_eq!(iommu.take_faults().unwrap(), []);
}
