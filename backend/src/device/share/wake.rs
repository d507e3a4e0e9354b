//! What wakes a share's thread besides its queue: requests that workers have finished, and the time to try parked locks.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// How often locks are tried that wait for somebody outside this daemon.
pub(super) const TRY_LOCKS_EVERY: Duration = Duration::from_millis(20);

/// One descriptor for both: an epoll instance, readable while either is.
pub(super) struct Wake {
    both: Epoll,
    event: EventFd,
    timer: rustix::fd::OwnedFd,
}

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        let both = Epoll::new()?;
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        for fd in [event.as_raw_fd(), timer.as_raw_fd()] {
            both.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0))?;
        }
        Ok(Self { both, event, timer })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.both.as_raw_fd()
    }

    /// Wakes the thread. From any thread, and never blocks.
    pub(super) fn now(&self) {
        // A full counter would mean that a wake is pending already.
        let _ = self.event.write(1);
    }

    /// Wakes the thread every [`TRY_LOCKS_EVERY`], or no longer.
    pub(super) fn regularly(&self, on: bool) {
        let every = if on { TRY_LOCKS_EVERY } else { Duration::ZERO };
        // Below a second.
        let every = Timespec { tv_sec: 0, tv_nsec: every.subsec_nanos().into() };
        let times = Itimerspec { it_interval: every, it_value: every };
        if let Err(cause) = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times) {
            log::error!("cannot set a timer: {cause}");
        }
    }

    /// Takes back the wakes so far.
    pub(super) fn consume(&self) {
        let _ = self.event.read();
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
    }
}
