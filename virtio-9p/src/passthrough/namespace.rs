//! Moving and removing names.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, RenameFlags};

use super::Passthrough;
use super::node::{FileKind, Inode};
use super::places::Spot;
use crate::errno::Errno;
use crate::name::Name;

impl Passthrough {
    fn rename_spot(&self, from: Spot<'_>, to: Spot<'_>, flags: RenameFlags) -> Result<(), Errno> {
        let (old, new) = (from.name.as_bytes(), to.name.as_bytes());
        self.host.move_name(from, to, || {
            Ok(if flags.is_empty() {
                rustix::fs::renameat(from.dir, old, to.dir, new)
            } else {
                rustix::fs::renameat_with(from.dir, old, to.dir, new, flags)
            }?)
        })
    }

    #[inline]
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
        self.rename_spot(
            Spot { dir: from.as_fd(), name: old },
            Spot { dir: to.as_fd(), name: new },
            RenameFlags::empty(),
        )
    }

    #[inline]
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
        let from = Spot { dir: place.dir.as_fd(), name: place.name()? };
        self.rename_spot(from, Spot { dir: to.as_fd(), name }, RenameFlags::empty())
    }

    pub(super) fn rename_inode_in_place(&self, inode: &Inode, name: Name<'_>, replace: bool) -> Result<(), Errno> {
        let place = self.locate(inode)?;
        let dir = place.dir.as_fd();
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        self.rename_spot(Spot { dir, name: place.name()? }, Spot { dir, name }, flags)
    }

    /// The last name of a file's path by the kernel's idea of it. A removed file's last one, and an empty one for a
    /// file that has left the tree.
    pub(super) fn name_of(&self, inode: &Inode) -> Result<Vec<u8>, Errno> {
        const REMOVED: &[u8] = b" (deleted)";
        if inode.id() == self.host.root_id {
            return Ok(b"/".to_vec());
        }
        let fd = inode.fd()?;
        let path = match self.host.path_below_root(fd.as_fd()) {
            Ok(path) => path,
            Err(Errno::ENOENT) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        // The kernel's mark, unless a file is really called so.
        let bare = name.strip_suffix(REMOVED).filter(|_| self.host.node_at(&path).is_err());
        Ok(bare.unwrap_or(name).to_vec())
    }

    pub(super) fn remove_inode(&self, inode: &Inode) -> Result<(), Errno> {
        let place = self.locate(inode)?;
        let spot = Spot { dir: place.dir.as_fd(), name: place.name()? };
        self.unlink_spot(spot, inode.kind() == FileKind::Directory)
    }
}
