//! Where the files are whose `O_PATH` descriptor is closed.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use super::host::Host;
use super::node::{Inode, id_at};
use super::status::FileId;
use crate::errno::Errno;
use crate::name::Name;
use crate::session::lock;

/// The files without a descriptor. Holding it shared keeps every path true; paths change, and files come and go, under
/// the exclusive lock.
#[derive(Default)]
pub(super) struct Places {
    by_id: RwLock<Map>,
    /// Files without a descriptor. The map may hold more: it is tidied now and then.
    count: AtomicUsize,
}

pub(super) type Map = HashMap<FileId, Vec<Weak<Inode>>>;

impl Places {
    pub(super) fn shared(&self) -> RwLockReadGuard<'_, Map> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn exclusive(&self) -> RwLockWriteGuard<'_, Map> {
        self.by_id.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a file whose descriptor is being closed.
    pub(super) fn insert(&self, map: &mut Map, inode: &Arc<Inode>) {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        if map.len() > 2 * count + 1024 {
            map.retain(|_, files| {
                files.retain(|file| file.upgrade().is_some_and(|file| !file.is_open()));
                !files.is_empty()
            });
        }
        let files = map.entry(inode.id()).or_default();
        files.retain(|file| file.strong_count() > 0 && !std::ptr::eq(file.as_ptr(), Arc::as_ptr(inode)));
        files.push(Arc::downgrade(inode));
    }

    /// Notes that a file has a descriptor again, or is gone.
    pub(super) fn leave(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }
}

/// A name that is about to go or to come.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: Name<'a>,
}

impl Host {
    /// Removes the name `spot` by `change`. `ENFILE` if the file needs a descriptor from then on and there is none.
    pub(super) fn remove_name<T>(&self, spot: Spot<'_>, change: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let shared = self.places.shared();
        if self.places.is_empty() {
            return change();
        }
        drop(shared);
        self.make_room_to_keep();
        let mut map = self.places.exclusive();
        let kept = self.keep(&mut map, spot)?;
        let result = change();
        drop(map);
        drop(kept);
        result
    }

    /// Moves `from` to `to` by `change`; errors as for [`Host::remove_name`].
    pub(super) fn move_name<T>(
        &self,
        from: Spot<'_>,
        to: Spot<'_>,
        change: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let shared = self.places.shared();
        if self.places.is_empty() {
            return change();
        }
        drop(shared);
        self.make_room_to_keep();
        let mut map = self.places.exclusive();
        let kept = self.keep(&mut map, to)?;
        // Two names of one file both stay.
        let same = id_at(from.dir, from.name.as_bytes()).ok() == id_at(to.dir, to.name.as_bytes()).ok();
        let paths = self.path_of(from).zip(self.path_of(to)).filter(|_| !same);
        let result = change();
        if let (Ok(_), Some((old, new))) = (&result, paths) {
            for file in map.values().flatten().filter_map(Weak::upgrade) {
                file.moved(&old, &new);
            }
        }
        drop(map);
        drop(kept);
        result
    }

    /// What [`Host::keep`] needs cannot be made under the places' lock; whether it is enough shows there.
    fn make_room_to_keep(&self) {
        let _ = self.pool.make_room();
    }

    /// Opens the closed descriptors of the file that has the name, for good; all or none of them.
    fn keep(&self, map: &mut Map, spot: Spot<'_>) -> Result<Vec<Arc<Inode>>, Errno> {
        let Ok(id) = id_at(spot.dir, spot.name.as_bytes()) else {
            return Ok(Vec::new());
        };
        if !self.pool.has_room_for(map.get(&id).map_or(0, Vec::len)) {
            return Err(Errno::ENFILE);
        }
        let files: Vec<Arc<Inode>> = map.remove(&id).unwrap_or_default().iter().filter_map(Weak::upgrade).collect();
        for file in &files {
            file.keep_open();
        }
        Ok(files)
    }

    /// The path of a name below the root, without a leading slash.
    fn path_of(&self, spot: Spot<'_>) -> Option<Vec<u8>> {
        let mut path = self.path_below_root(spot.dir).ok()?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(spot.name.as_bytes());
        Some(path)
    }

    /// The kernel's path of a file, taken from the root. `ENOENT` if it has none there.
    pub(super) fn path_below_root(&self, fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
        let root = self.proc_fds.path(self.root.as_fd())?;
        let below = self.path_below(root.as_bytes(), fd);
        *lock(&self.root_path) = root.into_vec();
        below
    }

    /// As [`Host::path_below_root`], but taken from where the root was when that was last asked.
    pub(super) fn path_below_kept_root(&self, fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
        let root = lock(&self.root_path);
        if root.is_empty() { Err(Errno::ENOENT) } else { self.path_below(&root, fd) }
    }

    fn path_below(&self, root: &[u8], fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
        let path = self.proc_fds.path(fd)?;
        if root == path.as_bytes() {
            return Ok(Vec::new());
        }
        Ok(relative(root, path.as_bytes()).ok_or(Errno::ENOENT)?.to_vec())
    }
}

/// What follows the root in a path below it.
pub(super) fn relative<'a>(root: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    path.strip_prefix(root)?.strip_prefix(b"/")
}

/// A path after `old` has become `new`; `None` if that does not concern it.
pub(super) fn rebased(path: &[u8], old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(old)?;
    (rest.is_empty() || rest.starts_with(b"/")).then(|| [new, rest].concat())
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

    #[test]
    fn paths_follow_a_move_of_whole_components() {
        assert_eq!(rebased(b"d/f", b"d", b"e/x").as_deref(), Some(&b"e/x/f"[..]));
        assert_eq!(rebased(b"d", b"d", b"e").as_deref(), Some(&b"e"[..]));
        assert_eq!(rebased(b"dd/f", b"d", b"e"), None);
        assert_eq!(rebased(b"f", b"d", b"e"), None);
    }
}
