//! Extended attributes: xattrwalk, xattrcreate, and what a clunk makes of the latter.

use super::Server;
use super::reply::Reply;
use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::limits::{NAME_MAX, XATTR_SIZE_MAX};
use crate::session::{FidState, Use, XattrSnapshot, XattrWrite};
use crate::wire::{HEADER_LEN, Rxattrcreate, Rxattrwalk, Txattrcreate, Txattrwalk, XattrFlags};

/// Checks the name of an attribute: 1 to 255 bytes (`ERANGE` otherwise, as Linux answers) without NUL (`EINVAL`).
fn check_name(name: &[u8]) -> Result<(), Errno> {
    match name {
        name if name.contains(&0) => Err(Errno::EINVAL),
        name if name.is_empty() || name.len() > NAME_MAX => Err(Errno::ERANGE),
        _ => Ok(()),
    }
}

impl<F: FileSystem> Server<F> {
    pub(super) fn xattrwalk(&self, message: &Txattrwalk<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        reply.expect(HEADER_LEN + 8)?;
        let state = self.session.fids.get(message.fid)?;
        let node = state.file()?;
        self.session.fids.check_free(message.newfid)?;
        let value = if message.name.is_empty() {
            self.fs.listxattr(node)?
        } else {
            check_name(message.name)?;
            self.fs.getxattr(node, message.name)?
        };
        let snapshot = XattrSnapshot::new(value, &self.session.xattrs)?;
        // A value is at most 64 KiB, so the conversion cannot fail.
        let size = u64::try_from(snapshot.len()).unwrap_or(u64::MAX);
        let attribute = FidState { node: node.clone(), uid: state.uid, used: Use::XattrRead(snapshot) };
        self.session.fids.insert(message.newfid, attribute, reply.terms().era)?;
        reply.send(&Rxattrwalk { size })
    }

    pub(super) fn xattrcreate(&self, message: &Txattrcreate<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        let state = self.session.fids.get(message.fid)?;
        let node = state.walked()?;
        check_name(message.name)?;
        if message.flags.0 & !(XattrFlags::CREATE | XattrFlags::REPLACE) != 0 {
            return Err(Errno::EINVAL);
        }
        let size =
            usize::try_from(message.attr_size).ok().filter(|size| *size <= XATTR_SIZE_MAX).ok_or(Errno::E2BIG)?;
        self.check_writable()?;
        let attribute = XattrWrite::new(message.name, size, message.flags, &self.session.xattrs)?;
        let attribute = FidState { node: node.clone(), uid: state.uid, used: Use::XattrWrite(attribute) };
        self.session.fids.replace(message.fid, &state, attribute)?;
        reply.send(&Rxattrcreate {})
    }

    /// Sets or removes the attribute that a clunked fid has written.
    pub(super) fn finish_xattr(&self, node: &F::Node, attribute: &XattrWrite) -> Result<(), Errno> {
        match attribute.finish()? {
            Some(value) => self.fs.setxattr(node, &attribute.name, &value, attribute.flags),
            None => self.fs.removexattr(node, &attribute.name),
        }
    }
}
