//! Opening and creating regular files, and the I/O on open ones.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::{Mode, OFlags};

use super::Passthrough;
use super::create::{Fresh, STORED_FILE, undo};
use super::descriptor::{Descriptor, InUse};
use super::directory::Stream;
use super::lock::Held;
use super::mounts::{Mount, Move, Way};
use super::node::{FileKind, Inode};
use super::pool::Reclaim;
use super::rawio::{self, Now};
use crate::errno::Errno;
use crate::fs::{Hindrance, Owner, Patience};
use crate::limits::RACE_RETRIES;
use crate::name::Name;
use crate::segment::{Readable, Writable};
use crate::session::lock;
use crate::wire::{OpenFlags, Qid};

/// An open file, whose descriptor may be closed while it is not used.
pub(super) struct OpenFile {
    descriptor: Descriptor,
    /// Whether the inode's descriptor stands in for this one: a file that was created has one for both.
    shared: AtomicBool,
    /// The file, for what its open descriptor does not allow.
    pub(super) inode: Arc<Inode>,
    access: u32,
    /// With what the descriptor is opened again.
    flags: OFlags,
    mount: Arc<Mount>,
    /// How often it was; held while it is.
    openings: Mutex<()>,
    opening: AtomicU32,
    pub(super) stream: Mutex<Stream>,
    pub(super) locks: Mutex<Held>,
}

impl OpenFile {
    #[inline]
    fn new(fd: OwnedFd, inode: &Arc<Inode>, access: u32, flags: OFlags) -> Arc<OpenFile> {
        let listed = inode.host.pool.opened();
        inode.io_open.fetch_add(1, Ordering::Release);
        OpenFile::with(Descriptor::new(fd, !listed), inode, access, flags)
    }

    /// A file that was created by opening the descriptor of `inode`, which counts it already.
    #[inline]
    fn created(inode: &Arc<Inode>, access: u32, flags: OFlags) -> Arc<OpenFile> {
        OpenFile::with(Descriptor::closed(inode.is_fixed()), inode, access, flags)
    }

    #[inline]
    fn with(descriptor: Descriptor, inode: &Arc<Inode>, access: u32, flags: OFlags) -> Arc<OpenFile> {
        let mount = inode.host.mounts.of(inode.id().device);
        let file = Arc::new(OpenFile {
            mount,
            shared: AtomicBool::new(!descriptor.is_open()),
            descriptor,
            inode: inode.clone(),
            access,
            flags: flags.difference(OFlags::TRUNC | OFlags::CREATE | OFlags::EXCL),
            openings: Mutex::default(),
            opening: AtomicU32::new(0),
            stream: Mutex::default(),
            locks: Mutex::default(),
        });
        if !file.descriptor.is_fixed() {
            let weak: Weak<OpenFile> = Arc::downgrade(&file);
            inode.host.pool.list(weak);
        }
        file
    }

