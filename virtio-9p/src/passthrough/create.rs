//! Making directories, symbolic links and special files, and giving new files to their owner.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};

use super::Passthrough;
use super::mapped::{self, Stored};
use super::node::Inode;
use super::status::Status;
use crate::errno::Errno;
use crate::fs::Owner;
use crate::name::Name;
use crate::wire::Qid;

/// What a new file is to the client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fresh {
    kind: FileType,
    /// Permission bits.
    mode: u32,
    device: Option<u64>,
    owner: Owner,
}

impl Fresh {
    pub(super) fn regular(mode: u32, owner: Owner) -> Fresh {
        Fresh { kind: FileType::RegularFile, mode, device: None, owner }
    }
}

/// Permission bits of a host file whose mode is kept elsewhere, as QEMU has them.
pub(super) const STORED_FILE: u32 = 0o600;
const STORED_DIRECTORY: u32 = 0o700;

impl Passthrough {
    pub(super) fn make_directory(&self, dir: &Inode, name: Name<'_>, mode: u32, owner: Owner) -> Result<Qid, Errno> {
        let dir = dir.as_dir()?;
        let owner = self.host.identity.new_owner(owner)?;
        let mode = self.host.identity.new_mode(mode);
        let host_mode = if self.host.identity.is_mapped() { STORED_DIRECTORY } else { mode };
        rustix::fs::mkdirat(&dir, name.as_bytes(), Mode::from_raw_mode(host_mode))?;
        self.adopt(dir.as_fd(), name, Fresh { kind: FileType::Directory, mode, device: None, owner })
    }

    pub(super) fn make_symlink(&self, dir: &Inode, name: Name<'_>, target: &[u8], owner: Owner) -> Result<Qid, Errno> {
        let dir = dir.as_dir()?;
        let owner = self.host.identity.new_owner(owner)?;
        let fresh = Fresh { kind: FileType::Symlink, mode: 0o777, device: None, owner };
        if self.host.identity.maps_symlinks() {
            let mut file = File::from(self.make_stored(dir.as_fd(), name)?);
            file.write_all(target).inspect_err(|_| undo(dir.as_fd(), name, false))?;
        } else {
            rustix::fs::symlinkat(target, &dir, name.as_bytes())?;
        }
        self.adopt(dir.as_fd(), name, fresh)
    }

    pub(super) fn make_node(
        &self,
        dir: &Inode,
        name: Name<'_>,
        mode: u32,
        device: (u32, u32),
        owner: Owner,
    ) -> Result<Qid, Errno> {
        let dir = dir.as_dir()?;
        let owner = self.host.identity.new_owner(owner)?;
        let kind = FileType::from_raw_mode(mode);
        let device = match kind {
            FileType::CharacterDevice | FileType::BlockDevice => rustix::fs::makedev(device.0, device.1),
            FileType::RegularFile | FileType::Fifo | FileType::Socket => 0,
            _ => return Err(Errno::EINVAL),
        };
        let mode = self.host.identity.new_mode(mode & 0o7777);
        if self.host.identity.is_mapped() {
            drop(self.make_stored(dir.as_fd(), name)?);
        } else {
            rustix::fs::mknodat(&dir, name.as_bytes(), kind, Mode::from_raw_mode(mode), device)?;
        }
        self.adopt(dir.as_fd(), name, Fresh { kind, mode, device: Some(device), owner })
    }

    /// Makes the regular file that stands for something else.
    fn make_stored(&self, dir: BorrowedFd<'_>, name: Name<'_>) -> Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.host.with_room(|| Ok(rustix::fs::openat(dir, name.as_bytes(), flags, Mode::from_raw_mode(STORED_FILE))?))
    }

    /// Reaches a file that was just made by name, and settles it.
    fn adopt(&self, dir: BorrowedFd<'_>, name: Name<'_>, fresh: Fresh) -> Result<Qid, Errno> {
        self.host
            .child(dir, name)
            .and_then(|fd| self.settle(fd, fresh, 0))
            .map(|(_, qid)| qid)
            .inspect_err(|_| undo(dir, name, fresh.kind == FileType::Directory))
    }

    /// Gives a new file to its owner, if the process may, and returns it with its qid; `io_open` is as for
    /// [`Inode::known`]. On an error the caller removes the file.
    #[inline]
    pub(super) fn settle(&self, fd: OwnedFd, fresh: Fresh, io_open: usize) -> Result<(Arc<Inode>, Qid), Errno> {
        let mut status = Status::of(fd.as_fd())?;
        if self.host.identity.is_mapped() {
            // A link that the host keeps as such has no place for more.
            if fresh.kind != FileType::Symlink || self.host.identity.maps_symlinks() {
                let mode = Some(fresh.kind.as_raw_mode() | fresh.mode);
                mapped::store(&fd, Stored { owner: Some(fresh.owner), mode, device: fresh.device })?;
            }
            status = Status::of(fd.as_fd())?;
        } else if self.give(fd.as_fd(), &fresh, &status)? {
            status = Status::of(fd.as_fd())?;
        }
        let (inode, status) = Inode::known(&self.host, fd, status, io_open);
        let qid = self.qid_of(&status);
        Ok((inode, qid))
    }

    /// Whether the file, whose status is `now`, had to be changed for that.
    #[inline]
    fn give(&self, fd: BorrowedFd<'_>, fresh: &Fresh, now: &Status) -> Result<bool, Errno> {
        let Owner { uid, gid } = fresh.owner;
        let is_theirs = uid.is_none_or(|uid| uid == now.uid) && gid.is_none_or(|gid| gid == now.gid);
        let given_away = self.host.identity.gives_files_away() && !is_theirs;
        if given_away {
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            let given = rustix::fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH);
            if !self.host.identity.may_keep_files() {
                given?;
            }
        }
        // A change of owner clears these bits, and mkdir does not take them.
        let special = fresh.mode & 0o6000 != 0 && fresh.kind != FileType::Symlink;
        if special {
            self.host.proc_fds.chmod(fd, fresh.mode)?;
        }
        Ok(given_away || special)
    }
}

/// Removes a file that was made but could not be finished. The error that the client sees is the first one.
pub(super) fn undo(dir: BorrowedFd<'_>, name: Name<'_>, directory: bool) {
    let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    let _ = rustix::fs::unlinkat(dir, name.as_bytes(), flags);
}
