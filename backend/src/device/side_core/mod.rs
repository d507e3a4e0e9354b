//! The side core: while traffic lasts, one thread of the daemon looks for work in the rings of all its devices, so that a
//! request costs the guest no exit and the daemon no wake-up; when traffic stops, it goes to sleep until the guest kicks.
//!
//! (Amit, Ben-Yehuda, Tsafrir, Schuster: vIOMMU, USENIX ATC 2011, had the idea for an emulated IOMMU.)
//!
//! Each device keeps the thread that its transport gives it. One that has no work left becomes *the poller*, or has its ring
//! *watched* by the thread that is it already, and sleeps with the guest's kicks suppressed. A guest behind the IOMMU maps,
//! asks the file server, and unmaps: one thread serves all three in turn.
//!
//! # Why no kick is lost
//!
//! A ring's kicks are suppressed only while somebody is bound to look at it. Four rules say who:
//!
//! 1. [`Roles`] changes under one lock. While there is a poller it looks at all watched rings. It resigns under that lock, after
//!    it has asked for kicks in each of them and has then found each empty.
//! 2. A ring is served under its device's own lock, which a thread that holds the lock of the roles only tries. When the
//!    poller, about to resign, finds it held, it leaves that ring to the holder. So every holder sees to its ring afterwards: a
//!    device's thread *settles* (it polls, has the ring watched, or asks for kicks itself), and a control call asks for kicks
//!    before it lets go, and wakes the device's thread if there is work.
//! 3. The holder sees to it later than the poller left it, because it settles under the lock of the roles after it let go of
//!    the ring.
//! 4. A poller whose role was taken away finds out before it leaves, because it looks at `changes` after each round, behind a
//!    sequentially consistent fence whose counterpart stands before every attempt at a ring's lock: either it sees the change,
//!    or it had let go of the ring. It then has all rings that it looked at watched by the new poller, or is the poller again.
//!
//! # What may take long
//!
//! The poller must not be away while others count on it. Before it does something long for a device it gives the role up:
//! kicks are asked for, so that each device's own thread serves meanwhile, and may become the poller. If what it does is not
//! for its own device, nobody would hear the kicks for that one: so the thread whose work it does is woken in its stead.
//! Where it does own work, none need be woken; that is why devices that may take long take the role from those that do not.
//!
//! Rings are served one after the other, between requests: no thread is inside a window or holds a pin on account of one
//! device when it serves another, so no UNMAP waits for a DMA of the thread that carries it out.

#[cfg(test)]
mod model;
mod roles;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

pub(super) use self::roles::Rearmed;
use self::roles::{Resigned, Roles, Settled};
use super::PollPolicy;
use super::poll::{Next, Poller};

/// Looks at each ring between two looks at the clock.
const LOOKS_PER_TICK: u32 = 32;

/// Why a ring is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visit {
    /// The guest has kicked.
    Kick,
    /// The device's own thread looks again, or was woken by something else.
    Again,
    /// The thread of this member polls.
    Poll(usize),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There was work, and some of it is done; the guest may not kick for the rest.
    Served,
    /// There was none.
    Nothing,
    /// Another thread is at it.
    Busy,
    /// The queue does not run, or its driver has to start it anew.
    Stopped,
}

/// A device on the side core.
pub(super) trait Member: Send + Sync {
    /// Serves some of what is in the device's ring. Waits for no lock that is held for long.
    fn turn(&self, visit: Visit) -> Turn;

    /// Asks for a kick at the next request; `asleep` says that nobody will look until then.
    fn rearm(&self, asleep: bool) -> Rearmed;

    /// Takes that back, if no other thread is at the ring.
    fn suppress(&self);

    /// Wakes the device's own thread.
    fn rouse(&self);
}

/// What the devices of a daemon share, so that one thread polls for all of them.
pub struct SideCore {
    state: Mutex<State>,
    /// Steps with each change that concerns the poller.
    changes: AtomicU64,
    members: AtomicUsize,
}

struct State {
    roles: Roles,
    members: Members,
    poller: Poller,
}

/// The devices by number; one that is gone is asleep.
#[derive(Default)]
struct Members(Vec<Weak<dyn Member>>);

