//! Extended attributes. A symbolic link's own are meant; the kernel allows few on them.

use rustix::fs::XattrFlags as HostFlags;
use rustix::io::Errno as HostErrno;

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

pub(super) fn get(inode: &Inode, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let path = link_path(inode.fd());
    fetch(|| rustix::fs::getxattr_query(&path, name), |room| rustix::fs::getxattr(&path, name, room.as_mut_slice()))
}

pub(super) fn list(inode: &Inode) -> Result<Vec<u8>, Errno> {
    let path = link_path(inode.fd());
    fetch(|| rustix::fs::listxattr_query(&path), |room| rustix::fs::listxattr(&path, room.as_mut_slice()))
}

pub(super) fn set(inode: &Inode, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
    let mut host = HostFlags::empty();
    if flags.0 & XattrFlags::CREATE != 0 {
        host |= HostFlags::CREATE;
    }
    if flags.0 & XattrFlags::REPLACE != 0 {
        host |= HostFlags::REPLACE;
    }
    Ok(rustix::fs::setxattr(link_path(inode.fd()), name, value, host)?)
}

pub(super) fn remove(inode: &Inode, name: &[u8]) -> Result<(), Errno> {
    Ok(rustix::fs::removexattr(link_path(inode.fd()), name)?)
}
