//! Directories that were reached lately: walking through one again costs one `statx` instead of opening and closing it.
//!
//! A directory is taken from here only if the name leads to it now: the `statx` of the name in its parent must give the
//! identity of the directory that is kept, whose descriptor is open, so that the number cannot have gone to another
//! one. Other files have further names that their identity does not tell apart, and are always opened by the name.
//!
//! Only directories of the root's own mount are taken from here, so that the mount is the same too, and none of another
//! device is kept, so that the host can unmount what no client holds.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use super::host::Host;
use super::node::{FileKind, Inode};
use super::qid::spread;
use super::status::{FileId, Status, mount_of};
use crate::errno::Errno;
use crate::limits::RECENT_DIRECTORIES;
use crate::name::Name;
use crate::session::lock;

/// A directory, and by which name in which directory it was reached.
struct Recent {
    parent: FileId,
    name: Box<[u8]>,
    inode: Arc<Inode>,
    /// Known to be on the root's mount.
    here: bool,
}

/// The directories, each at the one place that its name has by its hash.
pub(super) struct Directories {
    places: Box<[Mutex<Option<Recent>>]>,
    /// The root's mount; `None` where the kernel does not tell mounts apart, and nothing is kept.
    mount: Option<u64>,
}

impl Directories {
    /// None yet, below `root`.
    pub(super) fn below(root: &OwnedFd) -> Result<Directories, Errno> {
        let places = (0..RECENT_DIRECTORIES).map(|_| Mutex::default()).collect();
        Ok(Directories { places, mount: mount_of(root.as_fd())? })
    }

    fn place(&self, parent: FileId, name: Name<'_>) -> &Mutex<Option<Recent>> {
        // Whoever makes names share a place slows down the walks through them, its own.
        let mut hash = spread(parent.inode ^ parent.device.rotate_left(32));
        for piece in name.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            hash = spread(hash ^ u64::from_le_bytes(word));
        }
        // Fewer places than 2^32, and the hash is cut to below their number.
        &self.places[usize::try_from(hash % self.places.len() as u64).unwrap_or(0)]
    }

    /// A directory of the root's mount that was reached by that name.
    fn find(&self, parent: FileId, name: Name<'_>) -> Option<Arc<Inode>> {
        self.mount?;
        let mut place = lock(self.place(parent, name));
        let recent = place.as_mut().filter(|recent| recent.parent == parent && *recent.name == *name.as_bytes())?;
        if !recent.here {
            recent.here = mount_of(recent.inode.peek()?.as_fd()) == Ok(self.mount);
        }
        recent.here.then(|| recent.inode.clone())
    }

    fn keep(&self, parent: FileId, name: Name<'_>, inode: &Arc<Inode>) {
        if self.mount.is_none() {
            return;
        }
        let recent = Recent { parent, name: name.as_bytes().into(), inode: inode.clone(), here: false };
        let before = lock(self.place(parent, name)).replace(recent);
        drop(before);
    }

    /// Forgets all of them.
    fn clear(&self) {
        for place in &self.places {
            let before = lock(place).take();
            drop(before);
        }
    }

    /// Forgets the directory of that name, if it is here.
    pub(super) fn forget(&self, parent: FileId, name: Name<'_>) {
        let mut place = lock(self.place(parent, name));
        let before = place.take_if(|recent| recent.parent == parent && *recent.name == *name.as_bytes());
        drop(place);
        drop(before);
    }
}

/// Held by every session of a folder: with the last of them the directories go. Each of them holds the [`Host`], which
/// would otherwise live as long as they do, and they as long as it.
pub(super) struct WhileServed(pub(super) Arc<Host>);

impl Drop for WhileServed {
    fn drop(&mut self) {
        self.0.directories.clear();
    }
}

impl Host {
    /// The file `name` in `dir`, with the status that the client sees.
    #[inline]
    pub(super) fn reach(self: &Arc<Host>, dir: &Inode, name: Name<'_>) -> Result<(Arc<Inode>, Status), Errno> {
        let dir_fd = dir.as_dir()?;
        if let Some(known) = self.directories.find(dir.id(), name) {
            let (mut status, mount) = Status::at(dir_fd.as_fd(), name.as_bytes())?;
            // A kept directory without a descriptor may be another one by now: it is opened anew.
            let here = known.peek().filter(|_| status.id == known.id() && mount == self.directories.mount);
            if let Some(fd) = &here {
                self.overlay(fd.as_fd(), &mut status);
                drop(here);
                return Ok((known, status));
            }
            drop(here);
            self.directories.forget(dir.id(), name);
        }
        let (inode, status) = Inode::new(self, self.child(dir_fd.as_fd(), name)?)?;
        if inode.kind() == FileKind::Directory && inode.id().device == self.root_id.device {
            self.directories.keep(dir.id(), name, &inode);
        }
        Ok((inode, status))
    }
}
