//! A vring that waits for no front end: neither for a kick that is gone by the time it is read, nor to interrupt.
//!
//! The worker of `vhost-user-backend` waits for kicks by epoll and then reads them. Between the two a front end can stop the
//! ring and start it again with another descriptor, which has nothing to read: the worker would end, or block, and the device
//! with it. So a kick is read without waiting, and finding none is no error: a spurious call is harmless.
//!
//! The descriptor for interrupts is kept here, not in the crate's vring, which would wait for a front end whose counter is full.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use vhost_user_backend::{VringMutex, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::Error as QueueError;

use super::Memory;
use crate::transport::eventfd::{adopt, fire};

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
        if let Some(file) = &file
            && let Err(cause) = not_blocking(file)
        {
            log::warn!("cannot make a kick's descriptor non-blocking: {cause}");
        }
        self.ring.set_kick(file);
    }

    fn read_kick(&self) -> io::Result<bool> {
        match self.ring.read_kick() {
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => Ok(self.ring.get_ref().is_enabled()),
            kick => kick,
        }
    }

    fn set_call(&self, file: Option<File>) {
        let call = file.and_then(|file| {
            let refused =
                |cause: &io::Error| log::warn!("a queue goes without interrupts: its call descriptor: {cause}");
            adopt(file.into()).inspect_err(refused).ok()
        });
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = call;
    }

    fn set_err(&self, file: Option<File>) {
        self.ring.set_err(file);
    }
}

fn not_blocking(file: &File) -> rustix::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    rustix::fs::fcntl_setfl(file, flags | rustix::fs::OFlags::NONBLOCK)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{FromRawFd, IntoRawFd};

    use vm_memory::GuestMemoryMmap;
    use vmm_sys_util::eventfd::EventFd;

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
    fn a_kick_that_is_gone_ends_nothing_even_on_a_blocking_descriptor() {
        let vring = Vring::new(Memory::new(GuestMemoryMmap::new()), 16).unwrap();
        vring.set_enabled(true);
        let kick = EventFd::new(0).unwrap();
        let theirs = kick.try_clone().unwrap();
        // SAFETY: the descriptor was just given up by its owner.
        vring.set_kick(Some(unsafe { File::from_raw_fd(kick.into_raw_fd()) }));
        assert!(vring.read_kick().unwrap());
        theirs.write(1).unwrap();
        assert!(vring.read_kick().unwrap());
        assert!(vring.read_kick().unwrap());
        vring.set_enabled(false);
        assert!(!vring.read_kick().unwrap());
    }
}
