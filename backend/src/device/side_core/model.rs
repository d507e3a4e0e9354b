//! Every interleaving of a small side core: two devices with their threads, a guest that makes requests and kicks when it is
//! asked to, and a control thread that borrows a ring.
//!
//! The steps are those of [`Roles`] and of a ring: each happens under one lock, so what can come between two of them is what
//! can come between two of them here. A lost kick is a state in which a request waits and nothing can happen any more.

use std::collections::HashSet;

use super::roles::{Rearmed, Resigned, Roles, Settled};

const DEVICES: usize = 2;

/// A ring, its lock and the descriptors that wake its thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Device {
    pending: bool,
    wants_kicks: bool,
    woken: bool,
    held: bool,
}

/// Where a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// In its epoll.
    Sleep,
    /// About to look at its own ring.
    Own,
    /// Holding its own ring.
    OwnHeld,
    Settle,
    RearmOwn,
    /// The poller about to look at this ring, or past the last one.
    Look(usize),
    /// Holding a ring with work.
    Serve(usize),
    /// The same, inside something long: the role was given up.
    Long(usize),
    Resign,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Thread {
    at: At,
    /// What the poller watches, as it last saw.
    watch: [bool; DEVICES],
    /// The roles have changed since.
    stale: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    roles: Roles,
    devices: [Device; DEVICES],
    threads: [Thread; DEVICES],
    /// Requests that the guest has yet to make for each device.
    to_come: [u8; DEVICES],
    /// The ring that the control thread holds, and how often it will borrow one.
    borrowed: Option<usize>,
    borrows: u8,
}

impl World {
    fn new(may_take_long: [bool; DEVICES], to_come: [u8; DEVICES], borrows: u8) -> Self {
        let mut roles = Roles::default();
        may_take_long.iter().for_each(|long| _ = roles.add(*long));
        let device = Device { wants_kicks: true, ..Device::default() };
        let thread = Thread { at: At::Sleep, watch: [false; DEVICES], stale: true };
        Self {
            roles,
            devices: [device.clone(), device],
            threads: [thread.clone(), thread],
            to_come,
            borrowed: None,
            borrows,
        }
    }

    fn note_change(&mut self) {
        self.threads.iter_mut().for_each(|thread| thread.stale = true);
    }

    /// All that can happen next.
    fn successors(&self) -> Vec<World> {
        let mut next = Vec::new();
        for device in 0..DEVICES {
            self.guest(device, &mut next);
            self.control(device, &mut next);
            self.thread(device, &mut next);
        }
        next
    }

    fn guest(&self, device: usize, next: &mut Vec<World>) {
        // One at a time: the next request follows the answer to this one.
        if self.to_come[device] > 0 && !self.devices[device].pending {
            let mut world = self.clone();
            world.to_come[device] -= 1;
            world.devices[device].pending = true;
            world.devices[device].woken |= world.devices[device].wants_kicks;
            next.push(world);
        }
    }

    fn control(&self, device: usize, next: &mut Vec<World>) {
        let mut world = self.clone();
        if self.borrowed == Some(device) {
            let held = &mut world.devices[device];
            (held.wants_kicks, held.held) = (true, false);
            held.woken |= held.pending;
            world.borrowed = None;
        } else if self.borrowed.is_none() && self.borrows > 0 && !self.devices[device].held {
            world.devices[device].held = true;
            world.borrowed = Some(device);
            world.borrows -= 1;
        } else {
            return;
        }
        next.push(world);
    }

    fn thread(&self, me: usize, next: &mut Vec<World>) {
        let mut world = self.clone();
        let thread = &mut world.threads[me];
        match thread.at {
            At::Sleep if self.devices[me].woken => {
                world.devices[me].woken = false;
                thread.at = At::Own;
            }
            At::Sleep => return,
            At::Own if self.devices[me].held => thread.at = At::Settle,
            At::Own => {
                thread.at = At::OwnHeld;
                world.devices[me].held = true;
            }
            At::OwnHeld => {
                let own = &mut world.devices[me];
                own.held = false;
                thread.at = if own.pending { At::Own } else { At::Settle };
                if own.pending {
                    (own.pending, own.wants_kicks) = (false, false);
                }
            }
            At::Settle => {
                // Whether the policy polls at the moment is nothing that the protocol may count on.
                for may_poll in [true, false] {
                    let mut world = self.clone();
                    let at = match world.roles.settle(me, may_poll) {
                        Settled::Polls => At::Look(0),
                        Settled::Watched => At::Sleep,
                        Settled::Sleeps => At::RearmOwn,
                    };
                    if at != At::RearmOwn {
                        world.note_change();
                    }
                    world.threads[me].at = at;
                    world.threads[me].watch = [false; DEVICES];
                    world.threads[me].watch[me] = true;
                    next.push(world);
                }
                return;
            }
            At::RearmOwn => {
                thread.at = if rearm(&mut world.devices[me]) == Rearmed::Pending { At::Own } else { At::Sleep };
            }
            At::Look(0) if thread.stale => world.reclaim(me),
            At::Look(DEVICES) => {
                // The policy may end at any time.
                let mut resigning = self.clone();
                resigning.threads[me].at = At::Resign;
                next.push(resigning);
                thread.at = At::Look(0);
            }
            At::Look(device) => {
                let ring = &mut world.devices[device];
                let served = thread.watch[device] && !ring.held && ring.pending;
                ring.held |= served;
                thread.at = if served { At::Serve(device) } else { At::Look(device + 1) };
            }
            At::Serve(device) => {
                let mut long = self.clone();
                long.release(me, device);
                next.push(long);
                world.finish(me, device);
            }
            At::Long(device) => world.finish(me, device),
            At::Resign => world.resign(me),
        }
        next.push(world);
    }

