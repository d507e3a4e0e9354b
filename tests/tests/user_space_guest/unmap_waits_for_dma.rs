//! An UNMAP that overlaps a file read into the guest's own pages completes after it; any other completes at once; and a read
//! that does not end costs its endpoint the bus, not the guest's memory.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use calgary_tests::guest::ROOT_FID;
use calgary_tests::guest::iommu::{MAP_F_READ, Status};

use crate::bench::{Bench, ENDPOINT, REPLY, unmap};
use crate::gate::{CONTENT, Gate, TREAD, tread};

/// Where the test maps the request once more.
const ELSEWHERE: u64 = 0x30_0000;
/// Bytes of the reply's buffer: so many that the device writes into it in place.
const REPLY_BYTES: u32 = 16 << 10;

/// A file whose reads go into the guest's pages, and one of them in flight.
fn reading(limit: Duration) -> Bench {
    let mut bench = Bench::new(Gate::new(), limit, |share| share);
    let request = tread(&bench.guest.memory);
    let iommu = bench.guest.iommu.clone().unwrap();
    iommu.map(bench.domain, ELSEWHERE, ELSEWHERE + 4095, request, MAP_F_READ).unwrap();
    bench.offer(request, TREAD, REPLY_BYTES);
    bench.begun.recv().unwrap();
    bench
}

#[test]
fn only_an_unmap_that_overlaps_the_read_waits_for_it() {
    let mut bench = reading(Duration::from_secs(60));
    // The read is in flight all the time, or this would hang.
    assert_eq!(bench.unmap(ELSEWHERE, 4096), Status::Ok);
    let (done_sender, done) = channel();
    let (iommu, memory) = (bench.guest.iommu.clone().unwrap(), Arc::clone(&bench.guest.memory));
    let (domain, reply) = (bench.domain, bench.reply);
    let unmapper = std::thread::spawn(move || {
        let status = unmap(&iommu, domain, REPLY, REPLY_BYTES);
        let mut page = [0; 20];
        memory.read(reply, &mut page).unwrap();
        done_sender.send((status, page)).unwrap();
    });
    assert!(done.recv_timeout(Duration::from_millis(200)).is_err(), "the UNMAP did not wait");
    bench.open.send(()).unwrap();
    let (status, page) = done.recv().unwrap();
    unmapper.join().unwrap();
    assert_eq!(status, Status::Ok);
    assert_eq!(&page[11..], CONTENT, "what the device wrote was there before the UNMAP was answered");
    assert_eq!(bench.guest.shares[0].client.queue().take().unwrap().bytes, 20);
}

#[test]
fn a_read_that_does_not_end_costs_the_endpoint_the_bus() {
    let mut bench = reading(Duration::from_millis(20));
    assert_eq!(bench.unmap(REPLY, REPLY_BYTES), Status::DeviceError, "what is not true is not acknowledged");
    bench.open.send(()).unwrap();
    // The ring itself is out of reach now: no used element appears, and the guest is told of the access.
    let event = bench.guest.iommu.as_ref().unwrap().wait_fault(Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!((event.reason, event.endpoint), (0, ENDPOINT));
    assert!(bench.guest.shares[0].client.queue().take_within(Duration::from_millis(50)).unwrap().is_none());
    // Once the read has ended, a new driver has the device back.
    bench.guest.reboot().unwrap();
    bench.guest.shares[0].client.lopen(ROOT_FID, 0).unwrap();
}
