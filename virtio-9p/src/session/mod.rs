//! The state between a client and a server: the terms of the session and its fids.

mod budget;
mod fid;
mod parked;
mod sync;
mod table;
mod xattr;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use budget::{Budget, Held};
pub(crate) use fid::{Cursor, FidState, LegacyOpen, Use};
pub(crate) use parked::{Answer, Finished, Parked, Waiting};
pub(crate) use sync::lock;
pub(crate) use table::FidTable;
pub(crate) use xattr::{XattrSnapshot, XattrWrite};

use crate::fs::FileSystem;
use crate::wire::Dialect;

/// What a `Tversion` agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Largest message in bytes, not 0.
    pub(crate) msize: u32,
    pub(crate) dialect: Dialect,
}

impl Terms {
    /// One word, so that both are always of the same session; 0 is no session.
    fn encode(terms: Option<Terms>) -> u64 {
        terms.map_or(0, |terms| {
            let dialect = match terms.dialect {
                Dialect::Linux => 0,
                Dialect::Unix => 1,
                Dialect::Plan9 => 2,
            };
            u64::from(terms.msize) | dialect << 32
        })
    }

    #[inline]
    fn decode(word: u64) -> Option<Terms> {
        let msize = u32::try_from(word & u64::from(u32::MAX)).ok().filter(|msize| *msize > 0)?;
        let dialect = match word >> 32 {
            0 => Dialect::Linux,
            1 => Dialect::Unix,
            _ => Dialect::Plan9,
        };
        Some(Terms { msize, dialect })
    }
}

/// One session.
pub(crate) struct Session<F: FileSystem> {
    /// What was agreed on, encoded; 0 before a `Tversion` succeeded.
    terms: AtomicU64,
    pub(crate) fids: FidTable<F>,
    pub(crate) xattrs: Budget,
    pub(crate) parked: Parked<F>,
}

impl<F: FileSystem> Session<F> {
    pub(crate) fn new(max_fids: usize, max_xattr_bytes: usize, max_parked: usize) -> Session<F> {
        Session {
            terms: AtomicU64::new(0),
            fids: FidTable::new(max_fids),
            xattrs: Budget::new(max_xattr_bytes),
            parked: Parked::new(max_parked),
        }
    }

    /// What was agreed on, `None` before a `Tversion` succeeded.
    #[inline]
    pub(crate) fn terms(&self) -> Option<Terms> {
        Terms::decode(self.terms.load(Ordering::Relaxed))
    }

    /// The agreed message size in bytes, `None` before a `Tversion` succeeded.
    #[inline]
    pub(crate) fn msize(&self) -> Option<u32> {
        self.terms().map(|terms| terms.msize)
    }

    /// Ends the session, and with terms begins the next; returns the files of the one that is over. `None`, and nothing is
    /// done, if a request asks for it that began in an `era` before. What is parked is the caller's to end.
    pub(crate) fn restart(&self, terms: Option<Terms>, era: Option<u64>) -> Option<Vec<Arc<FidState<F>>>> {
        let files = self.fids.take_all(era)?;
        self.terms.store(Terms::encode(terms), Ordering::Relaxed);
        Some(files.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_fit_a_word() {
        for dialect in [Dialect::Plan9, Dialect::Unix, Dialect::Linux] {
            for msize in [1, 4096, u32::MAX] {
                let terms = Some(Terms { msize, dialect });
                assert_eq!(Terms::decode(Terms::encode(terms)), terms);
            }
        }
        assert_eq!(Terms::decode(Terms::encode(None)), None);
    }
}
