//! Where even closing a file may take for ever, a driver that comes after another waits for none of its files, and is not
//! disturbed when they are closed at last.

use std::sync::mpsc::Sender;
use std::time::Duration;

use calgary_tests::guest::ROOT_FID;
use calgary_tests::guest::ninep::Call;

use crate::bench::Bench;
use crate::gate::Gate;
use crate::locks_on_a_far_file_system::answers;

/// A share with an open file, and what lets that be closed.
fn bench() -> (Bench, Sender<()>) {
    let (gate, close) = Gate::far_that_keeps_files();
    let change = |share: calgaryd::device::share::ShareDevice<Gate>| {
        share.with_max_inflight(3).with_landing_limit(Duration::from_millis(20))
    };
    (Bench::new(gate, Duration::from_secs(60), change), close)
}

#[test]
fn a_new_driver_waits_for_no_file_of_the_last_one() {
    let (mut bench, close) = bench();
    bench.guest.reboot().unwrap();
    answers(&mut bench);
    assert_eq!(bench.share.stats().fids, 1, "the root alone");
    close.send(()).unwrap();
}

#[test]
fn a_version_that_comes_late_leaves_the_next_driver_its_session() {
    let (mut bench, close) = bench();
    let client = &mut bench.guest.shares[0].client;
    client.submit(Call::version(8192, b"9P2000.L")).unwrap();
    client.kick().unwrap();
    while bench.share.stats().fids > 0 {
        std::thread::yield_now();
    }
    // The request has ended the session, and is kept by its file.
    bench.guest.reboot().unwrap();
    answers(&mut bench);
    let requests = bench.share.stats().requests;
    close.send(()).unwrap();
    while bench.share.stats().requests == requests {
        std::thread::yield_now();
    }
    answers(&mut bench);
    assert_eq!(bench.guest.shares[0].client.walk(ROOT_FID, 5, &[]).unwrap().len(), 0);
}
