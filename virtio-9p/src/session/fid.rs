//! What a fid stands for.

use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::session::{XattrSnapshot, XattrWrite};

/// A file that a client refers to by a fid, and what it does with it.
///
/// It never changes: opening or creating puts a new one in the fid's place, so a request that still works with the old one
/// sees a consistent state.
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
    /// It is open.
    Open(F::Handle),
    /// It reads an extended attribute of the file.
    XattrRead(XattrSnapshot),
    /// It writes an extended attribute of the file.
    XattrWrite(XattrWrite),
}

impl<F: FileSystem> FidState<F> {
    /// The open file; `EBADF` if the fid is not open.
    pub(crate) fn handle(&self) -> Result<&F::Handle, Errno> {
        match &self.used {
            Use::Open(handle) => Ok(handle),
            _ => Err(Errno::EBADF),
        }
    }

    /// The file, for requests that make no sense on an extended attribute; `EBADF` on one.
    pub(crate) fn file(&self) -> Result<&F::Node, Errno> {
        match self.used {
            Use::Walked | Use::Open(_) => Ok(&self.node),
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
