//! Serving more files than the process may have descriptors.
//!
//! A fid needs an `O_PATH` descriptor, an open one a second for I/O; one that created its file uses the same for both,
//! until it is clunked while another fid knows the file, or until it is closed here. When the budget is spent, those
//! that were not used for longest are closed and opened again when they are needed.
//!
//! **Who counts.** Every descriptor of nodes, open files and lock owners counts; [`Pool::make_room`] is called before
//! one is opened. Those of the first quarter of the budget are fixed: open for good, and nothing is counted when they
//! are used. The ones beyond are listed, and a clock hand goes over the list: what was used since it last came by is
//! spared once, what is in use is skipped (see [`Descriptor`](super::descriptor::Descriptor)). The list holds weak
//! references and is tidied as the hand goes, so that dropping a file takes no lock.
//!
//! **An I/O descriptor** is opened again through `/proc/self/fd` of its node, with the flags of the first time but
//! those that create or truncate. It is closed only if the kernel would allow opening it again now: a file that was
//! made with mode 0444 and opened for writing keeps it. (If the host takes the permission away later, a process without
//! `CAP_DAC_OVERRIDE` meets `EACCES`.) A directory finds its position again by the cookie.
//!
//! **An `O_PATH` descriptor** is closed only if there is a way back: the kernel's path of the file, below the root,
//! that at this moment leads to it again (see [`places`](super::places)). An unlinked file has none, nor has one that
//! left the tree: they keep theirs. So does a file with an open I/O descriptor. Opening it again resolves the path
//! under `openat2` as always, and compares device, inode and time of birth: another file in its place is `ESTALE`.
//!
//! **Changes of names through the server** keep the way back true: a rename rewrites the paths of closed descriptors,
//! and before a name is removed or replaced, a closed descriptor of that file is opened and stays. A rename or removal
//! by the host's own programs is noticed at the next use: `ESTALE`, as on NFS.
//!
//! If nothing can be closed, the client gets `ENFILE` a little beyond the budget, and one share cannot take what
//! belongs to another or to the process itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::errno::Errno;
use crate::limits::{
    DESCRIPTORS_UNDER_WAY, MAX_LOCK_OWNERS, MIN_DESCRIPTORS, MIN_LOCK_OWNERS, RECLAIM_BATCH, RECLAIM_SCAN,
};
use crate::session::lock;

/// What has a descriptor that can be closed.
pub(super) trait Reclaim: Send + Sync {
    /// Whether it was used since this was last asked.
    fn was_used(&self) -> bool;
    /// Closes the descriptor if that is possible; whether it was.
    fn reclaim(self: Arc<Self>) -> bool;
}

/// The descriptors of one file system.
#[derive(Default)]
pub(super) struct Pool {
    budget: usize,
    /// What is never exceeded.
    most: usize,
    lock_owners: usize,
    open: AtomicUsize,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    entries: Vec<Weak<dyn Reclaim>>,
    hand: usize,
    /// Length at which dead entries are looked for: they keep memory.
    tidy_at: usize,
}

impl Pool {
    /// A pool of at most `budget` descriptors; 0 is what `RLIMIT_NOFILE` allows, less an eighth for the rest of the
    /// process. At most `lock_owners` are for locks; 0 is a quarter of the budget.
    pub(super) fn new(budget: usize, lock_owners: usize) -> Pool {
        let budget = match budget {
            0 => {
                let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
                let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
                limit - limit / 8
            }
            budget => budget,
        };
        let lock_owners = match lock_owners {
            0 => (budget / 4).clamp(MIN_LOCK_OWNERS, MAX_LOCK_OWNERS),
            lock_owners => lock_owners,
        };
        let budget = budget.max(MIN_DESCRIPTORS);
        // Of the owners a quarter of the budget is for, and more were asked for.
        let more = lock_owners.saturating_sub(budget / 4).saturating_add(DESCRIPTORS_UNDER_WAY);
        let most = budget.saturating_add(more);
        Pool { budget, most, lock_owners, ..Pool::default() }
    }

