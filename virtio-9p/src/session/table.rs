//! The fids of a session.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use super::sync::{read, write};
use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::limits::DENSE_FIDS;
use crate::session::FidState;
use crate::wire::{Fid, NOFID};

type Shared<F> = Arc<FidState<F>>;

/// Fid numbers to files. Small numbers, the only ones that Linux uses, are array indices.
pub(crate) struct FidTable<F: FileSystem> {
    slots: RwLock<Slots<F>>,
    max: usize,
    /// How often the table was cleared. Changes while the slots are locked.
    era: AtomicU64,
}

struct Slots<F: FileSystem> {
    dense: Vec<Option<Shared<F>>>,
    sparse: HashMap<u32, Shared<F>>,
    count: usize,
}

impl<F: FileSystem> Default for Slots<F> {
    fn default() -> Slots<F> {
        Slots { dense: Vec::new(), sparse: HashMap::new(), count: 0 }
    }
}

/// The array index of a fid, if it is small enough to have one.
fn dense_index(fid: Fid) -> Option<usize> {
    (fid.0 < DENSE_FIDS).then(|| usize::try_from(fid.0).ok()).flatten()
}

impl<F: FileSystem> Slots<F> {
    #[inline]
    fn get(&self, fid: Fid) -> Option<&Shared<F>> {
        match dense_index(fid) {
            Some(index) => self.dense.get(index)?.as_ref(),
            None => self.sparse.get(&fid.0),
        }
    }

    fn put(&mut self, fid: Fid, state: Shared<F>) -> Option<Shared<F>> {
        match dense_index(fid) {
            Some(index) => {
                if index >= self.dense.len() {
                    self.dense.resize_with(index + 1, || None);
                }
                self.dense[index].replace(state)
            }
            None => self.sparse.insert(fid.0, state),
        }
    }

    fn take(&mut self, fid: Fid) -> Option<Shared<F>> {
        match dense_index(fid) {
            Some(index) => self.dense.get_mut(index)?.take(),
            None => self.sparse.remove(&fid.0),
        }
    }
}

impl<F: FileSystem> FidTable<F> {
    pub(crate) fn new(max: usize) -> FidTable<F> {
        FidTable { slots: RwLock::default(), max, era: AtomicU64::new(0) }
    }

    /// Which session it is: a request that began in one leaves nothing behind in the next.
    pub(crate) fn era(&self) -> u64 {
        self.era.load(Ordering::Relaxed)
    }

    /// The file of `fid`; `EBADF` if there is none.
    #[inline]
    pub(crate) fn get(&self, fid: Fid) -> Result<Shared<F>, Errno> {
        read(&self.slots).get(fid).cloned().ok_or(Errno::EBADF)
    }

    /// As [`FidTable::get`], with what [`FidTable::check_free`] says of `other` if that is another fid.
    #[inline]
    pub(crate) fn get_beside(&self, fid: Fid, other: Fid) -> Result<Shared<F>, Errno> {
        let slots = read(&self.slots);
        let state = slots.get(fid).ok_or(Errno::EBADF)?;
        if other != fid {
            Self::check_slot(&slots, other, self.max)?;
        }
        Ok(state.clone())
    }

    /// Whether `fid` can be given to a new file: `EINVAL` if it is in use or no fid, `ENFILE` if the table is full.
    pub(crate) fn check_free(&self, fid: Fid) -> Result<(), Errno> {
        Self::check_slot(&read(&self.slots), fid, self.max)
    }

    fn check_slot(slots: &Slots<F>, fid: Fid, max: usize) -> Result<(), Errno> {
        if fid == NOFID || slots.get(fid).is_some() {
            return Err(Errno::EINVAL);
        }
        if slots.count >= max {
            return Err(Errno::ENFILE);
        }
        Ok(())
    }

    /// Gives `fid` to a new file; errors as for [`FidTable::check_free`], and `EBADF` if the session of `era` is over.
    pub(crate) fn insert(&self, fid: Fid, state: FidState<F>, era: u64) -> Result<(), Errno> {
        let state = Arc::new(state);
        let mut slots = write(&self.slots);
        if self.era() != era {
            return Err(Errno::EBADF);
        }
        Self::check_slot(&slots, fid, self.max)?;
        slots.put(fid, state);
        slots.count += 1;
        Ok(())
    }

    /// Puts `state` in the place of `old`; `EBADF` if `fid` has come to mean something else meanwhile.
    pub(crate) fn replace(&self, fid: Fid, old: &Shared<F>, state: FidState<F>) -> Result<(), Errno> {
        let state = Arc::new(state);
        let mut slots = write(&self.slots);
        if !slots.get(fid).is_some_and(|now| Arc::ptr_eq(now, old)) {
            return Err(Errno::EBADF);
        }
        let before = slots.put(fid, state);
        drop(slots);
        drop(before);
        Ok(())
    }

    /// Forgets `fid` and returns what it was; `EBADF` if there is none.
    pub(crate) fn remove(&self, fid: Fid) -> Result<Shared<F>, Errno> {
        let mut slots = write(&self.slots);
        let state = slots.take(fid).ok_or(Errno::EBADF)?;
        slots.count -= 1;
        Ok(state)
    }

    /// Forgets every fid and returns what they were; `None` if that is asked for in an `era` whose session is over.
    pub(crate) fn take_all(&self, era: Option<u64>) -> Option<impl Iterator<Item = Shared<F>> + use<F>> {
        // Closing files may take long: not under the lock.
        let mut slots = write(&self.slots);
        if era.is_some_and(|era| era != self.era()) {
            return None;
        }
        self.era.fetch_add(1, Ordering::Relaxed);
        let all = std::mem::take(&mut *slots);
        drop(slots);
        Some(all.dense.into_iter().flatten().chain(all.sparse.into_values()))
    }

    /// Up to `limit` fids with their files, small numbers first.
    pub(crate) fn first(&self, limit: usize) -> Vec<(Fid, Shared<F>)> {
        let slots = read(&self.slots);
        let dense = (0..).zip(&slots.dense).filter_map(|(fid, state)| Some((Fid(fid), state.clone()?)));
        dense.chain(slots.sparse.iter().map(|(fid, state)| (Fid(*fid), state.clone()))).take(limit).collect()
    }

    /// Number of fids.
    pub(crate) fn len(&self) -> usize {
        read(&self.slots).count
    }
}