    /// The descriptor, opened again if it was closed.
    #[inline]
    pub(super) fn fd(&self) -> Result<InUse<'_>, Errno> {
        match self.acquire() {
            Some(fd) => Ok(fd),
            None => self.open_again(),
        }
    }

    #[inline]
    fn acquire(&self) -> Option<InUse<'_>> {
        if !self.shared.load(Ordering::Acquire) {
            return self.descriptor.acquire();
        }
        // It may have been closed, and opened again as a mere `O_PATH` one, before this use of it was counted.
        self.inode.acquire().filter(|_| self.shared.load(Ordering::Acquire))
    }

    #[cold]
    fn open_again(&self) -> Result<InUse<'_>, Errno> {
        let host = &self.inode.host;
        loop {
            host.pool.make_room()?;
            let opening = lock(&self.openings);
            if !self.shared.load(Ordering::Acquire) && !self.descriptor.is_open() {
                let path = self.inode.fd()?;
                let fd = host.as_process(|| host.proc_fds.reopen(path.as_fd(), self.flags))?;
                self.inode.io_open.fetch_add(1, Ordering::Release);
                host.pool.opened();
                self.opening.fetch_add(1, Ordering::Relaxed);
                self.descriptor.fill(fd);
            }
            drop(opening);
            // Another thread in need may have closed it at once.
            if let Some(fd) = self.acquire() {
                return Ok(fd);
            }
        }
    }

    /// Which opening of the descriptor is the present one.
    pub(super) fn opening(&self) -> u32 {
        self.opening.load(Ordering::Relaxed)
    }

    /// Whether the descriptor may change the file.
    pub(super) fn is_writable(&self) -> bool {
        self.access != OpenFlags::RDONLY
    }

    #[inline]
    pub(super) fn read(&self, offset: u64, data: &Writable<'_>) -> Result<usize, Errno> {
        if self.inode.kind() == FileKind::Directory {
            return Err(Errno::EISDIR);
        }
        let fd = self.fd()?;
        match rawio::read(fd.as_fd(), offset, data) {
            Err(Errno::EINVAL) if self.ends_direct_io(fd.as_fd()) => rawio::read(fd.as_fd(), offset, data),
            result => result,
        }
    }

    #[inline]
    pub(super) fn write(&self, offset: u64, data: &Readable<'_>) -> Result<usize, Errno> {
        let fd = self.fd()?;
        match rawio::write(fd.as_fd(), offset, data) {
            Err(Errno::EINVAL) if self.ends_direct_io(fd.as_fd()) => rawio::write(fd.as_fd(), offset, data),
            result => result,
        }
    }

    /// Turns direct I/O off after it was refused, if it was asked for: a buffer, an offset or a length is not aligned
    /// as the device wants. It stays off, so that two threads do not turn it on under each other.
    #[cold]
    fn ends_direct_io(&self, fd: BorrowedFd<'_>) -> bool {
        self.flags.contains(OFlags::DIRECT) && set_direct(fd, false)
    }

    #[inline]
    pub(super) fn read_within(&self, offset: u64, data: &Writable<'_>, patience: Patience) -> Result<usize, Hindrance> {
        let mut way = self.way(Move::Read, patience);
        if way == Way::Now && self.inode.kind() != FileKind::Directory {
            match rawio::read_now(self.fd()?.as_fd(), offset, data)? {
                Now::Moved(read) => return Ok(read),
                Now::WouldWait => way = Way::Not(Patience::Endless),
                Now::Unknown => way = self.mount.moves_never_now(Move::Read, patience),
            }
        }
        match way {
            Way::Not(needed) => Err(Hindrance::Waits(needed)),
            Way::Plain | Way::Now => Ok(self.read(offset, data)?),
        }
    }

    #[inline]
    pub(super) fn write_within(
        &self,
        offset: u64,
        data: &Readable<'_>,
        patience: Patience,
    ) -> Result<usize, Hindrance> {
        let mut way = self.way(Move::Write, patience);
        if way == Way::Now {
            match rawio::write_now(self.fd()?.as_fd(), offset, data)? {
                Now::Moved(written) => return Ok(written),
                Now::WouldWait => way = Way::Not(Patience::Endless),
                Now::Unknown => way = self.mount.moves_never_now(Move::Write, patience),
            }
        }
        match way {
            Way::Not(needed) => Err(Hindrance::Waits(needed)),
            Way::Plain | Way::Now => Ok(self.write(offset, data)?),
        }
    }

    /// How to move data within `patience`. What goes to the disk itself waits for it.
    #[inline]
    fn way(&self, direction: Move, patience: Patience) -> Way {
        let through = match direction {
            Move::Read => OFlags::DIRECT,
            Move::Write => OFlags::DIRECT.union(OFlags::DSYNC).union(OFlags::SYNC),
        };
        match self.mount.way(direction, patience) {
            Way::Now | Way::Not(_) if self.flags.intersects(through) => Way::Not(Patience::Endless),
            way => way,
        }
    }

    pub(super) fn sync(&self, data_only: bool) -> Result<(), Errno> {
        let fd = self.fd()?;
        Ok(rustix::io::retry_on_intr(|| if data_only { rustix::fs::fdatasync(&fd) } else { rustix::fs::fsync(&fd) })?)
    }

    /// Whether the kernel would open the file again as it was opened.
    fn can_open_again(&self) -> bool {
        let (read, write) = match self.access {
            OpenFlags::RDONLY => (true, false),
            OpenFlags::WRONLY => (false, true),
            _ => (true, true),
        };
        self.inode.peek().is_some_and(|path| rawio::may_open(path.as_fd(), read, write))
    }
}