    fn finish(&mut self, me: usize, device: usize) {
        let ring = &mut self.devices[device];
        (ring.pending, ring.wants_kicks, ring.held) = (false, false, false);
        self.threads[me].at = At::Look(device + 1);
    }

    fn reclaim(&mut self, me: usize) {
        let watch = self.threads[me].watch;
        let mine = (0..DEVICES).filter(|device| watch[*device]);
        let was_poller = self.roles.poller() == Some(me);
        let polls = self.roles.reclaim(me, mine);
        if !(polls && was_poller) {
            self.note_change();
        }
        if !polls {
            self.threads[me].at = At::Sleep;
            return;
        }
        self.threads[me].stale = false;
        self.threads[me].watch = std::array::from_fn(|device| self.roles.watched().any(|watched| watched == device));
        if !was_poller {
            for (device, ring) in self.devices.iter_mut().enumerate().filter(|(_, ring)| !ring.held) {
                ring.wants_kicks &= device == me || !self.threads[me].watch[device];
            }
        }
    }

    fn resign(&mut self, me: usize) {
        if self.threads[me].stale {
            self.threads[me].at = At::Look(0);
            return;
        }
        let Self { roles, devices, .. } = self;
        let resigned = roles.resign(me, |device| rearm(&mut devices[device]));
        self.note_change();
        self.threads[me].stale = false;
        self.threads[me].at = if resigned == Resigned::Asleep { At::Sleep } else { At::Look(0) };
    }

    fn release(&mut self, me: usize, with: usize) {
        let Self { roles, devices, .. } = self;
        let mut roused = [false; DEVICES];
        let released = roles.release(me, with, |device| rearm(&mut devices[device]), |device| roused[device] = true);
        roused[with] |= released && me != with;
        for (device, roused) in self.devices.iter_mut().zip(roused) {
            device.woken |= roused;
        }
        self.note_change();
        self.threads[me].at = At::Long(with);
    }
}

fn rearm(device: &mut Device) -> Rearmed {
    if device.held {
        return Rearmed::Busy;
    }
    device.wants_kicks = true;
    if device.pending { Rearmed::Pending } else { Rearmed::Asleep }
}

/// Visits every state that can come of `start`, and hands each to `check` with whether anything can follow.
fn explore(start: World, mut check: impl FnMut(&World, bool)) -> usize {
    let (mut seen, mut open) = (HashSet::from([start.clone()]), vec![start]);
    while let Some(world) = open.pop() {
        let successors = world.successors();
        check(&world, successors.iter().all(|next| *next == world));
        for next in successors {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    seen.len()
}

/// Whether a request waits for the guest's kick although the guest was not asked for it: nobody looks, and nobody will.
fn is_lost(world: &World, device: usize) -> bool {
    let ring = &world.devices[device];
    let asleep = |thread: &Thread| thread.at == At::Sleep;
    ring.pending && !ring.woken && !ring.held && world.borrowed.is_none() && world.threads.iter().all(asleep)
}

#[test]
fn no_request_is_left_behind_in_any_order_of_events() {
    for long in [[false, true], [true, true], [false, false]] {
        for (to_come, borrows) in [([2, 2], 1), ([3, 2], 0), ([1, 2], 2)] {
            let states = explore(World::new(long, to_come, borrows), |world, ends| {
                for device in 0..DEVICES {
                    assert!(!is_lost(world, device), "a request of device {device} is lost: {world:#?}");
                }
                if ends {
                    assert!(world.devices.iter().all(|ring| ring.wants_kicks && !ring.held), "{world:#?}");
                }
            });
            assert!(states > 1000, "{states} states are not all");
        }
    }
}

#[test]
fn a_thread_inside_something_long_leaves_no_other_device_unheard() {
    for long in [[false, true], [true, true]] {
        explore(World::new(long, [2, 2], 0), |world, _| {
            for (me, thread) in world.threads.iter().enumerate() {
                let At::Long(with) = thread.at else { continue };
                let other = 1 - with;
                let ring = &world.devices[other];
                let free = &world.threads[1 - me];
                let heard =
                    !ring.pending || ring.held || ring.woken || free.at != At::Sleep || world.devices[1 - me].woken;
                assert!(heard, "device {other} waits for device {with}: {world:#?}");
            }
        });
    }
}
