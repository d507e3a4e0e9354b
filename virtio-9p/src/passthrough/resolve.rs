//! From a directory to a child or to its parent, without leaving the tree.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno as HostErrno;

use super::Passthrough;
use super::node::{FileId, Inode, id_at};
use crate::errno::Errno;
use crate::limits::{MAX_DEPTH, RACE_RETRIES};
use crate::name::Name;

/// How nodes are opened: never for I/O, and never through a symbolic link.
const NODE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How names are resolved.
const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);

/// Reaches files, knowing where the root is and whether the kernel has `openat2`.
#[derive(Debug)]
pub(super) struct Resolver {
    root: FileId,
    openat2: bool,
}

impl Resolver {
    pub(super) fn new(root: &Inode, openat2: bool) -> Resolver {
        let openat2 = openat2 && rustix::fs::openat2(root.fd(), ".", NODE, Mode::empty(), CONFINED).is_ok();
        if !openat2 {
            log::info!("openat2 is not used: every name is opened on its own with O_NOFOLLOW");
        }
        Resolver { root: root.id(), openat2 }
    }

    /// An `O_PATH` descriptor of the file `name` in `dir`.
    pub(super) fn child(&self, dir: BorrowedFd<'_>, name: Name<'_>) -> Result<OwnedFd, Errno> {
        if self.openat2 {
            self.beneath(dir, name.as_bytes(), NODE)
        } else {
            Ok(rustix::fs::openat(dir, name.as_bytes(), NODE, Mode::empty())?)
        }
    }

    /// `openat2` with a bounded number of retries: a rename anywhere in the system can make it fail with `EAGAIN`.
    fn beneath(&self, dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        for _ in 0..RACE_RETRIES {
            match rustix::fs::openat2(dir, path, flags, Mode::empty(), CONFINED) {
                Err(HostErrno::AGAIN | HostErrno::INTR) => {}
                result => return Ok(result?),
            }
        }
        Err(Errno::EAGAIN)
    }

    /// The directory above `dir`, `None` for the root itself (which is its own parent, and may also be the parent found).
    ///
    /// The directory found is used only if climbing on from it meets the root: `ESTALE` if `dir` was moved out of the tree,
    /// `ENAMETOOLONG` if it is too deep to tell.
    pub(super) fn parent(&self, dir: &Inode) -> Result<Option<Inode>, Errno> {
        if dir.id() == self.root {
            return Ok(None);
        }
        let (parent, _) = Inode::new(above(dir.fd())?)?;
        if parent.id() == self.root {
            return Ok(None);
        }
        let mut below = parent.id();
        let mut at = above(parent.fd())?;
        for _ in 0..MAX_DEPTH {
            let id = id_at(at.as_fd(), b".")?;
            if id == self.root {
                return Ok(Some(parent));
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

    /// The directory at `path` (components between single slashes, none for the root) under `root`.
    fn descend(&self, root: &Inode, path: &[u8]) -> Result<OwnedFd, Errno> {
        let directory = NODE.union(OFlags::DIRECTORY);
        if path.is_empty() {
            return Ok(rustix::fs::openat(root.fd(), ".", directory, Mode::empty())?);
        }
        if self.openat2 {
            return self.beneath(root.fd(), path, directory);
        }
        let mut at: Option<OwnedFd> = None;
        for name in path.split(|byte| *byte == b'/') {
            let dir = at.as_ref().map_or(root.fd(), AsFd::as_fd);
            let name = Name::existing(name)?.as_bytes();
            at = Some(rustix::fs::openat(dir, name, directory, Mode::empty())?);
        }
        at.ok_or(Errno::ENOENT)
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
    /// The kernel's idea of its path is taken apart, reached from the root like any other, and believed only if the file is
    /// really there. `EBUSY` for the root, `ENOENT` if the file has no name any more or is outside the tree.
    pub(super) fn locate(&self, inode: &Inode) -> Result<Place, Errno> {
        if inode.id() == self.root.id() {
            return Err(Errno::EBUSY);
        }
        let root = self.proc_fds.path(self.root.fd())?;
        let path = self.proc_fds.path(inode.fd())?;
        let below = relative(root.as_os_str().as_bytes(), path.as_os_str().as_bytes()).ok_or(Errno::ENOENT)?;
        let (dir, name) = match below.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&below[..slash], &below[slash + 1..]),
            None => (&below[..0], below),
        };
        let dir = self.resolver.descend(&self.root, dir)?;
        let name = Name::existing(name)?;
        if id_at(dir.as_fd(), name.as_bytes())? != inode.id() {
            return Err(Errno::ENOENT);
        }
        Ok(Place { dir, name: name.as_bytes().to_vec() })
    }
}

/// What follows the root in a path below it.
fn relative<'a>(root: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    path.strip_prefix(root)?.strip_prefix(b"/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_need_a_whole_component() {
        assert_eq!(relative(b"/srv/a", b"/srv/a/b/c"), Some(&b"b/c"[..]));
        assert_eq!(relative(b"/", b"/b"), Some(&b"b"[..]));
        assert_eq!(relative(b"/srv/a", b"/srv/ab"), None);
        assert_eq!(relative(b"/srv/a", b"/srv"), None);
        assert_eq!(relative(b"/srv/a", b"/srv/a"), None);
    }
}