impl Reclaim for OpenFile {
    fn was_used(&self) -> bool {
        if self.shared.load(Ordering::Acquire) { self.inode.was_used_for_io() } else { self.descriptor.was_used() }
    }

    fn reclaim(self: Arc<Self>) -> bool {
        let Ok(_opening) = self.openings.try_lock() else { return false };
        // The file's own descriptor is open, since this one is.
        let shared = self.shared.load(Ordering::Acquire);
        if !(shared || self.descriptor.is_open()) || !self.inode.host.as_process(|| self.can_open_again()) {
            return false;
        }
        if shared {
            return self.inode.close(1, || self.shared.store(false, Ordering::Release));
        }
        let Some(fd) = self.descriptor.close() else { return false };
        self.inode.io_open.fetch_sub(1, Ordering::Release);
        self.inode.host.pool.closed();
        drop(fd);
        true
    }
}

impl Drop for OpenFile {
    #[inline]
    fn drop(&mut self) {
        if *self.shared.get_mut() {
            if Arc::strong_count(&self.inode) > 1 {
                // Somebody else still knows the file, which must not stay open for writing.
                self.inode.end_io();
            }
        } else if self.descriptor.is_open() {
            self.inode.host.pool.closed();
        } else {
            return;
        }
        self.inode.io_open.fetch_sub(1, Ordering::Release);
    }
}

/// Turns direct I/O on or off; false if the file system has none.
fn set_direct(fd: BorrowedFd<'_>, on: bool) -> bool {
    rustix::fs::fcntl_getfl(fd).is_ok_and(|mut flags| {
        flags.set(OFlags::DIRECT, on);
        rustix::fs::fcntl_setfl(fd, flags).is_ok()
    })
}

/// `O_DSYNC`: rustix has `O_SYNC` under that name.
const DATA_SYNC: OFlags = OFlags::from_bits_retain(libc::O_DSYNC.cast_unsigned());

/// The host's flags for an open. `CREATE` and `EXCL` are not among them, and what could harm or surprise the server is
/// left out: `NOCTTY`, `FASYNC`, `DIRECT` (turned on later, by option) and `CLOEXEC` (always on). `EINVAL` for the
/// access mode 3.
fn host_flags(flags: OpenFlags) -> Result<OFlags, Errno> {
    let mut host = match flags.access() {
        OpenFlags::RDONLY => OFlags::RDONLY,
        OpenFlags::WRONLY => OFlags::WRONLY,
        OpenFlags::RDWR => OFlags::RDWR,
        _ => return Err(Errno::EINVAL),
    };
    host |= OFlags::CLOEXEC;
    for (theirs, ours) in [
        (OpenFlags::TRUNC, OFlags::TRUNC),
        (OpenFlags::APPEND, OFlags::APPEND),
        (OpenFlags::NONBLOCK, OFlags::NONBLOCK),
        (OpenFlags::DSYNC, DATA_SYNC),
        (OpenFlags::SYNC, OFlags::SYNC),
        (OpenFlags::NOATIME, OFlags::NOATIME),
    ] {
        if flags.contains(theirs) {
            host |= ours;
        }
    }
    Ok(host)
}

