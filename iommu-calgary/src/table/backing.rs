//! Table memory, aligned to its own size.

#[cfg(miri)]
pub(super) use heap::Backing;
#[cfg(not(miri))]
pub(super) use shared::Backing;

/// A shared, sealed memfd.
#[cfg(not(miri))]
mod shared {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::ptr::{self, NonNull};
    use std::sync::atomic::AtomicU64;

    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

    /// Zero-filled memory, shared with whoever gets the descriptor.
    #[derive(Debug)]
    pub(crate) struct Backing {
        base: NonNull<AtomicU64>,
        bytes: usize,
        file: OwnedFd,
    }

    // SAFETY: the pointer leads to memory that the backing owns until drop, and that is accessed as `AtomicU64` only.
    unsafe impl Send for Backing {}
    // SAFETY: as above.
    unsafe impl Sync for Backing {}

    impl Backing {
        /// `bytes`, a power of two of at least a page, at an address that is a multiple of it.
        pub(crate) fn new(bytes: usize) -> io::Result<Self> {
            let file = memfd_create("calgary-tce", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
            ftruncate(&file, bytes as u64)?;
            let base = map_aligned(&file, bytes)?;
            let backing = Self { base, bytes, file };
            // The mapping above stays writable: this seal only refuses later ones. Without the first two, a shrunk file
            // would take the memory from under the mapping.
            let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
            fcntl_add_seals(&backing.file, seals)?;
            Ok(backing)
        }

        pub(crate) fn base(&self) -> NonNull<AtomicU64> {
            self.base
        }

        pub(crate) fn file(&self) -> BorrowedFd<'_> {
            self.file.as_fd()
        }
    }

    impl Drop for Backing {
        fn drop(&mut self) {
            // SAFETY: the mapping is the backing's own, and whoever holds an address from a TAR keeps the table alive.
            let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
            debug_assert!(unmapped.is_ok());
        }
    }

    /// Maps all `bytes` of `file` at an address that is a multiple of `bytes`, a power of two.
    fn map_aligned(file: &OwnedFd, bytes: usize) -> io::Result<NonNull<AtomicU64>> {
        let reserved = bytes * 2;
        // SAFETY: a new private mapping at an address that the kernel chooses touches no memory in use.
        let start = unsafe {
            mmap_anonymous(ptr::null_mut(), reserved, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)?
        };
        let head = start.addr().next_multiple_of(bytes) - start.addr();
        let base = start.wrapping_byte_add(head);
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        // SAFETY: `base..base + bytes` lies inside the reservation made above, which nothing else uses.
        let table = match unsafe { mmap(base, bytes, access, flags, file, 0) } {
            Ok(table) => table,
            Err(error) => {
                // SAFETY: the reservation is still wholly ours.
                unsafe { munmap(start, reserved)? };
                return Err(error.into());
            }
        };
        for (address, length) in [(start, head), (base.wrapping_byte_add(bytes), reserved - bytes - head)] {
            if length > 0 {
                // SAFETY: what surrounds the table inside the reservation is unused.
                unsafe { munmap(address, length)? };
            }
        }
        NonNull::new(table.cast()).ok_or_else(|| io::Error::other("the table was mapped at address 0"))
    }
}

/// Memory from the allocator: Miri knows no memfd.
#[cfg(miri)]
mod heap {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::io;
    use std::ptr::NonNull;
    use std::sync::atomic::AtomicU64;

    /// Zero-filled memory.
    #[derive(Debug)]
    pub(crate) struct Backing {
        base: NonNull<AtomicU64>,
        layout: Layout,
    }

    // SAFETY: the pointer leads to memory that the backing owns until drop, and that is accessed as `AtomicU64` only.
    unsafe impl Send for Backing {}
    // SAFETY: as above.
    unsafe impl Sync for Backing {}

    impl Backing {
        pub(crate) fn new(bytes: usize) -> io::Result<Self> {
            let layout = Layout::from_size_align(bytes, bytes).map_err(io::Error::other)?;
            // SAFETY: the layout has a size.
            let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Self { base: base.cast(), layout })
        }

        pub(crate) fn base(&self) -> NonNull<AtomicU64> {
            self.base
        }
    }

    impl Drop for Backing {
        fn drop(&mut self) {
            // SAFETY: allocated in `new` with the same layout.
            unsafe { dealloc(self.base.as_ptr().cast(), self.layout) };
        }
    }
}
