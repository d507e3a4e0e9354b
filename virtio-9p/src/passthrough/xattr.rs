//! Extended attributes. A symbolic link's own are meant; the kernel allows few on them.

use std::borrow::Cow;
use std::os::fd::AsFd;

use rustix::fs::XattrFlags as HostFlags;
use rustix::io::Errno as HostErrno;

use super::Passthrough;
use super::mapped::{host_name, is_access_list, seen_names};
use super::node::Inode;
use super::procfd::link_path;
use crate::errno::Errno;
use crate::limits::RACE_RETRIES;
use crate::wire::XattrFlags;

/// Fetches a value whose size is asked for first, and again if it grew meanwhile.
fn fetch(
    size: impl Fn() -> Result<usize, HostErrno>,
    value: impl Fn(&mut Vec<u8>) -> Result<usize, HostErrno>,
) -> Result<Vec<u8>, Errno> {
    for _ in 0..RACE_RETRIES {
        let len = size()?;
        if len == 0 {
            return Ok(Vec::new());
        }
        let mut room = vec![0; len];
        match value(&mut room) {
            Ok(len) => {
                room.truncate(len);
                return Ok(room);
            }
            Err(HostErrno::RANGE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::EAGAIN)
}

impl Passthrough {
    /// The host's name of an attribute; `kept` if it is kept from the client, `EOPNOTSUPP` for an access list where
    /// there are none.
    fn attribute_name<'a>(&self, name: &'a [u8], kept: Errno) -> Result<Cow<'a, [u8]>, Errno> {
        let identity = &self.host.identity;
        if identity.is_mapped() {
            return host_name(name).map(Cow::Owned).ok_or(kept);
        }
        if is_access_list(name) && !identity.has_access_lists() {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(Cow::Borrowed(name))
    }

    pub(super) fn get_attribute(&self, inode: &Inode, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let name = &*self.attribute_name(name, Errno::ENODATA)?;
        let fd = inode.fd()?;
        let path = link_path(fd.as_fd());
        fetch(|| rustix::fs::getxattr_query(&path, name), |room| rustix::fs::getxattr(&path, name, room.as_mut_slice()))
    }

    pub(super) fn list_attributes(&self, inode: &Inode) -> Result<Vec<u8>, Errno> {
        let fd = inode.fd()?;
        let path = link_path(fd.as_fd());
        let list =
            fetch(|| rustix::fs::listxattr_query(&path), |room| rustix::fs::listxattr(&path, room.as_mut_slice()))?;
        Ok(if self.host.identity.is_mapped() { seen_names(&list) } else { list })
    }

    pub(super) fn set_attribute(
        &self,
        inode: &Inode,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), Errno> {
        let mut host = HostFlags::empty();
        if flags.0 & XattrFlags::CREATE != 0 {
            host |= HostFlags::CREATE;
        }
        if flags.0 & XattrFlags::REPLACE != 0 {
            host |= HostFlags::REPLACE;
        }
        let name = self.attribute_name(name, Errno::EACCES)?;
        Ok(rustix::fs::setxattr(link_path(inode.fd()?.as_fd()), &*name, value, host)?)
    }

    pub(super) fn remove_attribute(&self, inode: &Inode, name: &[u8]) -> Result<(), Errno> {
        let name = self.attribute_name(name, Errno::EACCES)?;
        Ok(rustix::fs::removexattr(link_path(inode.fd()?.as_fd()), &*name)?)
    }
}