impl Passthrough {
    /// Opens a file that was reached.
    #[inline]
    pub(super) fn open_inode(&self, inode: &Arc<Inode>, flags: OpenFlags) -> Result<(Arc<OpenFile>, Qid), Errno> {
        let mut host = host_flags(flags)?;
        match inode.kind() {
            FileKind::Directory if flags.writes() => return Err(Errno::EISDIR),
            FileKind::Directory => host |= OFlags::DIRECTORY,
            FileKind::Regular if flags.contains(OpenFlags::DIRECTORY) => {
                return Err(Errno::ENOTDIR);
            }
            FileKind::Regular => {}
            FileKind::Symlink => return Err(Errno::ELOOP),
            FileKind::Special => return Err(Errno::ENXIO),
        }
        let path = inode.fd()?;
        let open = |flags| self.host.with_room(|| self.host.proc_fds.reopen(path.as_fd(), flags));
        let fd = match open(host) {
            // Only the owner may leave the access time alone; to others it is a wish.
            Err(Errno::EPERM) if host.contains(OFlags::NOATIME) => {
                host = host.difference(OFlags::NOATIME);
                open(host)
            }
            result => result,
        }?;
        if inode.kind() == FileKind::Regular {
            host |= self.direct(fd.as_fd(), flags);
        }
        let qid = self.qid_of(&self.host.seen_status(fd.as_fd())?);
        Ok((OpenFile::new(fd, inode, flags.access(), host), qid))
    }

    /// `DIRECT` if direct I/O is asked for, allowed and possible. It is turned on after the open, which would fail
    /// where there is none, and leave a new file behind.
    fn direct(&self, fd: BorrowedFd<'_>, flags: OpenFlags) -> OFlags {
        let on = self.direct_io && flags.contains(OpenFlags::DIRECT) && set_direct(fd, true);
        if on { OFlags::DIRECT } else { OFlags::empty() }
    }

    /// Creates a regular file and opens it, or opens an existing one unless `EXCL` is asked for.
    #[inline]
    pub(super) fn create_file(
        &self,
        dir: &Inode,
        name: Name<'_>,
        flags: OpenFlags,
        mode: u32,
        owner: Owner,
    ) -> Result<(Arc<Inode>, Arc<OpenFile>, Qid), Errno> {
        let dir = dir.as_dir()?;
        if flags.contains(OpenFlags::DIRECTORY) {
            return Err(Errno::EINVAL);
        }
        let identity = &self.host.identity;
        let owner = identity.new_owner(owner)?;
        let mode = identity.new_mode(mode);
        let host_mode = if identity.is_mapped() { STORED_FILE } else { mode };
        // Always exclusive: so a new file is known to be new, and an old one is opened by the checks of any other open.
        let host = host_flags(flags)?.difference(OFlags::TRUNC).difference(OFlags::NOATIME)
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW;
        for _ in 0..RACE_RETRIES {
            let created = self.host.with_room(|| {
                Ok(rustix::io::retry_on_intr(|| {
                    rustix::fs::openat(&dir, name.as_bytes(), host, Mode::from_raw_mode(host_mode))
                })?)
            });
            match created {
                Ok(fd) => {
                    let host = host.difference(OFlags::NOFOLLOW) | self.direct(fd.as_fd(), flags);
                    let (inode, qid) = self
                        .settle(fd, Fresh::regular(mode, owner), 1)
                        .inspect_err(|_| undo(dir.as_fd(), name, false))?;
                    let file = OpenFile::created(&inode, flags.access(), host);
                    return Ok((inode, file, qid));
                }
                Err(Errno::EEXIST) if !flags.contains(OpenFlags::EXCL) => {
                    match self.host.child(dir.as_fd(), name) {
                        Ok(node) => {
                            let inode = Inode::new(&self.host, node)?.0;
                            if inode.kind() == FileKind::Directory {
                                return Err(Errno::EISDIR);
                            }
                            let (file, qid) = self.open_inode(&inode, flags)?;
                            return Ok((inode, file, qid));
                        }
                        // Removed meanwhile: create it after all.
                        Err(Errno::ENOENT) => {}
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EAGAIN)
    }
}
