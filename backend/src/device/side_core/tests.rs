use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, OnceLock};
use std::time::Duration;

use super::*;

/// A device whose guest makes requests one after the other and kicks only when it is asked to.
#[derive(Default)]
struct Fake {
    /// Requests made, and how many of them are served.
    made: AtomicUsize,
    served: AtomicUsize,
    wants_kicks: AtomicUsize,
    lock: Mutex<()>,
    stopped: AtomicBool,
    seat: OnceLock<Seat>,
    epoll: Mutex<Wakes>,
    woken: Condvar,
    kicks: AtomicUsize,
    /// Who served last: a poller plus one.
    visitor: AtomicUsize,
    /// What a request that takes long tells when it has begun, and what it waits for.
    gate: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

/// What a device's thread waits for.
#[derive(Default)]
struct Wakes {
    kick: bool,
    other: bool,
    end: bool,
}

impl Fake {
    fn on(core: &Arc<SideCore>, may_take_long: bool) -> Arc<Self> {
        let fake = Arc::new(Self { wants_kicks: AtomicUsize::new(1), ..Self::default() });
        let member: Weak<Self> = Arc::downgrade(&fake);
        assert!(fake.seat.set(Seat::new(core, member, may_take_long)).is_ok());
        fake
    }

    fn wake(&self, set: impl FnOnce(&mut Wakes)) {
        set(&mut self.epoll.lock().unwrap());
        self.woken.notify_all();
    }

    /// The device's thread.
    fn run(&self) {
        loop {
            let mut wakes = self.epoll.lock().unwrap();
            while !(wakes.kick || wakes.other || wakes.end) {
                wakes = self.woken.wait(wakes).unwrap();
            }
            if wakes.end {
                return;
            }
            let visit = if wakes.kick { Visit::Kick } else { Visit::Again };
            *wakes = Wakes::default();
            drop(wakes);
            self.seat.get().unwrap().attend(self, visit);
        }
    }

    /// The guest makes a request.
    fn offer(&self) {
        self.made.fetch_add(1, Ordering::SeqCst);
        if self.wants_kicks.load(Ordering::SeqCst) == 1 {
            self.kicks.fetch_add(1, Ordering::Relaxed);
            self.wake(|wakes| wakes.kick = true);
        }
    }

    /// The guest waits for the answers to all its requests; says whether they came.
    fn wait(&self) -> bool {
        eventually(|| !self.is_pending())
    }

    fn is_pending(&self) -> bool {
        self.served.load(Ordering::SeqCst) < self.made.load(Ordering::SeqCst)
    }
}

impl Member for Fake {
    fn turn(&self, visit: Visit) -> Turn {
        let Ok(_held) = self.lock.try_lock() else { return Turn::Busy };
        if self.stopped.load(Ordering::SeqCst) {
            return Turn::Stopped;
        }
        if !self.is_pending() {
            return Turn::Nothing;
        }
        let seat = self.seat.get().unwrap();
        seat.visited(visit);
        self.visitor.store(seat.visitor.load(Ordering::Relaxed), Ordering::Relaxed);
        self.wants_kicks.store(0, Ordering::SeqCst);
        // Every third request may take long.
        let served = self.served.load(Ordering::SeqCst);
        if served % 3 == 2 {
            seat.before_long();
        }
        if let Some((begun, open)) = self.gate.lock().unwrap().take() {
            seat.before_long();
            begun.send(()).unwrap();
            open.recv().unwrap();
        }
        self.served.store(served + 1, Ordering::SeqCst);
        Turn::Served
    }

    fn rearm(&self, _asleep: bool) -> Rearmed {
        let Ok(_held) = self.lock.try_lock() else { return Rearmed::Busy };
        self.wants_kicks.store(1, Ordering::SeqCst);
        if self.is_pending() { Rearmed::Pending } else { Rearmed::Asleep }
    }

    fn suppress(&self) {
        if let Ok(_held) = self.lock.try_lock() {
            self.wants_kicks.store(0, Ordering::SeqCst);
        }
    }

    fn rouse(&self) {
        self.wake(|wakes| wakes.other = true);
    }
}

/// Runs a thread for each device while `guest` does something, which must not fail before the threads end.
fn with_threads<T>(devices: &[Arc<Fake>], guest: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        for device in devices {
            scope.spawn(|| device.run());
        }
        let outcome = guest();
        for device in devices {
            device.stopped.store(true, Ordering::SeqCst);
            device.wake(|wakes| wakes.end = true);
        }
        outcome
    })
}