impl Members {
    fn get(&self, number: usize) -> Option<Arc<dyn Member>> {
        self.0.get(number).and_then(Weak::upgrade)
    }

    fn rearm(&self, number: usize, asleep: bool) -> Rearmed {
        self.get(number).map_or(Rearmed::Asleep, |member| member.rearm(asleep))
    }

    fn rouse(&self, number: usize) {
        self.get(number).into_iter().for_each(|member| member.rouse());
    }
}

impl SideCore {
    /// A side core that polls as `policy` says.
    #[must_use]
    pub fn new(policy: PollPolicy) -> Arc<Self> {
        let state = State { roles: Roles::default(), members: Members::default(), poller: Poller::new(policy) };
        Arc::new(Self { state: Mutex::new(state), changes: AtomicU64::new(0), members: AtomicUsize::new(0) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the poller to look at the roles. Called under their lock.
    fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        // Rule 4.
        fence(Ordering::SeqCst);
    }
}

/// A device's place on a side core.
pub(super) struct Seat {
    core: Arc<SideCore>,
    number: usize,
    /// The poller that serves the device at the moment, plus one; 0 if that is its own thread, out of turn. Written under the
    /// device's lock.
    visitor: AtomicUsize,
}

impl Seat {
    /// A place for `member` on `core`. `may_take_long` says that its requests may.
    pub(super) fn new(core: &Arc<SideCore>, member: Weak<dyn Member>, may_take_long: bool) -> Self {
        let mut state = core.state();
        let number = state.roles.add(may_take_long);
        state.members.0.push(member);
        core.members.store(state.members.0.len(), Ordering::Relaxed);
        drop(state);
        Self { core: Arc::clone(core), number, visitor: AtomicUsize::new(0) }
    }

    /// Notes who serves the device now; the caller holds its lock.
    pub(super) fn visited(&self, visit: Visit) {
        let visitor = if let Visit::Poll(poller) = visit { poller + 1 } else { 0 };
        self.visitor.store(visitor, Ordering::Relaxed);
    }

    /// What a device's thread does when it was woken: serves `own`, and polls, or has others poll, until there is nothing
    /// to do.
    pub(super) fn attend(&self, own: &dyn Member, visit: Visit) {
        let core = &*self.core;
        let mut turn = own.turn(visit);
        loop {
            while turn == Turn::Served {
                turn = own.turn(Visit::Again);
            }
            if turn == Turn::Stopped {
                return;
            }
            match self.settle() {
                Settled::Watched => return,
                Settled::Polls => return Watch::new(core, self.number, own).run(),
                Settled::Sleeps if own.rearm(true) != Rearmed::Pending => return,
                Settled::Sleeps => turn = own.turn(Visit::Again),
            }
        }
    }

    fn settle(&self) -> Settled {
        let mut state = self.core.state();
        let may_poll = state.poller.polls();
        let settled = state.roles.settle(self.number, may_poll);
        if settled != Settled::Sleeps {
            self.core.note_change();
        }
        settled
    }

    /// Whether other devices count on the thread that serves this one; the caller holds the device's lock.
    pub(super) fn is_counted_on(&self) -> bool {
        self.visitor.load(Ordering::Relaxed) != 0 && self.core.members.load(Ordering::Relaxed) > 1
    }

    /// The calling thread, which serves this device, is about to do something that may take long.
    pub(super) fn before_long(&self) {
        if !self.is_counted_on() {
            return;
        }
        let core = &*self.core;
        let me = self.visitor.load(Ordering::Relaxed) - 1;
        let State { roles, members, .. } = &mut *core.state();
        core.note_change();
        let (rearm, rouse) = (|number| members.rearm(number, false), |number| members.rouse(number));
        if roles.release(me, self.number, rearm, rouse) && me != self.number {
            members.rouse(self.number);
        }
    }
}

/// The poller at work.
struct Watch<'a> {
    core: &'a SideCore,
    me: usize,
    own: &'a dyn Member,
    others: Vec<(usize, Arc<dyn Member>)>,
    seen: u64,
    /// As it was at the start, and what was learned since.
    poller: Poller,
    /// Nothing is left to see to.
    done: bool,
}

/// What a while of looking came to.
enum Found {
    Work,
    Nothing,
    /// The roles have changed.
    Change,
    /// The own queue has stopped.
    End,
}

impl<'a> Watch<'a> {
    fn new(core: &'a SideCore, me: usize, own: &'a dyn Member) -> Self {
        let poller = core.state().poller;
        // Before the first change: the roles are looked at first.
        Self { core, me, own, others: Vec::new(), seen: u64::MAX, poller, done: false }
    }

