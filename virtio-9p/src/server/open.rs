//! Reaching and opening files: walk, lopen, lcreate.

use super::Server;
use super::reply::Reply;
use crate::errno::Errno;
use crate::fs::{Entry, FileSystem, Owner};
use crate::name::Name;
use crate::session::{FidState, Use};
use crate::wire::{HEADER_LEN, OpenFlags, Qid, Rlcreate, Rlopen, Rwalk, Tlcreate, Tlopen, Twalk, WalkQids};

/// Length in bytes of an `Rlopen`, `Rlcreate`, `Ropen` or `Rcreate`.
pub(super) const OPEN_REPLY: usize = HEADER_LEN + Qid::LEN + 4;

/// A group id of a message, where all ones means none.
pub(super) fn valid_id(id: u32) -> Option<u32> {
    Some(id).filter(|id| *id != u32::MAX)
}

impl<F: FileSystem> Server<F> {
    #[inline]
    pub(super) fn walk(&self, message: &Twalk<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        reply.expect(HEADER_LEN + 2 + Qid::LEN * message.names.len())?;
        let state = self.session.fids.get_beside(message.fid, message.newfid)?;
        let start = if message.newfid == message.fid { state.walked()? } else { state.file()? };

        let mut qids = WalkQids::default();
        let mut reached: Option<F::Node> = None;
        for name in message.names.iter() {
            let dir = reached.as_ref().unwrap_or(start);
            match self.step(dir, name) {
                Ok(entry) => {
                    qids.push(entry.qid).map_err(|_| Errno::EPROTO)?;
                    reached = Some(entry.node);
                }
                Err(error) if qids.as_slice().is_empty() => return Err(error),
                // A walk that fails later tells how far it came, and makes no fid.
                Err(_) => return reply.send(&Rwalk { qids }),
            }
        }

        let node = reached.unwrap_or_else(|| start.clone());
        let walked = FidState { node, uid: state.uid, used: Use::Walked };
        if message.newfid == message.fid {
            self.session.fids.replace(message.fid, &state, walked)?;
        } else {
            self.session.fids.insert(message.newfid, walked, reply.terms().era)?;
        }
        reply.send(&Rwalk { qids })
    }

    #[inline]
    fn step(&self, dir: &F::Node, name: &[u8]) -> Result<Entry<F::Node>, Errno> {
        if name == b".." { self.fs.parent(dir) } else { self.fs.lookup(dir, Name::existing(name)?) }
    }

    #[inline]
    pub(super) fn lopen(&self, message: &Tlopen, reply: &Reply<'_>) -> Result<usize, Errno> {
        reply.expect(OPEN_REPLY)?;
        let state = self.session.fids.get(message.fid)?;
        let node = state.walked()?;
        if message.flags.writes() {
            self.check_writable()?;
        }
        // The client's kernel has created the file by other means.
        let flags = OpenFlags(message.flags.0 & !(OpenFlags::CREATE | OpenFlags::EXCL));
        let opened = self.fs.open(node, flags)?;
        let open = FidState { node: node.clone(), uid: state.uid, used: Use::Open(opened.handle) };
        self.session.fids.replace(message.fid, &state, open)?;
        reply.send(&Rlopen { qid: opened.qid, iounit: self.iounit() })
    }

    #[inline]
    pub(super) fn lcreate(&self, message: &Tlcreate<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        reply.expect(OPEN_REPLY)?;
        let state = self.session.fids.get(message.fid)?;
        let dir = state.walked()?;
        let name = Name::fresh(message.name)?;
        self.check_writable()?;
        let owner = Owner { uid: state.uid, gid: valid_id(message.gid) };
        let created = self.fs.create(dir, name, message.flags, message.mode & 0o7777, owner)?;
        let open = FidState { node: created.node, uid: state.uid, used: Use::Open(created.handle) };
        self.session.fids.replace(message.fid, &state, open)?;
        reply.send(&Rlcreate { qid: created.qid, iounit: self.iounit() })
    }

    /// The payload of a read or write in bytes: whole pages, so that large transfers stay aligned.
    pub(super) fn iounit(&self) -> u32 {
        /// What Linux subtracts from msize for the head of any read or write (`P9_IOHDRSZ`).
        const IO_HEADER: u32 = 24;
        let payload = self.session.msize().unwrap_or(0).saturating_sub(IO_HEADER);
        payload - payload % 4096
    }
}
