//! What is known about files: getattr, setattr, statfs.

use super::Server;
use super::open::valid_id;
use super::reply::Reply;
use crate::errno::Errno;
use crate::fs::{FileSystem, SetAttr, SetTime};
use crate::wire::{Rsetattr, SetattrValid, Tgetattr, Time, Tsetattr, Tstatfs};

impl<F: FileSystem> Server<F> {
    #[inline]
    pub(super) fn getattr(&self, message: &Tgetattr, reply: &Reply<'_>) -> Result<usize, Errno> {
        let state = self.session.fids.get(message.fid)?;
        let mut answer = self.fs.getattr(state.file()?, message.request_mask)?;
        // Programs that size their buffers by this should fill a whole message.
        answer.blksize = answer.blksize.max(u64::from(self.iounit()));
        reply.send(&answer)
    }

    pub(super) fn setattr(&self, message: &Tsetattr, reply: &Reply<'_>) -> Result<usize, Errno> {
        let state = self.session.fids.get(message.fid)?;
        let node = state.file()?;
        self.check_writable()?;
        self.fs.setattr(node, state.handle().ok(), &change(message)?)?;
        reply.send(&Rsetattr {})
    }

    pub(super) fn statfs(&self, message: &Tstatfs, reply: &Reply<'_>) -> Result<usize, Errno> {
        let state = self.session.fids.get(message.fid)?;
        reply.send(&self.fs.statfs(state.file()?)?)
    }
}

/// The change that a message asks for; `EINVAL` for unknown bits and values that no file can have.
fn change(message: &Tsetattr) -> Result<SetAttr, Errno> {
    let valid = message.valid;
    if valid.0 & !SetattrValid::ALL != 0 {
        return Err(Errno::EINVAL);
    }
    let has = |bit| valid.contains(bit);
    Ok(SetAttr {
        mode: has(SetattrValid::MODE).then_some(message.mode & 0o7777),
        uid: valid_id(message.uid).filter(|_| has(SetattrValid::UID)),
        gid: valid_id(message.gid).filter(|_| has(SetattrValid::GID)),
        size: if has(SetattrValid::SIZE) {
            i64::try_from(message.size).map_err(|_| Errno::EINVAL)?;
            Some(message.size)
        } else {
            None
        },
        atime: time(has(SetattrValid::ATIME), has(SetattrValid::ATIME_SET), message.atime)?,
        mtime: time(has(SetattrValid::MTIME), has(SetattrValid::MTIME_SET), message.mtime)?,
        ctime: has(SetattrValid::CTIME),
    })
}

fn time(changed: bool, given: bool, value: Time) -> Result<Option<SetTime>, Errno> {
    match (changed, given) {
        (false, false) => Ok(None),
        (true, false) => Ok(Some(SetTime::Now)),
        // Larger values would mean "now" and "leave" to the host's kernel.
        (_, true) if value.nanoseconds >= 1_000_000_000 => Err(Errno::EINVAL),
        (_, true) => Ok(Some(SetTime::At(value))),
    }
}
