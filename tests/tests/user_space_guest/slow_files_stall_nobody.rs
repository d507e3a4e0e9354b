//! While a read or a sync waits for something slow, the share answers others, an UNMAP waits for nothing, and requests that
//! depend on it keep their order.

use std::time::Duration;

use calgary_tests::guest::iommu::Status;
use calgary_tests::guest::ninep::{Call, Tag};
use calgary_tests::guest::{NinepError, ROOT_FID};
use calgaryd::device::share::ShareDevice;

use crate::bench::{Bench, ENDPOINT, REPLY};
use crate::gate::{CONTENT, Gate, TREAD, tread};

const EIO: u32 = 5;
/// Long enough for any machine.
const LIMIT: Duration = Duration::from_secs(60);
/// What must not happen is not waited for longer.
const MOMENT: Duration = Duration::from_millis(100);

fn bench(change: impl FnOnce(ShareDevice<Gate>) -> ShareDevice<Gate>) -> Bench {
    Bench::new(Gate::slow(), LIMIT, change)
}

impl Bench {
    fn send(&mut self, call: Call) -> Tag {
        let client = &mut self.guest.shares[0].client;
        let tag = client.submit(call).unwrap();
        client.kick().unwrap();
        tag
    }

    /// Sends a read of the file, and waits until it is in flight.
    fn begin_read(&mut self) -> Tag {
        let tag = self.send(Call::read(ROOT_FID, 0, 64));
        self.begun.recv().unwrap();
        tag
    }

    fn is_done(&mut self, tag: Tag) -> bool {
        self.guest.shares[0].client.is_done(tag).unwrap()
    }

    /// The share answers: that this file system has no attributes.
    fn answers(&mut self) {
        assert_eq!(self.guest.shares[0].client.getattr(ROOT_FID, 1).unwrap_err().errno(), Some(EIO));
    }

    fn has_read(&mut self, tag: Tag) {
        let reply = self.guest.shares[0].client.collect(tag).unwrap();
        assert_eq!(reply.data().unwrap(), CONTENT);
    }

    /// Which request is answered next, of those that are not.
    fn next(&mut self) -> Tag {
        self.guest.shares[0].client.wait_any().unwrap()
    }
}

#[test]
fn others_are_answered_while_a_read_waits() {
    let mut bench = bench(|share| share);
    let read = bench.begin_read();
    bench.answers();
    assert!(!bench.is_done(read));
    bench.open.send(()).unwrap();
    bench.has_read(read);
    assert_eq!(bench.share.stats().offloaded, 1);
}

#[test]
fn others_are_answered_while_a_sync_waits() {
    let mut bench = bench(|share| share);
    let sync = bench.send(Call::fsync(ROOT_FID, false));
    bench.begun.recv().unwrap();
    bench.answers();
    assert!(!bench.is_done(sync), "what is not on stable storage is not acknowledged");
    bench.open.send(()).unwrap();
    bench.guest.shares[0].client.collect(sync).unwrap();
}

#[test]
fn an_unmap_does_not_wait_and_the_reply_goes_nowhere() {
    let mut bench = bench(|share| share);
    let memory = bench.guest.memory.clone();
    memory.write(bench.reply, &[0xaa; 64]).unwrap();
    bench.offer(tread(&memory), TREAD, 16 << 10);
    bench.begun.recv().unwrap();
    // The read is in flight all the time, or this would hang.
    assert_eq!(bench.unmap(REPLY, 16 << 10), Status::Ok);
    bench.open.send(()).unwrap();
    let used = bench.guest.shares[0].client.queue().take().unwrap();
    assert_eq!((used.head, used.bytes), (0, 0));
    let mut page = [0; 64];
    memory.read(bench.reply, &mut page).unwrap();
    assert_eq!(page, [0xaa; 64], "a byte moved after the UNMAP");
    let event = bench.guest.iommu.as_ref().unwrap().wait_fault(LIMIT).unwrap().unwrap();
    assert_eq!((event.endpoint, event.address), (ENDPOINT, REPLY));
}

#[test]
fn a_clunk_comes_after_what_its_fid_was_used_for() {
    let mut bench = bench(|share| share);
    let read = bench.begin_read();
    let clunk = bench.send(Call::clunk(ROOT_FID));
    bench.guest.shares[0].client.attach(1, b"", 0).unwrap();
    assert!(!bench.is_done(clunk));
    bench.open.send(()).unwrap();
    assert_eq!(bench.next(), read);
    bench.has_read(read);
    bench.guest.shares[0].client.collect(clunk).unwrap();
    assert_eq!(bench.share.stats().fids, 1);
}

#[test]
fn a_flush_of_a_request_that_has_not_begun_undoes_it() {
    let mut bench = bench(|share| share);
    let read = bench.begin_read();
    let clunk = bench.send(Call::clunk(ROOT_FID));
    bench.guest.shares[0].client.flush(clunk).unwrap();
    assert!(matches!(bench.guest.shares[0].client.collect(clunk), Err(NinepError::Dropped)));
    bench.answers();
    bench.open.send(()).unwrap();
    bench.has_read(read);
}

#[test]
fn what_waited_for_a_request_that_is_flushed_waits_no_longer() {
    let mut bench = bench(|share| share);
    let read = bench.begin_read();
    let clunk = bench.send(Call::clunk(ROOT_FID));
    let attributes = bench.send(Call::getattr(ROOT_FID, 1));
    let client = &mut bench.guest.shares[0].client;
    assert!(client.queue().take_within(MOMENT).unwrap().is_none(), "it uses the fid that is to be clunked");
    client.flush(clunk).unwrap();
    assert_eq!(client.collect(attributes).unwrap_err().errno(), Some(EIO));
    bench.open.send(()).unwrap();
    bench.has_read(read);
}

#[test]
fn a_flush_of_a_read_in_flight_is_answered_after_it() {
    let mut bench = bench(|share| share);
    let read = bench.begin_read();
    let flush = bench.send(Call::flush(read.0));
    bench.answers();
    assert!(!bench.is_done(flush));
    bench.open.send(()).unwrap();
    assert_eq!(bench.next(), read);
    bench.has_read(read);
    bench.guest.shares[0].client.collect(flush).unwrap();
}

#[test]
fn a_new_session_begins_when_the_old_one_is_done() {
    let mut bench = bench(|share| share);
    let read = bench.begin_read();
    let version = bench.send(Call::version(8192, b"9P2000.L"));
    let client = &mut bench.guest.shares[0].client;
    assert!(client.queue().take_within(MOMENT).unwrap().is_none(), "the session ended under a read");
    bench.open.send(()).unwrap();
    assert_eq!(bench.next(), read);
    bench.has_read(read);
    bench.guest.shares[0].client.collect(version).unwrap();
    assert_eq!(bench.share.stats().fids, 0);
}

#[test]
fn beyond_the_limit_requests_wait_in_the_ring() {
    let mut bench = bench(|share| share.with_max_inflight(2));
    let first = bench.begin_read();
    let second = bench.begin_read();
    let third = bench.send(Call::read(ROOT_FID, 0, 64));
    assert!(bench.begun.recv_timeout(MOMENT).is_err(), "three at a time");
    bench.open.send(()).unwrap();
    bench.begun.recv().unwrap();
    for _ in 0..2 {
        bench.open.send(()).unwrap();
    }
    for read in [first, second, third] {
        bench.has_read(read);
    }
}
