//! The driver's end of an interrupt: an eventfd to wait for.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// An eventfd that the device's side writes.
#[derive(Debug)]
pub(super) struct Call {
    event: EventFd,
    epoll: Epoll,
}

impl Call {
    pub(super) fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        let epoll = Epoll::new()?;
        epoll.ctl(ControlOperation::Add, event.as_raw_fd(), EpollEvent::new(EventSet::IN, 0))?;
        Ok(Self { event, epoll })
    }

    pub(super) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Sleeps until it is written, at most `timeout`; says whether it was.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<bool> {
        // Rounded up, or a last fraction of a millisecond would be spent spinning.
        let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
        let milliseconds = i32::try_from(milliseconds).unwrap_or(i32::MAX);
        match self.epoll.wait(milliseconds, &mut [EpollEvent::default()]) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(error) => return Err(error),
        }
        match self.event.read() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}