#[test]
fn every_request_is_served_whoever_polls() {
    for policy in [PollPolicy::For(Duration::from_micros(3)), PollPolicy::Auto, PollPolicy::Off] {
        let core = SideCore::new(policy);
        let devices = [false, true, true].map(|long| Fake::on(&core, long));
        with_threads(&devices, || {
            std::thread::scope(|scope| {
                for (number, device) in devices.iter().enumerate() {
                    scope.spawn(move || {
                        for round in 0..2000 {
                            device.offer();
                            if !device.wait() {
                                break;
                            }
                            // So that the poller sleeps now and then.
                            (0..(round * (number + 3)) % 7).for_each(|_| std::thread::yield_now());
                        }
                    });
                }
            });
        });
        for device in devices {
            assert_eq!(device.served.load(Ordering::Relaxed), 2000);
        }
    }
}

/// Makes a request and waits until the device's thread is done with it.
fn use_once(device: &Fake) {
    device.offer();
    let seat = device.seat.get().unwrap();
    let is_watched = || seat.core.state().roles.watched().any(|number| number == seat.number);
    assert!(device.wait() && eventually(is_watched));
}

fn poller(core: &SideCore) -> Option<usize> {
    core.state().roles.poller()
}

#[test]
fn one_thread_polls_for_all_and_it_is_one_that_may_take_long() {
    let core = SideCore::new(PollPolicy::Always);
    let devices = [false, true].map(|long| Fake::on(&core, long));
    let [quick, long] = &devices;
    let seen = with_threads(&devices, || {
        use_once(quick);
        let first = poller(&core);
        use_once(long);
        let second = poller(&core);
        let kicks = quick.kicks.load(Ordering::Relaxed);
        quick.offer();
        assert!(quick.wait());
        (first, second, quick.kicks.load(Ordering::Relaxed) - kicks, quick.visitor.load(Ordering::Relaxed))
    });
    assert_eq!(seen, (Some(0), Some(1), 0, 2), "first poller, second poller, kicks, visitor");
}

#[test]
fn a_poller_that_sleeps_or_whose_queue_stops_asks_for_all_kicks() {
    for policy in [PollPolicy::For(Duration::from_micros(500)), PollPolicy::Always] {
        let core = SideCore::new(policy);
        let devices = [false, true].map(|long| Fake::on(&core, long));
        let [quick, long] = &devices;
        let asked = with_threads(&devices, || {
            devices.iter().for_each(|device| device.offer());
            assert!(devices.iter().all(|device| device.wait()));
            if policy == PollPolicy::Always {
                devices.iter().for_each(|device| use_once(device));
                long.stopped.store(true, Ordering::SeqCst);
            }
            let asked = eventually(|| quick.wants_kicks.load(Ordering::SeqCst) == 1 && poller(&core).is_none());
            if asked {
                // And they are heard.
                quick.offer();
            }
            asked && quick.wait()
        });
        assert!(asked, "{policy:?}");
        assert_ne!(core.state().poller, Poller::new(policy), "{policy:?}: what the polling came to is forgotten");
    }
}

#[test]
fn whatever_takes_long_keeps_no_other_device_waiting() {
    // The poller is the thread of the second device, whichever device it works for.
    for slow in [0, 1] {
        let core = SideCore::new(PollPolicy::Always);
        let devices = [false, true].map(|long| Fake::on(&core, long));
        let served = with_threads(&devices, || {
            devices.iter().for_each(|device| use_once(device));
            let ((begun, has_begun), (open, is_open)) = (channel(), channel());
            *devices[slow].gate.lock().unwrap() = Some((begun, is_open));
            devices[slow].offer();
            has_begun.recv().unwrap();
            let other = &devices[1 - slow];
            (0..5).for_each(|_| other.offer());
            let served = other.wait();
            open.send(()).unwrap();
            (0..5).for_each(|_| other.offer());
            served && devices.iter().all(|device| device.wait())
        });
        assert!(served, "device {slow} kept the other waiting");
    }
}

/// Whether `is_so` comes true within what a slow machine may need.
fn eventually(is_so: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > Duration::from_secs(60) {
            return false;
        }
        std::thread::yield_now();
    }
    true
}
