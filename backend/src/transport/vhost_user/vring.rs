//! A vring that waits for no front end: neither for a kick that is gone by the time it is read, nor to interrupt.
//!
//! The worker of `vhost-user-backend` waits for kicks by epoll and then reads them. Between the two a front end can stop the
//! ring and start it again with another descriptor, which has nothing to read: the worker would end, or block, and the device
//! with it. A front end can also make its descriptor one that blocks. So a kick is read without waiting, whatever the
//! descriptor says, and finding none is no error: a spurious call is harmless.
//!
//! The descriptor for interrupts is kept here, not in the crate's vring, which would wait for a front end whose counter is full.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use vhost_user_backend::{VringMutex, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::Error as QueueError;

use super::Memory;
use crate::transport::eventfd::{adopt, fire, take};

type Inner = VringMutex<Memory>;

/// See the module.
#[derive(Clone)]
pub struct Vring {
    ring: Inner,
    call: Arc<Mutex<Option<OwnedFd>>>,
}

impl<'a> VringStateGuard<'a, Memory> for Vring {
    type G = <Inner as VringStateGuard<'a, Memory>>::G;
}

impl<'a> VringStateMutGuard<'a, Memory> for Vring {
    type G = <Inner as VringStateMutGuard<'a, Memory>>::G;
}

impl VringT<Memory> for Vring {
    fn new(memory: Memory, max_queue_size: u16) -> Result<Self, QueueError> {
        Ok(Self { ring: Inner::new(memory, max_queue_size)?, call: Arc::default() })
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, Memory>>::G {
        self.ring.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, Memory>>::G {
        self.ring.get_mut()
    }

    fn add_used(&self, index: u16, len: u32) -> Result<(), QueueError> {
        self.ring.add_used(index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        if let Some(call) = &*self.call.lock().unwrap_or_else(PoisonError::into_inner) {
            fire(call);
        }
        Ok(())
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.ring.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.ring.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.ring.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.ring.set_enabled(enabled);
    }

    fn set_queue_info(&self, descriptors: u64, avail: u64, used: u64) -> Result<(), QueueError> {
        self.ring.set_queue_info(descriptors, avail, used)
    }

    fn queue_next_avail(&self) -> u16 {
        self.ring.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.ring.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, index: u16) {
        self.ring.set_queue_next_used(index);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.ring.queue_used_idx()
    }

    fn set_queue_size(&self, size: u16) {
        self.ring.set_queue_size(size);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.ring.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.ring.set_queue_ready(ready);
    }

    fn set_kick(&self, file: Option<File>) {
        let kick = file.and_then(|file| {
            let refused =
                |cause: &io::Error| log::warn!("a queue does not start: its kick descriptor: {cause}; pass an eventfd");
            adopt(file.into()).inspect_err(refused).ok()
        });
        self.ring.set_kick(kick.map(File::from));
    }

    fn read_kick(&self) -> io::Result<bool> {
        let ring = self.ring.get_ref();
        if let Some(kick) = ring.get_kick() {
            // SAFETY: the ring, which owns the descriptor, is locked for as long as the borrow lasts.
            let kick = unsafe { BorrowedFd::borrow_raw(kick.as_raw_fd()) };
            match take(kick) {
                Err(cause) if cause.kind() != io::ErrorKind::WouldBlock => return Err(cause),
                _ => {}
            }
        }
        Ok(ring.is_enabled())
    }

    fn set_call(&self, file: Option<File>) {
        let call = file.and_then(|file| {
            let refused = |cause: &io::Error| {
                log::warn!("a queue goes without interrupts: its call descriptor: {cause}; pass an eventfd");
            };
            adopt(file.into()).inspect_err(refused).ok()
        });
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = call;
    }

    fn set_err(&self, file: Option<File>) {
        self.ring.set_err(file);
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};
    use vm_memory::GuestMemoryMmap;

    use super::*;
    use crate::transport::Interrupt;
    use crate::transport::eventfd::tests::full_and_blocking;

    #[test]
    fn an_interrupt_waits_for_no_front_end() {
        let vring = Vring::new(Memory::new(GuestMemoryMmap::new()), 16).unwrap();
        let theirs = full_and_blocking();
        vring.set_call(Some(theirs.try_clone().unwrap().into()));
        rustix::fs::fcntl_setfl(&theirs, rustix::fs::OFlags::empty()).unwrap();
        let (done, told) = std::sync::mpsc::channel();
        let interrupted = vring.clone();
        std::thread::spawn(move || {
            interrupted.signal();
            done.send(()).unwrap();
        });
        told.recv_timeout(std::time::Duration::from_secs(60)).expect("the device waits for the front end");
        vring.set_call(None);
        vring.signal();
    }

    #[test]
    fn a_kick_that_is_gone_ends_nothing_and_is_not_waited_for() {
        let vring = Vring::new(Memory::new(GuestMemoryMmap::new()), 16).unwrap();
        let theirs = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        vring.set_kick(Some(theirs.try_clone().unwrap().into()));
        rustix::fs::fcntl_setfl(&theirs, rustix::fs::OFlags::empty()).unwrap();
        let (done, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            vring.set_enabled(true);
            assert!(vring.read_kick().unwrap());
            rustix::io::write(&theirs, &1_u64.to_ne_bytes()).unwrap();
            assert!(vring.read_kick().unwrap());
            assert!(vring.read_kick().unwrap());
            vring.set_enabled(false);
            assert!(!vring.read_kick().unwrap());
            done.send(()).unwrap();
        });
        told.recv_timeout(std::time::Duration::from_secs(60)).expect("it waits for a kick, or fails");
    }

    #[test]
    fn a_kick_that_is_no_eventfd_is_refused() {
        let vring = Vring::new(Memory::new(GuestMemoryMmap::new()), 16).unwrap();
        vring.set_kick(Some(tempfile::tempfile().unwrap()));
        assert!(vring.get_ref().get_kick().is_none());
    }
}