    fn run(mut self) {
        let mut vain_since = None;
        loop {
            match self.look() {
                Found::Work => {
                    self.poller.found();
                    vain_since = None;
                }
                Found::Change if self.reclaim() => {}
                Found::Change => break self.done = true,
                Found::End => break,
                Found::Nothing => {
                    let since = *vain_since.get_or_insert_with(Instant::now);
                    match self.poller.after(since.elapsed()) {
                        Next::Look => {}
                        Next::LetOthersRun => std::thread::yield_now(),
                        Next::GiveUp => match self.resign() {
                            Resigned::Asleep => break self.done = true,
                            Resigned::Pending => {
                                self.poller.found();
                                vain_since = None;
                            }
                            Resigned::Lost => vain_since = None,
                        },
                    }
                }
            }
        }
    }

    /// Serves what is in the rings, or looks a while in vain.
    fn look(&mut self) -> Found {
        let visit = Visit::Poll(self.me);
        for _ in 0..LOOKS_PER_TICK {
            // Rule 4.
            fence(Ordering::SeqCst);
            if self.core.changes.load(Ordering::Relaxed) != self.seen {
                return Found::Change;
            }
            let mut served = match self.own.turn(visit) {
                Turn::Stopped => return Found::End,
                turn => turn == Turn::Served,
            };
            for (_, member) in &self.others {
                served |= member.turn(visit) == Turn::Served;
            }
            if served {
                return Found::Work;
            }
            std::hint::spin_loop();
        }
        Found::Nothing
    }

    /// The rings that were looked at.
    fn mine(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.me).chain(self.others.iter().map(|(number, _)| *number))
    }

    /// Asks for the kicks of a ring, as nobody will look at it. The own device need not be among `members`: one that is used
    /// alone is not.
    fn rearm(&self, members: &Members, number: usize) -> Rearmed {
        if number == self.me { self.own.rearm(true) } else { members.rearm(number, true) }
    }

    fn rouse(&self, members: &Members, number: usize) {
        if number == self.me { self.own.rouse() } else { members.rouse(number) }
    }

    /// Looks at the roles again: whether this thread polls on, and for whom.
    fn reclaim(&mut self) -> bool {
        let mut state = self.core.state();
        let was_poller = state.roles.poller() == Some(self.me);
        if !state.roles.reclaim(self.me, self.mine()) {
            self.core.note_change();
            return false;
        }
        if !was_poller {
            self.core.note_change();
        }
        self.seen = self.core.changes.load(Ordering::Relaxed);
        let numbers = state.roles.watched().filter(|number| *number != self.me);
        self.others = numbers.filter_map(|number| Some((number, state.members.get(number)?))).collect();
        if !was_poller {
            self.others.iter().for_each(|(_, member)| member.suppress());
        }
        true
    }

    fn resign(&mut self) -> Resigned {
        let State { roles, members, poller } = &mut *self.core.state();
        if self.core.changes.load(Ordering::Relaxed) != self.seen {
            return Resigned::Lost;
        }
        self.core.note_change();
        self.seen += 1;
        let resigned = roles.resign(self.me, |number| self.rearm(members, number));
        if resigned == Resigned::Asleep {
            self.poller.in_vain();
            *poller = self.poller;
        }
        resigned
    }
}

/// However the poller ends: the others do not count on it any more.
impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let State { roles, members, poller } = &mut *self.core.state();
        self.core.note_change();
        let (rearm, rouse) = (|number| self.rearm(members, number), |number| self.rouse(members, number));
        roles.leave(self.me, self.mine(), rearm, rouse);
        *poller = self.poller;
    }
}
