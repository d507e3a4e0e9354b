//! Byte-range locks, by the kernel's open-file-description locks.
//!
//! An owner is a process of a client (`proc_id`, `client_id`) of one session on one file. Each has one open file
//! description of its own, so owners conflict with each other exactly as processes do, whichever fids they use, and
//! with programs of the host.
//!
//! A lock ends when its owner releases it, or when the last fid through which the owner locked is clunked (or its
//! session ends): the handles of those fids share the description, and closing it is what frees the locks. A client
//! that follows POSIX releases its locks at the first close by itself.
//!
//! The description is opened for reading and writing if possible; a file that can only be read takes shared locks only
//! (`EBADF` for exclusive ones), one that can only be written exclusive ones only.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::OFlags;

use super::Passthrough;
use super::host::Host;
use super::node::{FileKind, Inode};
use super::open::OpenFile;
use super::ranges::RangeSet;
use super::rawio;
use super::status::FileId;
use crate::errno::Errno;
use crate::fs::{LockConflict, LockOwner, LockRange, LockRequest};
use crate::limits::MAX_LOCK_RANGES;
use crate::session::lock;
use crate::wire::LockType;

/// The owners whose locks were taken through one open file.
pub(super) type Held = Vec<Arc<Owner>>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    session: u64,
    file: FileId,
    proc_id: u32,
    client_id: Vec<u8>,
}

impl Key {
    fn new(session: u64, inode: &Inode, owner: &LockOwner<'_>) -> Key {
        Key { session, file: inode.id(), proc_id: owner.proc_id, client_id: owner.client_id.to_vec() }
    }
}

/// An owner with its open file description. Locks end when the last reference is dropped.
pub(super) struct Owner {
    fd: OwnedFd,
    host: Arc<Host>,
    ranges: Mutex<RangeSet>,
    key: Key,
    table: Arc<LockTable>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.host.pool.closed();
        self.table.ranges.fetch_sub(lock(&self.ranges).len(), Ordering::Relaxed);
        let mut owners = lock(&self.table.owners);
        // Another may have taken its place since the last reference went.
        if owners.get(&self.key).is_some_and(|now| std::ptr::eq(now.as_ptr(), self)) {
            owners.remove(&self.key);
        }
    }
}

/// All owners. References to them are never dropped while the map is locked, since that would lock it again.
#[derive(Default)]
pub(super) struct LockTable {
    owners: Mutex<HashMap<Key, Weak<Owner>>>,
    /// Locked ranges of all owners.
    ranges: AtomicUsize,
    sessions: AtomicU64,
}

impl LockTable {
    /// A number that no session had before.
    pub(super) fn new_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    fn find(&self, key: &Key) -> Option<Arc<Owner>> {
        lock(&self.owners).get(key)?.upgrade()
    }

    /// The owner, made with a description from `open` if there is none; `ENOLCK` if there are too many. The map is not
    /// locked during `open`, which may close other files, and with them owners.
    fn find_or_insert(
        self: &Arc<LockTable>,
        key: Key,
        host: &Arc<Host>,
        open: impl FnOnce() -> Result<OwnedFd, Errno>,
    ) -> Result<Arc<Owner>, Errno> {
        let is_full = |owners: &HashMap<Key, Weak<Owner>>| owners.len() >= host.pool.lock_owners();
        if let Some(owner) = self.find(&key) {
            return Ok(owner);
        }
        if is_full(&lock(&self.owners)) {
            return Err(Errno::ENOLCK);
        }
        let fd = open()?;
        let mut owners = lock(&self.owners);
        // Another thread may have come first.
        if let Some(owner) = owners.get(&key).and_then(Weak::upgrade) {
            return Ok(owner);
        }
        if is_full(&owners) {
            return Err(Errno::ENOLCK);
        }
        host.pool.opened();
        let (host, table) = (host.clone(), self.clone());
        let owner = Arc::new(Owner { fd, host, ranges: Mutex::default(), key: key.clone(), table });
        owners.insert(key, Arc::downgrade(&owner));
        Ok(owner)
    }

    /// An owner other than `asking` that holds a lock inside `range`.
    fn holder(&self, asking: &Key, range: LockRange) -> Option<(u32, Vec<u8>)> {
        let others: Vec<Arc<Owner>> = lock(&self.owners)
            .iter()
            .filter(|(key, _)| key.file == asking.file && *key != asking)
            .filter_map(|(_, owner)| owner.upgrade())
            .collect();
        others
            .iter()
            .find(|owner| lock(&owner.ranges).overlaps(range))
            .map(|owner| (owner.key.proc_id, owner.key.client_id.clone()))
    }
}

