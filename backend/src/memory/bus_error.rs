//! Bus errors in guest memory.
//!
//! Guest memory is in files of the front end, and whoever has such a file can shorten it at any time. An access beyond the
//! new end raises SIGBUS, which ends a process. Here it ends nothing: the page is replaced by an empty one of our own, and
//! the access goes on. What a guest loses that way, its front end took from it. Huge pages are not replaced: there the process
//! ends as before.

use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use iommu_calgary::PAGE_SIZE;

use super::host_len;

/// Mappings at a time that are protected: 512 for each of some 30 connections.
const SLOTS: usize = 16 * 1024;

/// A protected mapping; `start` is 0 in a slot that is free, 1 in one that is being filled.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
}

static TABLE: [Slot; SLOTS] = [const { Slot { start: AtomicUsize::new(FREE), end: AtomicUsize::new(0) } }; SLOTS];
const FREE: usize = 0;
const FILLING: usize = 1;

/// What to do about any other bus error: the action from before ours, leaked once.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

/// Protects a mapping of guest memory as long as it lives. It must not outlive the mapping.
pub(super) struct Guard(&'static Slot);

impl Guard {
    /// Protects `len` bytes at `host`; `None` if there are too many mappings already.
    pub(super) fn new(host: *mut u8, len: usize) -> Option<Self> {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(install);
        let slot = TABLE
            .iter()
            .find(|slot| slot.start.compare_exchange(FREE, FILLING, Ordering::AcqRel, Ordering::Relaxed).is_ok())?;
        slot.end.store(host.addr() + len, Ordering::Release);
        slot.start.store(host.addr(), Ordering::Release);
        Some(Self(slot))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.start.store(FREE, Ordering::Release);
    }
}

/// Whether `address` lies in a protected mapping.
fn is_protected(address: usize) -> bool {
    TABLE.iter().any(|slot| {
        let start = slot.start.load(Ordering::Acquire);
        start > FILLING && start <= address && address < slot.end.load(Ordering::Acquire)
    })
}

fn install() {
    // SAFETY: all zero bits are a valid `sigaction`; the call gets pointers to two of them, and the handler has the
    // signature that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus_error as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        let previous: &'static mut libc::sigaction = Box::leak(Box::new(std::mem::zeroed()));
        if libc::sigaction(libc::SIGBUS, &raw const action, previous) == 0 {
            PREVIOUS.store(previous, Ordering::Release);
        }
    }
}

/// Does nothing that a signal handler may not: atomics and system calls.
extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` of SIGBUS, which has an address.
    let address = unsafe { (*info).si_addr() };
    let page = host_len(PAGE_SIZE);
    let start = address.map_addr(|address| address & !(page - 1));
    // SAFETY: the page lies in a mapping that a live guard protects, and whoever faulted there is using that mapping, so it
    // is not unmapped meanwhile; all accesses to it are raw copies and atomics, for which any content will do.
    let replaced = is_protected(address.addr())
        && unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            libc::mmap(start, page, protection, flags, -1, 0) == start
        };
    if !replaced {
        // Not ours: the access is repeated under the action from before.
        // SAFETY: the pointer is null or to an action that is never freed.
        unsafe { libc::sigaction(libc::SIGBUS, PREVIOUS.load(Ordering::Acquire), std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

    use crate::dma::Dma;
    use crate::memory::GuestRam;

    #[test]
    fn a_file_that_is_shortened_under_a_device_reads_as_zeros() {
        let file = File::from(memfd_create("ram", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(0x4000).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let memory = GuestMemoryMmap::<()>::from_ranges_with_files([(GuestAddress(0), 0x4000, Some(offset))]).unwrap();
        let mut dma = Dma::direct();
        dma.set_memory(GuestRam::new(&memory));
        dma.enter().copy_out(0x0ffe, b"kept lost").unwrap();
        ftruncate(&file, 0x1000).unwrap();
        let mut bytes = [0xff; 9];
        dma.enter().copy_in(0x0ffe, &mut bytes).unwrap();
        assert_eq!(&bytes, b"ke\0\0\0\0\0\0\0");
        dma.enter().copy_out(0x3000, b"nowhere").unwrap();
        dma.enter().store_u16(0x2000, 7).unwrap();
        assert_eq!(dma.enter().load_u16(0x2000), Ok(7));
        dma.set_memory(GuestRam::empty());
        drop(Arc::new(memory));
    }
}
