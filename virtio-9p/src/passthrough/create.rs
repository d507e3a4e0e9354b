//! Making directories, symbolic links and special files, and giving new files to their owner.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};

use super::Passthrough;
use super::node::Inode;
use crate::errno::Errno;
use crate::fs::Owner;
use crate::name::Name;
use crate::wire::Qid;

impl Passthrough {
    pub(super) fn make_directory(&self, dir: &Inode, name: Name<'_>, mode: u32, owner: Owner) -> Result<Qid, Errno> {
        let dir_fd = dir.as_dir()?;
        rustix::fs::mkdirat(dir_fd, name.as_bytes(), Mode::from_raw_mode(mode))?;
        self.adopt(dir_fd, name, true, mode, owner)
    }

    pub(super) fn make_symlink(&self, dir: &Inode, name: Name<'_>, target: &[u8], owner: Owner) -> Result<Qid, Errno> {
        let dir_fd = dir.as_dir()?;
        rustix::fs::symlinkat(target, dir_fd, name.as_bytes())?;
        self.adopt(dir_fd, name, false, 0, owner)
    }

    pub(super) fn make_node(
        &self,
        dir: &Inode,
        name: Name<'_>,
        mode: u32,
        device: (u32, u32),
        owner: Owner,
    ) -> Result<Qid, Errno> {
        let dir_fd = dir.as_dir()?;
        let kind = FileType::from_raw_mode(mode);
        let device = match kind {
            FileType::CharacterDevice | FileType::BlockDevice => rustix::fs::makedev(device.0, device.1),
            FileType::RegularFile | FileType::Fifo | FileType::Socket => 0,
            _ => return Err(Errno::EINVAL),
        };
        let mode = mode & 0o7777;
        rustix::fs::mknodat(dir_fd, name.as_bytes(), kind, Mode::from_raw_mode(mode), device)?;
        self.adopt(dir_fd, name, false, mode, owner)
    }

    /// Reaches a file that was just made by name, and settles it.
    fn adopt(
        &self,
        dir: BorrowedFd<'_>,
        name: Name<'_>,
        directory: bool,
        mode: u32,
        owner: Owner,
    ) -> Result<Qid, Errno> {
        self.resolver
            .child(dir, name)
            .and_then(Inode::new)
            .and_then(|(inode, _)| self.settle(&inode, mode, owner))
            .inspect_err(|_| undo(dir, name, directory))
    }

    /// Gives a new file to its owner, if the process may, and returns its qid. On an error the caller removes the file.
    pub(super) fn settle(&self, inode: &Inode, mode: u32, owner: Owner) -> Result<Qid, Errno> {
        self.give(inode, mode, owner)?;
        Ok(self.qid_of(&inode.status()?))
    }

    fn give(&self, inode: &Inode, mode: u32, owner: Owner) -> Result<(), Errno> {
        if self.gives_files_away && (owner.uid.is_some() || owner.gid.is_some()) {
            rustix::fs::chownat(
                inode.fd(),
                "",
                owner.uid.map(Uid::from_raw),
                owner.gid.map(Gid::from_raw),
                AtFlags::EMPTY_PATH,
            )?;
        }
        // A change of owner clears these bits, and mkdir does not take them.
        if mode & 0o6000 != 0 {
            self.proc_fds.chmod(inode.fd(), mode)?;
        }
        Ok(())
    }
}

/// Removes a file that was made but could not be finished. The error that the client sees is the first one.
pub(super) fn undo(dir: BorrowedFd<'_>, name: Name<'_>, directory: bool) {
    let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    let _ = rustix::fs::unlinkat(dir, name.as_bytes(), flags);
}