    /// Counts a descriptor that was opened; whether it should be listed.
    #[inline]
    pub(super) fn opened(&self) -> bool {
        self.open.fetch_add(1, Ordering::Relaxed) >= self.budget / 4
    }

    /// Counts a descriptor that was closed.
    #[inline]
    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many lock owners may have a descriptor: they cannot be closed.
    pub(super) fn lock_owners(&self) -> usize {
        self.lock_owners
    }

    /// Closes descriptors if the budget is spent; `ENFILE` if that is not possible. Called before one is opened, with
    /// no lock of this module's users held.
    #[inline]
    pub(super) fn make_room(&self) -> Result<(), Errno> {
        if self.open.load(Ordering::Relaxed) < self.budget {
            return Ok(());
        }
        self.reclaim();
        if self.has_room_for(1) { Ok(()) } else { Err(Errno::ENFILE) }
    }

    /// Whether so many more may be opened, without closing others.
    pub(super) fn has_room_for(&self, more: usize) -> bool {
        self.open.load(Ordering::Relaxed).saturating_add(more) <= self.most
    }

    /// Lists what may be closed later.
    pub(super) fn list(&self, entry: Weak<dyn Reclaim>) {
        let mut list = lock(&self.list);
        if list.entries.len() >= list.tidy_at {
            list.entries.retain(|entry| entry.strong_count() > 0);
            list.tidy_at = (2 * list.entries.len()).max(1024);
        }
        list.entries.push(entry);
    }

    /// Closes some of the descriptors that were not used for longest.
    #[cold]
    pub(super) fn reclaim(&self) {
        // Dropped after the lock: the last reference may go with one, which closes more and may ask for room itself.
        let mut looked_at = Vec::new();
        let mut list = lock(&self.list);
        let mut closed = 0;
        for _ in 0..RECLAIM_SCAN {
            if closed >= RECLAIM_BATCH.min(self.budget / 8) || list.entries.is_empty() {
                return;
            }
            let at = list.hand % list.entries.len();
            let Some(entry) = list.entries[at].upgrade() else {
                list.entries.swap_remove(at);
                continue;
            };
            if !entry.was_used() && entry.clone().reclaim() {
                closed += 1;
            }
            list.hand = at + 1;
            looked_at.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn what_cannot_be_closed_ends_at_a_bound() {
        let pool = Pool::new(MIN_DESCRIPTORS, 0);
        let opened = std::iter::from_fn(|| pool.make_room().is_ok().then(|| pool.opened())).count();
        let owners = MIN_LOCK_OWNERS - MIN_DESCRIPTORS / 4;
        assert_eq!(opened, MIN_DESCRIPTORS + owners + DESCRIPTORS_UNDER_WAY);
        assert_eq!(pool.make_room(), Err(Errno::ENFILE));
        pool.closed();
        assert_eq!(pool.make_room(), Ok(()));
        assert!(Pool::new(usize::MAX, usize::MAX).has_room_for(usize::MAX));
    }

    /// Its only lasting reference goes while it is looked at, as when another thread clunks it.
    struct Vanishing {
        pool: Arc<Pool>,
        last: Mutex<Option<Arc<Vanishing>>>,
        list_was_free: Arc<AtomicBool>,
    }

    impl Reclaim for Vanishing {
        fn was_used(&self) -> bool {
            drop(lock(&self.last).take());
            true
        }

        fn reclaim(self: Arc<Self>) -> bool {
            false
        }
    }

    impl Drop for Vanishing {
        fn drop(&mut self) {
            self.list_was_free.store(self.pool.list.try_lock().is_ok(), Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_dropped_by_a_reclaim_may_ask_for_room_itself() {
        let pool = Arc::new(Pool::new(MIN_DESCRIPTORS, 0));
        let list_was_free = Arc::new(AtomicBool::new(false));
        let entry =
            Arc::new(Vanishing { pool: pool.clone(), last: Mutex::default(), list_was_free: list_was_free.clone() });
        let weak: Weak<Vanishing> = Arc::downgrade(&entry);
        pool.list(weak);
        let within = entry.clone();
        *lock(&within.last) = Some(entry);
        drop(within);
        pool.reclaim();
        assert!(list_was_free.load(Ordering::Relaxed));
    }
}
