//! A front end that stops a ring learns an index before which everything is completed: so a stop answers what is in flight.

use std::sync::mpsc::channel;
use std::time::Duration;

use calgary_tests::guest::ROOT_FID;
use calgary_tests::guest::ninep::Call;

use crate::bench::Bench;
use crate::gate::{CONTENT, Gate};
use crate::locks_on_a_far_file_system::{answers, tried};

const EIO: u32 = 5;

#[test]
fn a_pause_waits_for_a_read_in_flight_and_its_answer_is_there_afterwards() {
    let mut bench = Bench::new(Gate::slow(), Duration::from_secs(60), |share| share);
    let client = &mut bench.guest.shares[0].client;
    let read = client.submit(Call::read(ROOT_FID, 0, 64)).unwrap();
    client.kick().unwrap();
    bench.begun.recv().unwrap();
    let (done_sender, done) = channel();
    std::thread::scope(|scope| {
        let client = &mut bench.guest.shares[0].client;
        scope.spawn(move || done_sender.send(client.stop().unwrap()).unwrap());
        assert!(done.recv_timeout(Duration::from_millis(200)).is_err(), "the pause did not wait");
        bench.open.send(()).unwrap();
    });
    let base = done.recv().unwrap();
    let client = &mut bench.guest.shares[0].client;
    client.resume(base).unwrap();
    assert_eq!(client.collect(read).unwrap().data().unwrap(), CONTENT);
    assert_eq!(client.getattr(ROOT_FID, 1).unwrap_err().errno(), Some(EIO), "the session goes on");
}

#[test]
fn a_pause_does_not_wait_for_ever_and_says_that_the_outcome_is_unknown() {
    let mut bench =
        Bench::new(Gate::slow(), Duration::from_secs(60), |share| share.with_landing_limit(Duration::from_millis(20)));
    let client = &mut bench.guest.shares[0].client;
    let read = client.submit(Call::read(ROOT_FID, 0, 64)).unwrap();
    client.kick().unwrap();
    bench.begun.recv().unwrap();
    let client = &mut bench.guest.shares[0].client;
    let base = client.stop().unwrap();
    client.resume(base).unwrap();
    assert_eq!(client.collect(read).unwrap_err().errno(), Some(EIO));
    // The read ends after all, and disturbs nothing: the next one has an answer of its own.
    bench.open.send(()).unwrap();
    let read = client.submit(Call::read(ROOT_FID, 0, 64)).unwrap();
    client.kick().unwrap();
    bench.begun.recv().unwrap();
    bench.open.send(()).unwrap();
    assert_eq!(client.collect(read).unwrap().data().unwrap(), CONTENT);
}

#[test]
fn what_was_answered_before_it_began_never_begins() {
    let mut bench = Bench::new(Gate::slow(), Duration::from_secs(60), |share| {
        share.with_max_inflight(1).with_landing_limit(Duration::from_millis(20))
    });
    let submit = |bench: &mut Bench| {
        let client = &mut bench.guest.shares[0].client;
        let read = client.submit(Call::read(ROOT_FID, 0, 64)).unwrap();
        client.kick().unwrap();
        read
    };
    // The first read keeps the only thread, so that the second one waits for it, from one pause to the next.
    for begins in [true, false] {
        let read = submit(&mut bench);
        if begins {
            bench.begun.recv().unwrap();
        }
        while bench.share.stats().offloaded < if begins { 1 } else { 2 } {
            std::thread::yield_now();
        }
        let client = &mut bench.guest.shares[0].client;
        let base = client.stop().unwrap();
        client.resume(base).unwrap();
        assert_eq!(client.collect(read).unwrap_err().errno(), Some(EIO));
    }
    let third = submit(&mut bench);
    for _ in 0..3 {
        bench.open.send(()).unwrap();
    }
    let client = &mut bench.guest.shares[0].client;
    assert_eq!(client.collect(third).unwrap().data().unwrap(), CONTENT);
    assert_eq!(bench.begun.try_iter().count(), 1, "a request began of which the guest has its answer");
}

#[test]
fn a_pause_does_not_wait_for_ever_for_a_lock_that_is_being_tried() {
    let (mut bench, lock) = tried(|share| share.with_landing_limit(Duration::from_millis(20)));
    let client = &mut bench.guest.shares[0].client;
    let base = client.stop().unwrap();
    client.resume(base).unwrap();
    assert_eq!(client.collect(lock).unwrap_err().errno(), Some(EIO));
    answers(&mut bench);
}
