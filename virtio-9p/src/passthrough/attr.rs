//! Attributes of files and of their file systems.

use rustix::fs::{
    AtFlags, Gid, OFlags, Statx, StatxFlags, StatxTimestamp, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
};

use super::Passthrough;
use super::node::{FileKind, Inode, status};
use super::open::OpenFile;
use crate::errno::Errno;
use crate::fs::{SetAttr, SetTime};
use crate::wire::{AttrMask, Rgetattr, Rstatfs, Time};

/// A device number in the 32-bit form that Linux clients decode (`new_decode_dev`): 12 bits of major, 20 of minor number.
fn encode_device(major: u32, minor: u32) -> u64 {
    u64::from((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12))
}

fn time(stamp: StatxTimestamp) -> Time {
    Time { seconds: stamp.tv_sec.cast_unsigned(), nanoseconds: u64::from(stamp.tv_nsec) }
}

/// Which fields of a status hold a value, in 9P's bits. Those from the access time on are the same.
fn valid(status: &Statx) -> AttrMask {
    const SAME: u32 = 0xfe0;
    const RDEV: u64 = 0x10;
    let has = |bit: StatxFlags| status.stx_mask & bit.bits() == bit.bits();
    let mut valid = u64::from(status.stx_mask & SAME) | RDEV;
    for (bit, ours) in [
        (StatxFlags::TYPE.union(StatxFlags::MODE), 0x1),
        (StatxFlags::NLINK, 0x2),
        (StatxFlags::UID, 0x4),
        (StatxFlags::GID, 0x8),
    ] {
        if has(bit) {
            valid |= ours;
        }
    }
    AttrMask(valid)
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
    let stat = rustix::fs::fstatfs(inode.fd())?;
    // The block counts are in units of the fragment size, where the file system has one.
    let unit = if stat.f_frsize > 0 { stat.f_frsize } else { stat.f_bsize };
    // The one field that `fstatfs` hides.
    let fsid = rustix::fs::fstatvfs(inode.fd())?.f_fsid;
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
    pub(super) fn attributes(&self, inode: &Inode, wanted: AttrMask) -> Result<Rgetattr, Errno> {
        let mut mask = StatxFlags::BASIC_STATS;
        if wanted.0 & AttrMask::BTIME.0 != 0 {
            mask |= StatxFlags::BTIME;
        }
        let status = status(inode.fd(), mask)?;
        Ok(Rgetattr {
            valid: valid(&status),
            qid: self.qid_of(&status),
            mode: u32::from(status.stx_mode),
            uid: status.stx_uid,
            gid: status.stx_gid,
            nlink: u64::from(status.stx_nlink),
            rdev: encode_device(status.stx_rdev_major, status.stx_rdev_minor),
            size: status.stx_size,
            blksize: u64::from(status.stx_blksize),
            blocks: status.stx_blocks,
            atime: time(status.stx_atime),
            mtime: time(status.stx_mtime),
            ctime: time(status.stx_ctime),
            btime: time(status.stx_btime),
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
            let uid = change.uid.map(Uid::from_raw);
            let gid = change.gid.map(Gid::from_raw);
            rustix::fs::chownat(inode.fd(), "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = change.mode {
            self.proc_fds.chmod(inode.fd(), mode)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = Timestamps { last_access: timespec(change.atime), last_modification: timespec(change.mtime) };
            self.proc_fds.set_times(inode.fd(), &times)?;
        }
        if *change == (SetAttr { ctime: true, ..SetAttr::default() }) {
            self.touch(inode)?;
        }
        Ok(())
    }

    fn truncate(&self, inode: &Inode, open: Option<&OpenFile>, size: u64) -> Result<(), Errno> {
        let truncate = |fd| rustix::io::retry_on_intr(|| rustix::fs::ftruncate(fd, size));
        match (inode.kind(), open) {
            (FileKind::Directory, _) => Err(Errno::EISDIR),
            (FileKind::Symlink | FileKind::Special, _) => Err(Errno::EINVAL),
            (FileKind::Regular, Some(open)) if open.is_writable() => Ok(truncate(open.fd())?),
            (FileKind::Regular, _) => {
                let fd = self.proc_fds.reopen(inode.fd(), OFlags::WRONLY)?;
                Ok(truncate(std::os::fd::AsFd::as_fd(&fd))?)
            }
        }
    }

    /// Sets the change time to now by a change that changes nothing else. An empty change of owner would do, but it clears
    /// set-user-id bits.
    fn touch(&self, inode: &Inode) -> Result<(), Errno> {
        let mode = u32::from(inode.status()?.stx_mode);
        if inode.kind() != FileKind::Symlink && mode & 0o6000 != 0 {
            self.proc_fds.chmod(inode.fd(), mode & 0o7777)
        } else {
            Ok(rustix::fs::chownat(inode.fd(), "", None, None, AtFlags::EMPTY_PATH)?)
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
