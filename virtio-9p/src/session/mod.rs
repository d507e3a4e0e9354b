//! The state between a client and a server: the terms of the session and its fids.

mod fid;
mod parked;
mod sync;
mod table;
mod xattr;

use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) use fid::{FidState, Use};
pub(crate) use parked::{Answer, Finished, Parked, Waiting};
pub(crate) use sync::lock;
pub(crate) use table::FidTable;
pub(crate) use xattr::{XattrBudget, XattrSnapshot, XattrWrite};

use crate::fs::FileSystem;

/// One session.
pub(crate) struct Session<F: FileSystem> {
    /// Agreed message size in bytes; 0 before a `Tversion` succeeded.
    msize: AtomicU32,
    pub(crate) fids: FidTable<F>,
    pub(crate) xattrs: XattrBudget,
    pub(crate) parked: Parked<F>,
}

impl<F: FileSystem> Session<F> {
    pub(crate) fn new(max_fids: usize, max_xattr_bytes: usize, max_parked: usize) -> Session<F> {
        Session {
            msize: AtomicU32::new(0),
            fids: FidTable::new(max_fids),
            xattrs: XattrBudget::new(max_xattr_bytes),
            parked: Parked::new(max_parked),
        }
    }

    /// The agreed message size in bytes, `None` before a `Tversion` succeeded.
    pub(crate) fn msize(&self) -> Option<u32> {
        Some(self.msize.load(Ordering::Relaxed)).filter(|msize| *msize > 0)
    }

    /// Ends the session: drops every fid. With an msize, begins the next.
    pub(crate) fn restart(&self, msize: Option<u32>) {
        self.parked.cancel_all();
        self.fids.clear();
        self.msize.store(msize.unwrap_or(0), Ordering::Relaxed);
    }
}
