//! Where a page of this process lies in the machine's memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::mm::mlock;

use crate::addr::PAGE_SIZE;

/// Finds host-physical pages and keeps them in place.
pub trait PageResolver {
    /// Locks the page at `address` of this process, a multiple of 4096, and returns its host-physical address. Asked
    /// again, the answer is the same.
    ///
    /// # Errors
    /// The page cannot be locked, or its place is not told.
    fn resolve(&mut self, address: usize) -> io::Result<u64>;
}

/// The kernel's own table of where pages are, `/proc/self/pagemap` (Linux, `admin-guide/mm/pagemap.rst`).
#[derive(Debug)]
pub struct Pagemap {
    file: File,
}

impl Pagemap {
    const PRESENT: u64 = 1 << 63;
    const FRAME_MASK: u64 = (1 << 55) - 1;

    /// The page map of this process.
    ///
    /// # Errors
    /// It cannot be opened, or pages are not of 4 KiB.
    pub fn open() -> io::Result<Self> {
        if rustix::param::page_size() as u64 != PAGE_SIZE {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel's pages are not of 4 KiB, as TCEs need them",
            ));
        }
        Ok(Self::from_file(File::open("/proc/self/pagemap")?))
    }

    /// A page map in a file of the same layout: one entry of 64 bits for each page of the address space.
    #[must_use]
    pub fn from_file(file: File) -> Self {
        Self { file }
    }
}

impl PageResolver for Pagemap {
    fn resolve(&mut self, address: usize) -> io::Result<u64> {
        // SAFETY: locking changes nothing that the program sees. What is no mapping of ours is an error.
        unsafe { mlock(std::ptr::without_provenance_mut(address), 1)? };
        let mut entry = [0; size_of::<u64>()];
        self.file.read_exact_at(&mut entry, address as u64 / PAGE_SIZE * size_of::<u64>() as u64)?;
        let entry = u64::from_ne_bytes(entry);
        if entry & Self::PRESENT == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("the page at {address:#x} is not in memory")));
        }
        match entry & Self::FRAME_MASK {
            0 => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the page map hides where pages are; run with CAP_SYS_ADMIN",
            )),
            frame => Ok(frame * PAGE_SIZE),
        }
    }
}
