//! Moving and removing names.

use std::os::fd::AsFd;

use rustix::fs::AtFlags;

use super::Passthrough;
use super::node::{FileKind, Inode};
use super::places::Spot;
use crate::errno::Errno;
use crate::name::Name;

impl Passthrough {
    fn rename_spot(&self, from: Spot<'_>, to: Spot<'_>) -> Result<(), Errno> {
        self.host.move_name(from, to, || {
            Ok(rustix::fs::renameat(from.dir, from.name.as_bytes(), to.dir, to.name.as_bytes())?)
        })
    }

    fn unlink_spot(&self, spot: Spot<'_>, directory: bool) -> Result<(), Errno> {
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        self.host.remove_name(spot, || Ok(rustix::fs::unlinkat(spot.dir, spot.name.as_bytes(), flags)?))
    }

    pub(super) fn rename_in(
        &self,
        old_dir: &Inode,
        old: Name<'_>,
        new_dir: &Inode,
        new: Name<'_>,
    ) -> Result<(), Errno> {
        let (from, to) = (old_dir.as_dir()?, new_dir.as_dir()?);
        self.rename_spot(Spot { dir: from.as_fd(), name: old }, Spot { dir: to.as_fd(), name: new })
    }

    pub(super) fn unlink_in(&self, dir: &Inode, name: Name<'_>, directory: bool) -> Result<(), Errno> {
        let spot = dir.as_dir()?;
        self.unlink_spot(Spot { dir: spot.as_fd(), name }, directory)?;
        if directory {
            // What is gone should not take space until its place is needed.
            self.host.directories.forget(dir.id(), name);
        }
        Ok(())
    }

    pub(super) fn rename_inode(&self, inode: &Inode, dir: &Inode, name: Name<'_>) -> Result<(), Errno> {
        let to = dir.as_dir()?;
        let place = self.locate(inode)?;
        self.rename_spot(Spot { dir: place.dir.as_fd(), name: place.name()? }, Spot { dir: to.as_fd(), name })
    }

    pub(super) fn remove_inode(&self, inode: &Inode) -> Result<(), Errno> {
        let place = self.locate(inode)?;
        let spot = Spot { dir: place.dir.as_fd(), name: place.name()? };
        self.unlink_spot(spot, inode.kind() == FileKind::Directory)
    }
}
