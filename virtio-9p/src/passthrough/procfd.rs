//! Using an `O_PATH` descriptor through its magic link in `/proc/self/fd`: the one place where a link of the host is
//! followed on purpose. The link is named by a descriptor of this process, never by bytes of the client.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, Mode, OFlags, PROC_SUPER_MAGIC, Timestamps};
use rustix::path::DecInt;

use crate::errno::Errno;
use crate::name::Name;

/// The directory `/proc/self/fd`, kept open so that it works without `/proc` being reachable.
#[derive(Debug)]
pub(super) struct ProcFds(OwnedFd);

impl ProcFds {
    /// Opens the directory and checks that it is procfs's.
    pub(super) fn open() -> Result<ProcFds, Errno> {
        let fd = rustix::fs::open("/proc/self/fd", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        if rustix::fs::fstatfs(&fd)?.f_type != PROC_SUPER_MAGIC {
            return Err(Errno::ENOSYS);
        }
        Ok(ProcFds(fd))
    }

    /// Opens the file of `fd` again. The caller knows that its type is regular or directory, or asks for `O_PATH`.
    #[inline]
    pub(super) fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        let link = DecInt::from_fd(fd);
        let flags = flags.union(OFlags::CLOEXEC);
        Ok(rustix::io::retry_on_intr(|| rustix::fs::openat(&self.0, link.as_c_str(), flags, Mode::empty()))?)
    }

    /// Changes the permission bits; `EOPNOTSUPP` for a symbolic link.
    pub(super) fn chmod(&self, fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
        let link = DecInt::from_fd(fd);
        Ok(rustix::fs::chmodat(&self.0, link, Mode::from_raw_mode(mode), AtFlags::empty())?)
    }

    /// Changes access and modification time, a symbolic link's own included.
    pub(super) fn set_times(&self, fd: BorrowedFd<'_>, times: &Timestamps) -> Result<(), Errno> {
        let link = DecInt::from_fd(fd);
        Ok(rustix::fs::utimensat(&self.0, link, times, AtFlags::empty())?)
    }

    /// Gives the file of `fd` the further name `name` in `dir`.
    pub(super) fn link(&self, fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: Name<'_>) -> Result<(), Errno> {
        let link = DecInt::from_fd(fd);
        let flags = AtFlags::SYMLINK_FOLLOW;
        Ok(rustix::fs::linkat(&self.0, link, dir, name.as_bytes(), flags)?)
    }

    /// The path by which the kernel knows the file of `fd`; followed by ` (deleted)` if that name is gone.
    pub(super) fn path(&self, fd: BorrowedFd<'_>) -> Result<OsString, Errno> {
        let link = DecInt::from_fd(fd);
        let path = rustix::fs::readlinkat(self.0.as_fd(), link, Vec::new())?;
        Ok(OsString::from_vec(path.into_bytes()))
    }
}

/// The path of the magic link of `fd`, for calls that take no directory (extended attributes).
pub(super) fn link_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", DecInt::from_fd(fd).as_ref().display())
}
