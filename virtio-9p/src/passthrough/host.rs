//! The folder on the host: its root, the way to files below it, and the terms on which they are shown.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno as HostErrno;

use super::directories::Directories;
use super::identity::Identity;
use super::mapped;
use super::mounts::Mounts;
use super::places::Places;
use super::pool::Pool;
use super::procfd::ProcFds;
use super::status::{FileId, Status};
use crate::errno::Errno;
use crate::limits::RACE_RETRIES;
use crate::name::Name;

/// How nodes are opened: never for I/O, and never through a symbolic link.
pub(super) const NODE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How names are resolved.
const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);

/// What every file of a folder shares.
pub(super) struct Host {
    pub(super) root: OwnedFd,
    /// Where the root was when that was last asked; empty if it never was.
    pub(super) root_path: Mutex<Vec<u8>>,
    pub(super) root_id: FileId,
    openat2: bool,
    pub(super) proc_fds: ProcFds,
    pub(super) pool: Pool,
    pub(super) places: Places,
    pub(super) directories: Directories,
    pub(super) mounts: Mounts,
    pub(super) identity: Identity,
}

impl Host {
    /// `root` is an `O_PATH` descriptor of the folder.
    pub(super) fn new(
        root: OwnedFd,
        proc_fds: ProcFds,
        openat2: bool,
        (max_descriptors, max_lock_owners): (usize, usize),
        identity: Identity,
    ) -> Result<Host, Errno> {
        let openat2 = openat2 && rustix::fs::openat2(&root, ".", NODE, Mode::empty(), CONFINED).is_ok();
        if !openat2 {
            log::info!("openat2 is not used: every name is opened on its own with O_NOFOLLOW");
        }
        let root_id = Status::of(root.as_fd())?.id;
        let directories = Directories::below(&root)?;
        let (pool, places) = (Pool::new(max_descriptors, max_lock_owners), Places::default());
        let (root_path, mounts) = (Mutex::default(), Mounts::new(root.as_fd(), root_id.device));
        Ok(Host { root, root_path, root_id, openat2, proc_fds, pool, places, directories, mounts, identity })
    }

    /// Runs what opens a descriptor, again after closing others if the process or the system has none left.
    #[inline]
    pub(super) fn with_room<T>(&self, open: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        self.pool.make_room()?;
        match open() {
            Err(Errno::EMFILE | Errno::ENFILE) => self.with_more_room(open),
            result => result,
        }
    }

    #[cold]
    fn with_more_room<T>(&self, open: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        self.pool.reclaim();
        open()
    }

    /// An `O_PATH` descriptor of the file `name` in `dir`.
    #[inline]
    pub(super) fn child(&self, dir: BorrowedFd<'_>, name: Name<'_>) -> Result<OwnedFd, Errno> {
        self.with_room(|| {
            if self.openat2 {
                self.beneath(dir, name.as_bytes(), NODE)
            } else {
                Ok(rustix::fs::openat(dir, name.as_bytes(), NODE, Mode::empty())?)
            }
        })
    }

    /// `openat2` with a bounded number of retries: a rename anywhere in the system can make it fail with `EAGAIN`.
    #[inline]
    fn beneath(&self, dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        for _ in 0..RACE_RETRIES {
            match rustix::fs::openat2(dir, path, flags, Mode::empty(), CONFINED) {
                Err(HostErrno::AGAIN | HostErrno::INTR) => {}
                result => return Ok(result?),
            }
        }
        Err(Errno::EAGAIN)
    }

    /// The file at `path` (components between single slashes, none for the root) below the root.
    pub(super) fn node_at(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.descend(path, NODE)
    }

    /// The directory at `path` below the root.
    pub(super) fn directory_at(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.descend(path, NODE.union(OFlags::DIRECTORY))
    }

    fn descend(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            return Ok(rustix::fs::openat(&self.root, ".", flags, Mode::empty())?);
        }
        if self.openat2 {
            return self.beneath(self.root.as_fd(), path, flags);
        }
        let mut at: Option<OwnedFd> = None;
        for name in path.split(|byte| *byte == b'/') {
            let dir = at.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            let name = Name::existing(name)?.as_bytes();
            at = Some(rustix::fs::openat(dir, name, NODE, Mode::empty())?);
        }
        at.ok_or(Errno::ENOENT)
    }

    /// The status of a file as the client sees it.
    #[inline]
    pub(super) fn seen_status(&self, fd: BorrowedFd<'_>) -> Result<Status, Errno> {
        let mut status = Status::of(fd)?;
        self.overlay(fd, &mut status);
        Ok(status)
    }

    /// Makes the host's status the one that the client sees.
    #[inline]
    pub(super) fn overlay(&self, fd: BorrowedFd<'_>, status: &mut Status) {
        if self.identity.is_mapped() {
            mapped::overlay(fd, status);
        }
    }

    /// Runs a step on behalf of the server itself, whoever the request acts for.
    pub(super) fn as_process<T>(&self, step: impl FnOnce() -> T) -> T {
        let _server = self.identity.act_as_server();
        step()
    }
}
