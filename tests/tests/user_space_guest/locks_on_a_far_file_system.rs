//! Where even a look at a lock may take for ever, parked locks cost one thread at most, and hold up neither the queue nor
//! its stop.

use std::time::Duration;

use calgary_tests::guest::ninep::{Call, LockRequest, Tag};
use calgary_tests::guest::{NinepError, ROOT_FID};
use calgaryd::device::share::ShareDevice;
use calgaryd::transport::Device;

use crate::bench::Bench;
use crate::gate::Gate;

const EIO: u32 = 5;
const LIMIT: Duration = Duration::from_secs(60);

/// A share of at most three threads, with a parked lock that a worker tries, kept by the file system.
pub(crate) fn tried(change: impl FnOnce(ShareDevice<Gate>) -> ShareDevice<Gate>) -> (Bench, Tag) {
    let mut bench = Bench::new(Gate::far(), LIMIT, |share| change(share.with_max_inflight(3)));
    let wanted = LockRequest { kind: 1, flags: 1, process: 1, client: b"guest", ..LockRequest::default() };
    let client = &mut bench.guest.shares[0].client;
    let lock = client.submit(Call::lock(ROOT_FID, &wanted)).unwrap();
    client.kick().unwrap();
    // The request itself looks at the lock, and once more when it is parked; then the device does from time to time.
    for look in 0..3 {
        bench.begun.recv().unwrap();
        if look < 2 {
            bench.open.send(()).unwrap();
        }
    }
    assert_eq!(bench.share.stats().parked, 1);
    (bench, lock)
}

pub(crate) fn answers(bench: &mut Bench) {
    assert_eq!(bench.guest.shares[0].client.getattr(ROOT_FID, 1).unwrap_err().errno(), Some(EIO));
}

/// The file system answers from now on.
fn let_go(bench: &Bench) {
    for _ in 0..1000 {
        bench.open.send(()).unwrap();
    }
}

#[test]
fn one_thread_tries_them_at_a_time() {
    let (mut bench, _) = tried(|share| share);
    // Each time that it is due, as the timer says.
    for _ in 0..10 {
        bench.share.wake();
    }
    answers(&mut bench);
    let_go(&bench);
}

#[test]
fn a_clunk_is_answered_meanwhile() {
    let (mut bench, _) = tried(|share| share);
    let client = &mut bench.guest.shares[0].client;
    client.walk(ROOT_FID, 5, &[]).unwrap();
    // It gives up locks, if there are any, so that parked ones are to be tried again.
    client.clunk(5).unwrap();
    let_go(&bench);
}

#[test]
fn a_flush_waits_apart_and_is_answered_after_the_lock() {
    let (mut bench, lock) = tried(|share| share);
    let client = &mut bench.guest.shares[0].client;
    let flush = client.submit(Call::flush(lock.0)).unwrap();
    client.kick().unwrap();
    answers(&mut bench);
    let client = &mut bench.guest.shares[0].client;
    assert!(!client.is_done(flush).unwrap());
    let_go(&bench);
    let client = &mut bench.guest.shares[0].client;
    assert_eq!(client.wait_any().unwrap(), lock);
    assert!(matches!(client.collect(lock), Err(NinepError::Dropped)));
    client.collect(flush).unwrap();
}

#[test]
fn a_new_driver_waits_for_no_lock_that_the_last_one_wanted() {
    let (mut bench, _) = tried(|share| share.with_landing_limit(Duration::from_millis(20)));
    bench.guest.reboot().unwrap();
    answers(&mut bench);
    assert_eq!(bench.share.stats().parked, 0);
    // What comes of the look at it is nobody's.
    let_go(&bench);
    let root = &mut bench.guest.shares[0].client;
    root.walk(ROOT_FID, 5, &[]).unwrap();
    root.clunk(5).unwrap();
    assert_eq!((bench.share.stats().parked, bench.share.stats().fids), (0, 1));
}