impl Owner {
    /// Takes or releases, and keeps the list of ranges in step; false if another lock is in the way.
    fn set(&self, request: &LockRequest<'_>) -> Result<bool, Errno> {
        let mut ranges = lock(&self.ranges);
        let before = ranges.len();
        let total = &self.table.ranges;
        // An unlock in the middle of a range leaves two.
        let adds = request.kind != LockType::UNLOCK || ranges.is_split_by(request.range);
        if adds && total.load(Ordering::Relaxed) >= MAX_LOCK_RANGES {
            return Err(Errno::ENOLCK);
        }
        if !rawio::set_lock(self.fd.as_fd(), request.kind, request.range)? {
            return Ok(false);
        }
        ranges.set(request.range, request.kind);
        total.fetch_add(ranges.len(), Ordering::Relaxed);
        total.fetch_sub(before, Ordering::Relaxed);
        Ok(true)
    }

    fn is_idle(&self) -> bool {
        lock(&self.ranges).len() == 0
    }
}

impl Passthrough {
    pub(super) fn set_lock(&self, file: &OpenFile, request: &LockRequest<'_>) -> Result<bool, Errno> {
        let key = Key::new(self.session, &file.inode, &request.owner);
        if request.kind == LockType::UNLOCK {
            let Some(owner) = self.locks.find(&key) else {
                return Ok(true);
            };
            // Locked across both steps: another thread could take a lock between them.
            let mut held = lock(&file.locks);
            owner.set(request)?;
            if owner.is_idle() {
                held.retain(|other| !Arc::ptr_eq(other, &owner));
            }
            return Ok(true);
        }
        let owner = self.locks.find_or_insert(key, &self.host, || self.open_for_locks(&file.inode))?;
        // Locked across both steps: an unlock by another thread could let go of the owner between them.
        let mut held = lock(&file.locks);
        let granted = owner.set(request)?;
        if granted && !held.iter().any(|other| Arc::ptr_eq(other, &owner)) {
            held.push(owner);
        }
        Ok(granted)
    }

    pub(super) fn test_lock(&self, file: &OpenFile, request: &LockRequest<'_>) -> Result<Option<LockConflict>, Errno> {
        let key = Key::new(self.session, &file.inode, &request.owner);
        let owner = self.locks.find(&key);
        // Without an own description any other serves: it holds no locks, so all are foreign to it.
        let found = match &owner {
            Some(owner) => rawio::test_lock(owner.fd.as_fd(), request.kind, request.range)?,
            None => rawio::test_lock(file.fd()?.as_fd(), request.kind, request.range)?,
        };
        let Some((kind, range)) = found else {
            return Ok(None);
        };
        Ok(Some(LockConflict { kind, range, owner: self.locks.holder(&key, range) }))
    }

    fn open_for_locks(&self, inode: &Inode) -> Result<OwnedFd, Errno> {
        let path = inode.fd()?;
        let open = |access| self.host.with_room(|| self.host.proc_fds.reopen(path.as_fd(), access));
        if inode.kind() == FileKind::Directory {
            return open(OFlags::RDONLY);
        }
        open(OFlags::RDWR).or_else(|_| open(OFlags::RDONLY)).or_else(|_| open(OFlags::WRONLY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Name, PassthroughOptions};

    #[test]
    fn owners_may_go_while_a_description_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("f"), "").unwrap();
        let files = Passthrough::new(folder.path(), PassthroughOptions::default()).unwrap();
        let (inode, _) = files.host.reach(&files.root, Name::existing(b"f").unwrap()).unwrap();
        let owner = |proc_id| Key::new(0, &inode, &LockOwner { proc_id, client_id: b"" });
        let make = |key, open: &dyn Fn()| {
            files.locks.find_or_insert(key, &files.host, || {
                open();
                files.open_for_locks(&inode)
            })
        };
        let going = Mutex::new(Some(make(owner(1), &|| ()).unwrap()));
        // What a reclaim does when it meets the last reference to a file that was clunked.
        let made = make(owner(2), &|| {
            assert!(files.locks.owners.try_lock().is_ok(), "this would wait for itself");
            drop(lock(&going).take());
        });
        assert!(made.is_ok() && files.locks.find(&owner(1)).is_none());
        // Another thread may make the same owner meanwhile: there is one.
        let inner = Mutex::new(None);
        let outer = make(owner(3), &|| *lock(&inner) = Some(make(owner(3), &|| ()).unwrap())).unwrap();
        assert!(lock(&inner).as_ref().is_some_and(|inner| Arc::ptr_eq(inner, &outer)));
    }
}
