//! A vring whose kick may be gone by the time it is read.
//!
//! The worker of `vhost-user-backend` waits for kicks by epoll and then reads them. Between the two a front end can stop the
//! ring and start it again with another descriptor, which has nothing to read: the worker would end, or block, and the device
//! with it. So a kick is read without waiting, and finding none is no error: a spurious call is harmless.

use std::fs::File;
use std::io;

use vhost_user_backend::{VringMutex, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::Error as QueueError;

use super::Memory;

type Inner = VringMutex<Memory>;

/// See the module.
#[derive(Clone)]
pub struct Vring(Inner);

impl<'a> VringStateGuard<'a, Memory> for Vring {
    type G = <Inner as VringStateGuard<'a, Memory>>::G;
}

impl<'a> VringStateMutGuard<'a, Memory> for Vring {
    type G = <Inner as VringStateMutGuard<'a, Memory>>::G;
}

impl VringT<Memory> for Vring {
    fn new(memory: Memory, max_queue_size: u16) -> Result<Self, QueueError> {
        Inner::new(memory, max_queue_size).map(Self)
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, Memory>>::G {
        self.0.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, Memory>>::G {
        self.0.get_mut()
    }

    fn add_used(&self, index: u16, len: u32) -> Result<(), QueueError> {
        self.0.add_used(index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.0.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.0.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.0.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.0.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.0.set_enabled(enabled);
    }

    fn set_queue_info(&self, descriptors: u64, avail: u64, used: u64) -> Result<(), QueueError> {
        self.0.set_queue_info(descriptors, avail, used)
    }

    fn queue_next_avail(&self) -> u16 {
        self.0.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.0.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, index: u16) {
        self.0.set_queue_next_used(index);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.0.queue_used_idx()
    }

    fn set_queue_size(&self, size: u16) {
        self.0.set_queue_size(size);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.0.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.0.set_queue_ready(ready);
    }

    fn set_kick(&self, file: Option<File>) {
        if let Some(file) = &file
            && let Err(cause) = not_blocking(file)
        {
            log::warn!("cannot make a kick's descriptor non-blocking: {cause}");
        }
        self.0.set_kick(file);
    }

    fn read_kick(&self) -> io::Result<bool> {
        match self.0.read_kick() {
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => Ok(self.0.get_ref().is_enabled()),
            kick => kick,
        }
    }

    fn set_call(&self, file: Option<File>) {
        self.0.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        self.0.set_err(file);
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
