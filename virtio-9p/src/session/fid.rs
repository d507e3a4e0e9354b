//! What a fid stands for.

use std::sync::Mutex;

use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::session::{XattrSnapshot, XattrWrite};

/// A file that a client refers to by a fid, and what it does with it.
///
/// It never changes: opening or creating puts a new one in the fid's place, so a request that still works with the old
/// one sees a consistent state.
pub(crate) struct FidState<F: FileSystem> {
    /// The file.
    pub(crate) node: F::Node,
    /// The user that attached, if it gave a number.
    pub(crate) uid: Option<u32>,
    /// What the fid is used for.
    pub(crate) used: Use<F>,
}

/// What a fid is used for.
pub(crate) enum Use<F: FileSystem> {
    /// It was walked to.
    Walked,
    /// It is open, by a request of 9P2000.L.
    Open(F::Handle),
    /// It is open, by a request of the older dialects.
    Legacy(LegacyOpen<F>),
    /// It reads an extended attribute of the file.
    XattrRead(XattrSnapshot),
    /// It writes an extended attribute of the file.
    XattrWrite(XattrWrite),
}

/// A file opened in 9P2000 or 9P2000.u.
pub(crate) struct LegacyOpen<F: FileSystem> {
    pub(crate) handle: F::Handle,
    /// The file is removed when the fid goes.
    pub(crate) remove_on_close: bool,
    /// Where the reading of a directory stands; `None` for other files.
    pub(crate) listing: Option<Mutex<Cursor>>,
}

/// Where the reading of a directory by stat records stands.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// The offset that the client must ask for next: the bytes returned so far.
    pub(crate) offset: u64,
    /// The file system's cookie after the last entry returned.
    pub(crate) cookie: u64,
}

impl<F: FileSystem> FidState<F> {
    /// The open file; `EBADF` if the fid is not open.
    pub(crate) fn handle(&self) -> Result<&F::Handle, Errno> {
        match &self.used {
            Use::Open(handle) | Use::Legacy(LegacyOpen { handle, .. }) => Ok(handle),
            _ => Err(Errno::EBADF),
        }
    }

    /// Whether the file is to be removed when the fid goes.
    pub(crate) fn removes_on_close(&self) -> bool {
        matches!(self.used, Use::Legacy(LegacyOpen { remove_on_close: true, .. }))
    }

    /// The file, for requests that make no sense on an extended attribute; `EBADF` on one.
    pub(crate) fn file(&self) -> Result<&F::Node, Errno> {
        match self.used {
            Use::Walked | Use::Open(_) | Use::Legacy(_) => Ok(&self.node),
            Use::XattrRead(_) | Use::XattrWrite(_) => Err(Errno::EBADF),
        }
    }

    /// The file, for requests that turn the fid into something else; `EINVAL` if it already is.
    pub(crate) fn walked(&self) -> Result<&F::Node, Errno> {
        match self.used {
            Use::Walked => Ok(&self.node),
            _ => Err(Errno::EINVAL),
        }
    }
}
