//! Doorbells, and the thread that they wake.
//!
//! Ringing one adds to an eventfd and returns: what a kick costs does not depend on what the queue does. While the device
//! polls its queue nobody reads the eventfd, and the driver, told so by the ring, does not kick at all.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use log::error;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::lane::Progress;
use crate::transport::Device;

/// Two eventfds for each queue, and one that ends the thread.
pub(super) struct Doorbells {
    queues: Vec<EventFd>,
    /// Given to the client. They are watched for edges and never read or written here, because a client can make its
    /// own descriptor one that blocks.
    offered: Vec<EventFd>,
    wake: EventFd,
    ended: AtomicBool,
}

impl Doorbells {
    /// Doorbells for `queues` queues.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new(queues: usize) -> io::Result<Arc<Self>> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let events = || (0..queues).map(|_| event()).collect::<io::Result<_>>();
        Ok(Arc::new(Self { queues: events()?, offered: events()?, wake: event()?, ended: AtomicBool::new(false) }))
    }

    /// Kicks `queue`, if there is one.
    pub(super) fn ring(&self, queue: usize) {
        if let Some(event) = self.queues.get(queue) {
            // A full counter has not been read yet: the thread will come.
            let _ = event.write(1);
        }
    }

    /// The descriptors, which a client may write to instead of sending a message.
    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        // SAFETY: the events live as long as `self`, which the result borrows.
        self.offered.iter().map(|event| unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }).collect()
    }
}

/// The thread that serves the queues. Dropping it ends it; queues should have been stopped by then.
pub(super) struct Service {
    doorbells: Arc<Doorbells>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts the thread.
    ///
    /// # Errors
    /// No descriptor or thread is left.
    pub(super) fn start(
        device: Arc<dyn Device>,
        doorbells: Arc<Doorbells>,
        progress: Arc<Progress>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let watch = |fd, set, data: usize| epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(set, data as u64));
        for (queue, (own, offered)) in doorbells.queues.iter().zip(&doorbells.offered).enumerate() {
            watch(own.as_raw_fd(), EventSet::IN, queue)?;
            watch(offered.as_raw_fd(), EventSet::IN | EventSet::EDGE_TRIGGERED, queue)?;
        }
        let end = doorbells.queues.len();
        watch(doorbells.wake.as_raw_fd(), EventSet::IN, end)?;
        if let Some(fd) = device.wake_fd() {
            watch(fd, EventSet::IN, end + 1)?;
        }
        let own = Arc::clone(&doorbells);
        let thread = std::thread::Builder::new()
            .name("vfio-user queues".to_owned())
            .spawn(move || serve(&epoll, &*device, &own, &progress))?;
        Ok(Self { doorbells, thread: Some(thread) })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.doorbells.ended.store(true, Ordering::Release);
        let _ = self.doorbells.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(epoll: &Epoll, device: &dyn Device, doorbells: &Doorbells, progress: &Progress) {
    let mut events = vec![EpollEvent::default(); 2 * doorbells.queues.len() + 2];
    while !doorbells.ended.load(Ordering::Acquire) {
        let ready = match epoll.wait(-1, &mut events) {
            Ok(ready) => ready,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => {
                error!("{}: cannot wait for kicks: {cause}", device.identity().name);
                return;
            }
        };
        for event in &events[..ready] {
            let number = usize::try_from(event.data()).unwrap_or(usize::MAX);
            match doorbells.queues.get(number) {
                Some(doorbell) => {
                    let _ = doorbell.read();
                    if progress.kicked(number) {
                        device.service(number);
                    }
                }
                None if number > doorbells.queues.len() => device.wake(),
                None => {}
            }
        }
    }
}
