//! Attributes of files and of their file systems.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Gid, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, major, minor};

use super::Passthrough;
use super::mapped::{self, Stored};
use super::node::{FileKind, Inode};
use super::open::OpenFile;
use super::status::Status;
use crate::errno::Errno;
use crate::fs::{Owner, SetAttr, SetTime};
use crate::wire::{AttrMask, Rgetattr, Rstatfs};

/// A device number in the 32-bit form that Linux clients decode (`new_decode_dev`): 12 bits of major, 20 of minor
/// number.
fn encode_device(major: u32, minor: u32) -> u64 {
    u64::from((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12))
}

fn timespec(change: Option<SetTime>) -> Timespec {
    match change {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At(time)) => Timespec {
            tv_sec: time.seconds.cast_signed(),
            // Below 10^9 by the promise of `SetTime`.
            tv_nsec: time.nanoseconds.try_into().unwrap_or(0),
        },
    }
}

pub(super) fn statfs(inode: &Inode) -> Result<Rstatfs, Errno> {
    let fd = inode.fd()?;
    let stat = rustix::fs::fstatfs(&fd)?;
    // The block counts are in units of the fragment size, where the file system has one.
    let unit = if stat.f_frsize > 0 { stat.f_frsize } else { stat.f_bsize };
    // The one field that `fstatfs` hides.
    let fsid = rustix::fs::fstatvfs(&fd)?.f_fsid;
    Ok(Rstatfs {
        kind: u32::try_from(stat.f_type).unwrap_or(0),
        bsize: u32::try_from(unit).unwrap_or(4096),
        blocks: stat.f_blocks,
        bfree: stat.f_bfree,
        bavail: stat.f_bavail,
        files: stat.f_files,
        ffree: stat.f_ffree,
        fsid,
        namelen: u32::try_from(stat.f_namelen).unwrap_or(255),
    })
}

impl Passthrough {
    #[inline]
    pub(super) fn attributes(&self, inode: &Inode, wanted: AttrMask) -> Result<Rgetattr, Errno> {
        let fd = inode.fd()?;
        let mut status =
            if wanted.0 & AttrMask::BTIME.0 == 0 { Status::of(fd.as_fd()) } else { Status::with_birth(fd.as_fd()) }?;
        self.host.overlay(fd.as_fd(), &mut status);
        let (uid, gid) = self.host.identity.seen_owner(status.uid, status.gid);
        let birth = status.born.map_or(0, |_| AttrMask::BTIME.0);
        Ok(Rgetattr {
            valid: AttrMask(AttrMask::BASIC.0 | birth),
            qid: self.qid_of(&status),
            mode: status.mode,
            uid,
            gid,
            nlink: status.links,
            rdev: encode_device(major(status.device), minor(status.device)),
            size: status.size,
            blksize: status.block_size,
            blocks: status.blocks,
            atime: status.accessed,
            mtime: status.modified,
            ctime: status.changed,
            btime: status.born.unwrap_or_default(),
            generation: 0,
            data_version: 0,
        })
    }

    /// Changes attributes, in the order in which one change does not undo another: a change of size or owner clears
    /// set-user-id bits and moves times.
    pub(super) fn change(&self, inode: &Inode, open: Option<&OpenFile>, change: &SetAttr) -> Result<(), Errno> {
        if let Some(size) = change.size {
            self.truncate(inode, open, size)?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            self.change_owner(inode, self.host.identity.changed_owner(change)?)?;
        }
        if let Some(mode) = change.mode {
            self.change_mode(inode, mode)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = Timestamps { last_access: timespec(change.atime), last_modification: timespec(change.mtime) };
            self.host.proc_fds.set_times(inode.fd()?.as_fd(), &times)?;
        }
        if *change == (SetAttr { ctime: true, ..SetAttr::default() }) {
            self.touch(inode)?;
        }
        Ok(())
    }

    fn change_owner(&self, inode: &Inode, owner: Owner) -> Result<(), Errno> {
        let identity = &self.host.identity;
        if identity.is_mapped() {
            if inode.kind() == FileKind::Symlink && !inode.stands_in() {
                // A link of the host has no place for an owner.
                return Ok(());
            }
            return mapped::store(inode.fd()?, Stored { owner: Some(owner), ..Stored::default() });
        }
        let (uid, gid) = (owner.uid.map(Uid::from_raw), owner.gid.map(Gid::from_raw));
        Ok(rustix::fs::chownat(inode.fd()?, "", uid, gid, AtFlags::EMPTY_PATH)?)
    }

    fn change_mode(&self, inode: &Inode, mode: u32) -> Result<(), Errno> {
        if self.host.identity.is_mapped() && inode.kind() != FileKind::Symlink {
            let kind = inode.status()?.mode & !0o7777;
            return mapped::store(inode.fd()?, Stored { mode: Some(kind | mode), ..Stored::default() });
        }
        if inode.stands_in() {
            return Err(Errno::EOPNOTSUPP);
        }
        self.host.proc_fds.chmod(inode.fd()?.as_fd(), mode)
    }

    fn truncate(&self, inode: &Inode, open: Option<&OpenFile>, size: u64) -> Result<(), Errno> {
        let truncate = |fd: BorrowedFd<'_>| rustix::io::retry_on_intr(|| rustix::fs::ftruncate(fd, size));
        match (inode.kind(), open) {
            (FileKind::Directory, _) => Err(Errno::EISDIR),
            (FileKind::Symlink | FileKind::Special, _) => Err(Errno::EINVAL),
            (FileKind::Regular, Some(open)) if open.is_writable() => Ok(truncate(open.fd()?.as_fd())?),
            (FileKind::Regular, _) => {
                let path = inode.fd()?;
                let fd = self.host.with_room(|| self.host.proc_fds.reopen(path.as_fd(), OFlags::WRONLY))?;
                Ok(truncate(fd.as_fd())?)
            }
        }
    }

    /// Sets the change time to now by a change that changes nothing else. An empty change of owner would do, but it
    /// clears set-user-id bits.
    fn touch(&self, inode: &Inode) -> Result<(), Errno> {
        let fd = inode.fd()?;
        let host = Status::of(fd.as_fd())?;
        if FileKind::of(host.kind()) != FileKind::Symlink && host.mode & 0o6000 != 0 {
            self.host.proc_fds.chmod(fd.as_fd(), host.mode & 0o7777)
        } else {
            Ok(rustix::fs::chownat(fd, "", None, None, AtFlags::EMPTY_PATH)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_those_of_new_encode_dev() {
        assert_eq!(encode_device(1, 3), 0x0103);
        assert_eq!(encode_device(8, 1), 0x0801);
        assert_eq!(encode_device(0xfff, 0x1_2345), 0x123f_ff45);
        assert_eq!(encode_device(259, 0x100), 0x0011_0300);
    }
}
