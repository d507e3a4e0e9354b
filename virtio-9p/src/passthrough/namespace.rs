//! Moving and removing names.

use std::os::fd::AsFd;

use rustix::fs::AtFlags;

use super::Passthrough;
use super::node::{FileKind, Inode};
use crate::errno::Errno;
use crate::name::Name;

pub(super) fn rename(old_dir: &Inode, old: Name<'_>, new_dir: &Inode, new: Name<'_>) -> Result<(), Errno> {
    let (from, to) = (old_dir.as_dir()?, new_dir.as_dir()?);
    Ok(rustix::fs::renameat(from, old.as_bytes(), to, new.as_bytes())?)
}

pub(super) fn unlink(dir: &Inode, name: Name<'_>, directory: bool) -> Result<(), Errno> {
    let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    Ok(rustix::fs::unlinkat(dir.as_dir()?, name.as_bytes(), flags)?)
}

impl Passthrough {
    pub(super) fn rename_inode(&self, inode: &Inode, dir: &Inode, name: Name<'_>) -> Result<(), Errno> {
        let to = dir.as_dir()?;
        let place = self.locate(inode)?;
        let old = place.name()?.as_bytes();
        Ok(rustix::fs::renameat(place.dir.as_fd(), old, to, name.as_bytes())?)
    }

    pub(super) fn remove_inode(&self, inode: &Inode) -> Result<(), Errno> {
        let place = self.locate(inode)?;
        let flags = match inode.kind() {
            FileKind::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        Ok(rustix::fs::unlinkat(place.dir.as_fd(), place.name()?.as_bytes(), flags)?)
    }
}
