//! Who polls, and for whom: the steps that are taken under the side core's lock.

/// What a member answers that is asked for the guest's kicks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::device) enum Rearmed {
    /// A kick will come with the next request.
    Asleep,
    /// There is work, and no kick may tell of it.
    Pending,
    /// Another thread is at it, and sees to the rest when it is done.
    Busy,
}

/// What becomes of a thread that has no work left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It polls for all.
    Polls,
    /// The one that polls watches its ring from now on.
    Watched,
    /// Nobody polls: it asks for kicks and sleeps.
    Sleeps,
}

/// How an attempt to stop polling ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resigned {
    /// Nobody polls any more.
    Asleep,
    /// There is work.
    Pending,
    /// Another thread polls already, or had to be asked first.
    Lost,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Roles {
    poller: Option<usize>,
    /// Which rings the poller looks at. Kept while it is away for something long.
    watched: Vec<bool>,
    /// Which members may take long, so that their own threads had best be the ones that serve them.
    long: Vec<bool>,
}

impl Roles {
    /// Another member; returns its number.
    pub(super) fn add(&mut self, may_take_long: bool) -> usize {
        self.watched.push(false);
        self.long.push(may_take_long);
        self.watched.len() - 1
    }

    pub(super) fn poller(&self) -> Option<usize> {
        self.poller
    }

    pub(super) fn watched(&self) -> impl Iterator<Item = usize> {
        (0..self.watched.len()).filter(|member| self.watched[*member])
    }

    /// Makes `me` the poller if nobody is, or one whose thread should rather be free. Says whether it is.
    fn take(&mut self, me: usize) -> bool {
        match self.poller {
            Some(other) if other != me && (self.long[other] || !self.long[me]) => false,
            _ => {
                self.poller = Some(me);
                true
            }
        }
    }

    /// The thread of `me` has no work left in its ring.
    pub(super) fn settle(&mut self, me: usize, may_poll: bool) -> Settled {
        if self.poller.is_none() && !may_poll {
            return Settled::Sleeps;
        }
        self.watched[me] = true;
        if self.take(me) { Settled::Polls } else { Settled::Watched }
    }

    /// The thread of `me`, which has looked at the rings of `mine`, finds that it may not be the poller any more. Whether it
    /// is again; if not, all of these are watched by another.
    pub(super) fn reclaim(&mut self, me: usize, mine: impl Iterator<Item = usize>) -> bool {
        mine.for_each(|member| self.watched[member] = true);
        self.take(me)
    }

    /// The poller has found nothing for long enough.
    pub(super) fn resign(&mut self, me: usize, mut rearm: impl FnMut(usize) -> Rearmed) -> Resigned {
        if self.poller != Some(me) {
            return Resigned::Lost;
        }
        // All of them, also when the first has work: what is asked for in vain costs a kick.
        if self.watched().filter(|member| rearm(*member) == Rearmed::Pending).count() > 0 {
            return Resigned::Pending;
        }
        self.end();
        Resigned::Asleep
    }

    /// The poller, if `me` is it, will be busy with the ring of `with` for a while: kicks wake the other threads meanwhile.
    pub(super) fn release(
        &mut self,
        me: usize,
        with: usize,
        rearm: impl FnMut(usize) -> Rearmed,
        rouse: impl FnMut(usize),
    ) -> bool {
        if self.poller != Some(me) {
            return false;
        }
        self.rouse_pending(|member| member != with, rearm, rouse);
        self.poller = None;
        true
    }

    /// The thread of `me`, which has looked at the rings of `mine`, ends.
    pub(super) fn leave(
        &mut self,
        me: usize,
        mine: impl Iterator<Item = usize>,
        rearm: impl FnMut(usize) -> Rearmed,
        rouse: impl FnMut(usize),
    ) {
        mine.for_each(|member| self.watched[member] = true);
        if self.poller.is_none_or(|poller| poller == me) {
            self.rouse_pending(|_| true, rearm, rouse);
            self.end();
        }
    }

    fn rouse_pending(
        &self,
        which: impl Fn(usize) -> bool,
        mut rearm: impl FnMut(usize) -> Rearmed,
        mut rouse: impl FnMut(usize),
    ) {
        for member in self.watched().filter(|member| which(*member)) {
            if rearm(member) == Rearmed::Pending {
                rouse(member);
            }
        }
    }

    fn end(&mut self) {
        self.poller = None;
        self.watched.fill(false);
    }
}
