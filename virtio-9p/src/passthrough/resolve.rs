//! From a directory to its parent, and from a file to its place, without leaving the tree.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::Passthrough;
use super::host::{Host, NODE};
use super::node::{Inode, id_at};
use crate::errno::Errno;
use crate::limits::MAX_DEPTH;
use crate::name::Name;

impl Host {
    /// The directory above `dir`, `None` for the root itself (which is its own parent, and may also be the parent
    /// found).
    ///
    /// The directory found is used only if climbing on from it meets the root: `ESTALE` if `dir` was moved out of the
    /// tree, `ENAMETOOLONG` if it is too deep to tell.
    pub(super) fn parent(self: &Arc<Host>, dir: &Inode) -> Result<Option<Arc<Inode>>, Errno> {
        if dir.id() == self.root_id {
            return Ok(None);
        }
        let parent = self.with_room(|| above(dir.fd()?.as_fd()))?;
        let found = id_at(parent.as_fd(), b".")?;
        if found == self.root_id {
            return Ok(None);
        }
        let mut below = found;
        let mut at = above(parent.as_fd())?;
        for _ in 0..MAX_DEPTH {
            let id = id_at(at.as_fd(), b".")?;
            if id == self.root_id {
                return Ok(Some(Inode::new(self, parent)?.0));
            }
            if id == below {
                // The root of the host is its own parent.
                return Err(Errno::ESTALE);
            }
            below = id;
            at = above(at.as_fd())?;
        }
        Err(Errno::ENAMETOOLONG)
    }
}

/// The directory above, wherever that is.
fn above(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = NODE.union(OFlags::DIRECTORY);
    Ok(rustix::fs::openat(dir, "..", flags, Mode::empty())?)
}

/// Where a file is: a directory inside the tree, and the name there.
pub(super) struct Place {
    pub(super) dir: OwnedFd,
    name: Vec<u8>,
}

impl Place {
    pub(super) fn name(&self) -> Result<Name<'_>, Errno> {
        Name::changed(&self.name)
    }
}

impl Passthrough {
    /// The present place of a file, for the requests that name a file by its fid alone (Tremove, Trename).
    ///
    /// The kernel's idea of its path is taken apart, reached from the root like any other, and believed only if the
    /// file is really there. `EBUSY` for the root, `ENOENT` if the file has no name any more or is outside the tree.
    pub(super) fn locate(&self, inode: &Inode) -> Result<Place, Errno> {
        if inode.id() == self.host.root_id {
            return Err(Errno::EBUSY);
        }
        let fd = inode.fd()?;
        // The root is rarely moved; if it was, the file is not found by where the root is thought to be.
        let kept = self.host.path_below_kept_root(fd.as_fd()).and_then(|below| self.place_at(&below, inode));
        kept.or_else(|_| self.place_at(&self.host.path_below_root(fd.as_fd())?, inode))
    }

    /// The place at a path below the root, if the file is there.
    fn place_at(&self, below: &[u8], inode: &Inode) -> Result<Place, Errno> {
        let (dir, name) = match below.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&below[..slash], &below[slash + 1..]),
            None => (&below[..0], below),
        };
        let dir = self.host.with_room(|| self.host.directory_at(dir))?;
        let name = Name::existing(name)?;
        if id_at(dir.as_fd(), name.as_bytes())? != inode.id() {
            return Err(Errno::ENOENT);
        }
        Ok(Place { dir, name: name.as_bytes().to_vec() })
    }
}
