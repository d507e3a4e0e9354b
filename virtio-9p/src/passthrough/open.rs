//! Opening and creating regular files, and the I/O on open ones.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags, StatxFlags};

use super::Passthrough;
use super::create::undo;
use super::directory::Stream;
use super::lock::Held;
use super::node::{FileKind, Inode, status};
use super::rawio;
use crate::errno::Errno;
use crate::fs::Owner;
use crate::limits::RACE_RETRIES;
use crate::name::Name;
use crate::segment::{Readable, Writable};
use crate::wire::{OpenFlags, Qid};

/// An open file.
#[derive(Debug)]
pub(super) struct OpenFile {
    fd: OwnedFd,
    /// The file, for what its open descriptor does not allow.
    pub(super) inode: Arc<Inode>,
    access: u32,
    pub(super) stream: Mutex<Stream>,
    pub(super) locks: Mutex<Held>,
}

impl OpenFile {
    fn new(fd: OwnedFd, inode: Arc<Inode>, flags: OpenFlags) -> OpenFile {
        OpenFile { fd, inode, access: flags.access(), stream: Mutex::default(), locks: Mutex::default() }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether the descriptor may change the file.
    pub(super) fn is_writable(&self) -> bool {
        self.access != OpenFlags::RDONLY
    }

    pub(super) fn read(&self, offset: u64, data: &Writable<'_>) -> Result<usize, Errno> {
        if self.inode.kind() == FileKind::Directory {
            return Err(Errno::EISDIR);
        }
        rawio::read(self.fd(), offset, data)
    }

    pub(super) fn write(&self, offset: u64, data: &Readable<'_>) -> Result<usize, Errno> {
        rawio::write(self.fd(), offset, data)
    }

    pub(super) fn sync(&self, data_only: bool) -> Result<(), Errno> {
        Ok(rustix::io::retry_on_intr(|| {
            if data_only { rustix::fs::fdatasync(&self.fd) } else { rustix::fs::fsync(&self.fd) }
        })?)
    }
}

/// The host's flags for an open. `CREATE` and `EXCL` are not among them, and what could harm or surprise the server is left
/// out: `NOCTTY`, `FASYNC`, `DIRECT` (the client's buffers need not be aligned) and `CLOEXEC` (always on).
/// `EINVAL` for the access mode 3.
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
        (OpenFlags::DSYNC, OFlags::DSYNC),
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
    pub(super) fn open_inode(&self, inode: &Arc<Inode>, flags: OpenFlags) -> Result<(OpenFile, Qid), Errno> {
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
        let fd = match self.proc_fds.reopen(inode.fd(), host) {
            // Only the owner may leave the access time alone; to others it is a wish.
            Err(Errno::EPERM) if host.contains(OFlags::NOATIME) => {
                self.proc_fds.reopen(inode.fd(), host.difference(OFlags::NOATIME))
            }
            result => result,
        }?;
        let qid = self.qid_of(&status(fd.as_fd(), StatxFlags::BASIC_STATS)?);
        Ok((OpenFile::new(fd, inode.clone(), flags), qid))
    }

    /// Creates a regular file and opens it, or opens an existing one unless `EXCL` is asked for.
    pub(super) fn create_file(
        &self,
        dir: &Inode,
        name: Name<'_>,
        flags: OpenFlags,
        mode: u32,
        owner: Owner,
    ) -> Result<(Arc<Inode>, OpenFile, Qid), Errno> {
        let dir_fd = dir.as_dir()?;
        if flags.contains(OpenFlags::DIRECTORY) {
            return Err(Errno::EINVAL);
        }
        // Always exclusive: so a new file is known to be new, and an old one is opened by the checks of any other open.
        let host = host_flags(flags)?.difference(OFlags::TRUNC).difference(OFlags::NOATIME)
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW;
        for _ in 0..RACE_RETRIES {
            let created = rustix::io::retry_on_intr(|| {
                rustix::fs::openat(dir_fd, name.as_bytes(), host, Mode::from_raw_mode(mode))
            });
            match created {
                Ok(fd) => {
                    let (inode, qid) = self
                        .proc_fds
                        .reopen(fd.as_fd(), OFlags::PATH)
                        .and_then(Inode::new)
                        .and_then(|(inode, _)| {
                            let qid = self.settle(&inode, mode, owner)?;
                            Ok((Arc::new(inode), qid))
                        })
                        .inspect_err(|_| undo(dir_fd, name, false))?;
                    return Ok((inode.clone(), OpenFile::new(fd, inode, flags), qid));
                }
                Err(rustix::io::Errno::EXIST) if !flags.contains(OpenFlags::EXCL) => {
                    match self.resolver.child(dir_fd, name) {
                        Ok(node) => {
                            let inode = Arc::new(Inode::new(node)?.0);
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
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::EAGAIN)
    }
}
