//! A file that was reached: an `O_PATH` descriptor and what never changes about its inode.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};

use crate::errno::Errno;

/// What can be done with a file, by its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Directory,
    Regular,
    Symlink,
    /// A FIFO, socket or device, which the client's kernel handles itself; the server never opens one.
    Special,
}

/// A file's identity on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

pub(super) fn id_of(status: &Statx) -> FileId {
    FileId { device: rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor), inode: status.stx_ino }
}

/// An `O_PATH` descriptor of a file inside the tree.
#[derive(Debug)]
pub(super) struct Inode {
    fd: OwnedFd,
    id: FileId,
    kind: FileKind,
}

impl Inode {
    /// Takes an `O_PATH` descriptor, and returns the status that it had.
    pub(super) fn new(fd: OwnedFd) -> Result<(Inode, Statx), Errno> {
        let status = status(fd.as_fd(), StatxFlags::BASIC_STATS)?;
        let kind = match FileType::from_raw_mode(u32::from(status.stx_mode)) {
            FileType::Directory => FileKind::Directory,
            FileType::RegularFile => FileKind::Regular,
            FileType::Symlink => FileKind::Symlink,
            _ => FileKind::Special,
        };
        Ok((Inode { fd, id: id_of(&status), kind }, status))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }

    pub(super) fn kind(&self) -> FileKind {
        self.kind
    }

    /// The basic status now.
    pub(super) fn status(&self) -> Result<Statx, Errno> {
        status(self.fd(), StatxFlags::BASIC_STATS)
    }

    /// The descriptor of a directory; `ENOTDIR` if it is none.
    pub(super) fn as_dir(&self) -> Result<BorrowedFd<'_>, Errno> {
        match self.kind {
            FileKind::Directory => Ok(self.fd()),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// What a symbolic link says; `EINVAL` if it is none.
    pub(super) fn target(&self) -> Result<Vec<u8>, Errno> {
        if self.kind != FileKind::Symlink {
            return Err(Errno::EINVAL);
        }
        Ok(rustix::fs::readlinkat(self.fd(), "", Vec::new())?.into_bytes())
    }
}

/// The status of an open file.
pub(super) fn status(fd: BorrowedFd<'_>, wanted: StatxFlags) -> Result<Statx, Errno> {
    Ok(rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, wanted)?)
}

/// The identity of the file `name` in `dir`, a symbolic link's own.
pub(super) fn id_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<FileId, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(id_of(&rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS)?))
}
