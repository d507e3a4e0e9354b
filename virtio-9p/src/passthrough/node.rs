//! A file that was reached: an `O_PATH` descriptor and what never changes about its inode.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::{FileType, OFlags};

use super::descriptor::{Descriptor, InUse};
use super::host::Host;
use super::places::rebased;
use super::pool::Reclaim;
use super::status::{FileId, Status};
use crate::errno::Errno;
use crate::limits::TARGET_MAX;
use crate::session::lock;
use crate::wire::Time;

/// What can be done with a file, by its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Directory,
    Regular,
    Symlink,
    /// A FIFO, socket or device, which the client's kernel handles itself; the server never opens one.
    Special,
}

impl FileKind {
    pub(super) fn of(kind: FileType) -> FileKind {
        match kind {
            FileType::Directory => FileKind::Directory,
            FileType::RegularFile => FileKind::Regular,
            FileType::Symlink => FileKind::Symlink,
            _ => FileKind::Special,
        }
    }
}

/// The way back to a file whose descriptor is closed.
#[derive(Debug)]
struct Place {
    path: Vec<u8>,
    birth: Option<Time>,
}

/// A file inside the tree, with an `O_PATH` descriptor that may be closed while it is not used.
pub(super) struct Inode {
    descriptor: Descriptor,
    id: FileId,
    /// What the client sees.
    kind: FileKind,
    /// Whether the host's file is a regular file that stands for the link or special file that the client sees.
    stands_in: bool,
    /// Open files of this inode with an open descriptor.
    pub(super) io_open: AtomicUsize,
    /// The descriptor stays open.
    pinned: AtomicBool,
    place: Mutex<Option<Place>>,
    pub(super) host: Arc<Host>,
}

impl Inode {
    /// Takes an `O_PATH` descriptor, and returns the status that the client sees.
    #[inline]
    pub(super) fn new(host: &Arc<Host>, fd: OwnedFd) -> Result<(Arc<Inode>, Status), Errno> {
        let status = Status::of(fd.as_fd())?;
        Ok(Inode::known(host, fd, status, 0))
    }

    /// As [`Inode::new`], with the present status of the host's file, and so many open files that use this descriptor
    /// as their own: it is then not an `O_PATH` one.
    #[inline]
    pub(super) fn known(host: &Arc<Host>, fd: OwnedFd, mut status: Status, io_open: usize) -> (Arc<Inode>, Status) {
        let host_kind = FileKind::of(status.kind());
        host.overlay(fd.as_fd(), &mut status);
        let kind = FileKind::of(status.kind());
        host.mounts.meet(status.id.device, fd.as_fd());
        let listed = host.pool.opened();
        let inode = Arc::new(Inode {
            descriptor: Descriptor::new(fd, !listed),
            id: status.id,
            kind,
            stands_in: kind != host_kind,
            io_open: AtomicUsize::new(io_open),
            pinned: AtomicBool::new(false),
            place: Mutex::new(None),
            host: host.clone(),
        });
        if listed {
            let weak: Weak<Inode> = Arc::downgrade(&inode);
            host.pool.list(weak);
        }
        (inode, status)
    }

