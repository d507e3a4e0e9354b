//! What the host's kernel says about a file.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Stat, Statx, StatxFlags, StatxTimestamp};

use crate::errno::Errno;
use crate::wire::Time;

/// A file's identity on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// The status of a file. It comes from `fstat`, the cheapest call that tells it, unless the time of birth is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Status {
    pub(super) id: FileId,
    /// Type and permission bits.
    pub(super) mode: u32,
    pub(super) links: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Device number of a device file, as the C library encodes it.
    pub(super) device: u64,
    pub(super) size: u64,
    pub(super) block_size: u64,
    pub(super) blocks: u64,
    pub(super) accessed: Time,
    pub(super) modified: Time,
    pub(super) changed: Time,
    /// `None` if nobody asked or the file system does not know.
    pub(super) born: Option<Time>,
}

impl Status {
    /// The status of an open file, `O_PATH` included.
    #[inline]
    pub(super) fn of(fd: BorrowedFd<'_>) -> Result<Status, Errno> {
        Ok(rustix::fs::fstat(fd)?.into())
    }

    /// The status of an open file with its time of birth.
    pub(super) fn with_birth(fd: BorrowedFd<'_>) -> Result<Status, Errno> {
        let wanted = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);
        Ok((&rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, wanted)?).into())
    }

    /// The status of the file `name` in `dir`, a symbolic link's own, and the mount it is on (`None` before Linux 5.8).
    pub(super) fn at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(Status, Option<u64>), Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);
        let found = rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID))?;
        Ok(((&found).into(), mount(&found)))
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
}
/// The mount that an open file is on; `None` before Linux 5.8.
pub(super) fn mount_of(fd: BorrowedFd<'_>) -> Result<Option<u64>, Errno> {
    Ok(mount(&rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?))
}

fn mount(status: &Statx) -> Option<u64> {
    (status.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(status.stx_mnt_id)
}

/// A field whose width differs between architectures; none of them is negative.
fn wide(field: impl TryInto<u64>) -> u64 {
    field.try_into().unwrap_or(0)
}

impl From<Stat> for Status {
    #[inline]
    fn from(stat: Stat) -> Status {
        // Times before 1970 are negative, which the kernel's struct has as unsigned on some architectures.
        let time = |seconds, nanoseconds| Time { seconds, nanoseconds };
        Status {
            id: FileId { device: stat.st_dev, inode: stat.st_ino },
            mode: stat.st_mode,
            links: wide(stat.st_nlink),
            uid: stat.st_uid,
            gid: stat.st_gid,
            device: stat.st_rdev,
            size: wide(stat.st_size),
            block_size: wide(stat.st_blksize),
            blocks: wide(stat.st_blocks),
            accessed: time(stat.st_atime.cast_unsigned(), wide(stat.st_atime_nsec)),
            modified: time(stat.st_mtime.cast_unsigned(), wide(stat.st_mtime_nsec)),
            changed: time(stat.st_ctime.cast_unsigned(), wide(stat.st_ctime_nsec)),
            born: None,
        }
    }
}

impl From<&Statx> for Status {
    fn from(status: &Statx) -> Status {
        let time =
            |stamp: StatxTimestamp| Time { seconds: stamp.tv_sec.cast_unsigned(), nanoseconds: stamp.tv_nsec.into() };
        Status {
            id: FileId {
                device: rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor),
                inode: status.stx_ino,
            },
            mode: status.stx_mode.into(),
            links: status.stx_nlink.into(),
            uid: status.stx_uid,
            gid: status.stx_gid,
            device: rustix::fs::makedev(status.stx_rdev_major, status.stx_rdev_minor),
            size: status.stx_size,
            block_size: status.stx_blksize.into(),
            blocks: status.stx_blocks,
            accessed: time(status.stx_atime),
            modified: time(status.stx_mtime),
            changed: time(status.stx_ctime),
            born: (status.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(status.stx_btime)),
        }
    }
}