    /// The descriptor, opened again if it was closed: `ESTALE` if the file is not where it was.
    #[inline]
    pub(super) fn fd(&self) -> Result<InUse<'_>, Errno> {
        match self.acquire() {
            Some(fd) => Ok(fd),
            None => self.open_again(),
        }
    }

    /// The descriptor if it is open.
    #[inline]
    pub(super) fn acquire(&self) -> Option<InUse<'_>> {
        self.descriptor.acquire()
    }

    /// The descriptor if it is open, without counting as a use.
    pub(super) fn peek(&self) -> Option<InUse<'_>> {
        self.descriptor.peek()
    }

    #[cold]
    fn open_again(&self) -> Result<InUse<'_>, Errno> {
        self.host.pool.make_room()?;
        let _shared = self.host.places.shared();
        self.open_at_place()?;
        // Filled, and it cannot be closed before the lock is gone.
        self.descriptor.acquire().ok_or(Errno::ESTALE)
    }

    /// Opens the descriptor again if it is closed. The caller has locked the places.
    fn open_at_place(&self) -> Result<(), Errno> {
        let mut place = lock(&self.place);
        if self.is_open() {
            return Ok(());
        }
        let way = place.as_ref().ok_or(Errno::ESTALE)?;
        let fd = self.host.as_process(|| self.host.node_at(&way.path))?;
        let status = Status::with_birth(fd.as_fd())?;
        if status.id != self.id || status.born != way.birth {
            return Err(Errno::ESTALE);
        }
        self.host.pool.opened();
        self.host.places.leave();
        self.descriptor.fill(fd);
        *place = None;
        Ok(())
    }

    pub(super) fn is_open(&self) -> bool {
        self.descriptor.is_open()
    }

    /// Whether the descriptor is never closed.
    pub(super) fn is_fixed(&self) -> bool {
        self.descriptor.is_fixed()
    }

    /// Whether the descriptor that a created file shares was used since this was last asked.
    pub(super) fn was_used_for_io(&self) -> bool {
        self.descriptor.was_used()
    }

    /// Opens the descriptor if it is closed, and keeps it open from now on. The caller has locked the places.
    pub(super) fn keep_open(&self) {
        if self.open_at_place().is_ok() {
            self.pin();
        }
    }

    /// Keeps the descriptor open from now on.
    pub(super) fn pin(&self) {
        self.pinned.store(true, Ordering::Relaxed);
    }

    /// Takes note that `old` has become `new`. The caller has locked the places.
    pub(super) fn moved(&self, old: &[u8], new: &[u8]) {
        if let Some(place) = &mut *lock(&self.place)
            && let Some(path) = rebased(&place.path, old, new)
        {
            place.path = path;
        }
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }

    pub(super) fn kind(&self) -> FileKind {
        self.kind
    }

    /// Whether the host's file is a regular one that stands for what the client sees.
    pub(super) fn stands_in(&self) -> bool {
        self.stands_in
    }

    /// The basic status now, as the client sees it.
    pub(super) fn status(&self) -> Result<Status, Errno> {
        self.host.seen_status(self.fd()?.as_fd())
    }

    /// What a symbolic link says; `EINVAL` if it is none.
    pub(super) fn target(&self) -> Result<Vec<u8>, Errno> {
        if self.kind != FileKind::Symlink {
            return Err(Errno::EINVAL);
        }
        let fd = self.fd()?;
        if !self.stands_in {
            return Ok(rustix::fs::readlinkat(fd, "", Vec::new())?.into_bytes());
        }
        let file = self.host.with_room(|| self.host.proc_fds.reopen(fd.as_fd(), OFlags::RDONLY))?;
        let mut target = Vec::new();
        // One byte more than a target has, to notice what is none.
        let limit = TARGET_MAX as u64 + 1;
        File::from(file).take(limit).read_to_end(&mut target)?;
        if target.len() > TARGET_MAX || target.contains(&0) { Err(Errno::EIO) } else { Ok(target) }
    }

    /// Makes an `O_PATH` descriptor of one that was open for I/O, under the same number. Where that fails, for want of
    /// a descriptor, the file stays open as long as it is known.
    pub(super) fn end_io(&self) {
        let Some(old) = self.peek() else { return };
        if let Ok(path) = self.host.with_room(|| self.host.proc_fds.reopen(old.as_fd(), OFlags::PATH)) {
            self.descriptor.replace(path.as_fd());
        }
    }

    /// The descriptor of a directory; `ENOTDIR` if it is none.
    #[inline]
    pub(super) fn as_dir(&self) -> Result<InUse<'_>, Errno> {
        match self.kind {
            FileKind::Directory => self.fd(),
            _ => Err(Errno::ENOTDIR),
        }
    }
}

impl Drop for Inode {
    #[inline]
    fn drop(&mut self) {
        if self.is_open() {
            self.host.pool.closed();
        } else {
            self.host.places.leave();
        }
    }
}

impl Reclaim for Inode {
    fn was_used(&self) -> bool {
        self.io_open.load(Ordering::Acquire) > 0 || self.descriptor.was_used()
    }

    fn reclaim(self: Arc<Self>) -> bool {
        self.close(0, || ())
    }
}

impl Inode {
    /// Closes the descriptor if there is a way back and so many open files use it, which `closed` tells them. Whether
    /// it was.
    pub(super) fn close(self: &Arc<Self>, io_open: usize, closed: impl FnOnce()) -> bool {
        if self.pinned.load(Ordering::Relaxed) || self.io_open.load(Ordering::Acquire) > io_open {
            return false;
        }
        let mut map = self.host.places.exclusive();
        let Some(way) = self.host.as_process(|| self.way_back()) else { return false };
        let mut place = lock(&self.place);
        let Some(fd) = self.descriptor.close() else { return false };
        closed();
        self.io_open.fetch_sub(io_open, Ordering::Release);
        *place = Some(way);
        drop(place);
        self.host.places.insert(&mut map, self);
        self.host.pool.closed();
        drop(map);
        drop(fd);
        true
    }

    /// The path that leads to the file now; `None` if there is none, or none that is sure.
    fn way_back(&self) -> Option<Place> {
        let fd = self.descriptor.peek()?;
        let here = Status::with_birth(fd.as_fd()).ok()?;
        if here.links == 0 {
            self.pin();
            return None;
        }
        let path = self.host.path_below_root(fd.as_fd()).ok()?;
        let there = self.host.node_at(&path).ok()?;
        let there = Status::of(there.as_fd()).ok()?;
        (there.id == self.id).then_some(Place { path, birth: here.born })
    }
}

/// The identity of the file `name` in `dir`, a symbolic link's own.
pub(super) fn id_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<FileId, Errno> {
    Ok(Status::at(dir, name)?.0.id)
}
