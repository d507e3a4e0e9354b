//! Opening files: open.

use std::sync::Mutex;

use super::super::Server;
use super::super::open::OPEN_REPLY;
use super::super::reply::Reply;
use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::session::{FidState, LegacyOpen, Use};
use crate::wire::{AttrMask, Dialect, OpenFlags, OpenMode, Ropen, Topen};

/// `S_IFMT` and `S_IFDIR` of a mode.
pub(super) fn is_directory(mode: u32) -> bool {
    mode & 0o170_000 == 0o040_000
}

/// What a mode asks for in 9P2000.L's flags; `EINVAL` for bits that the dialect does not have.
pub(super) fn open_flags(mode: OpenMode, dialect: Dialect) -> Result<OpenFlags, Errno> {
    if mode.contains(OpenMode::APPEND) && dialect == Dialect::Plan9 {
        return Err(Errno::EINVAL);
    }
    let mut flags = match mode.access() {
        OpenMode::WRITE => OpenFlags::WRONLY,
        OpenMode::RDWR => OpenFlags::RDWR,
        _ => OpenFlags::RDONLY,
    };
    for (theirs, ours) in [(OpenMode::TRUNC, OpenFlags::TRUNC), (OpenMode::APPEND, OpenFlags::APPEND)] {
        if mode.contains(theirs) {
            flags |= ours;
        }
    }
    Ok(OpenFlags(flags))
}

impl<F: FileSystem> Server<F> {
    pub(in super::super) fn open(&self, message: &Topen, reply: &Reply<'_>) -> Result<usize, Errno> {
        reply.expect(OPEN_REPLY)?;
        let state = self.session.fids.get(message.fid)?;
        let node = state.walked()?;
        let mode = message.mode;
        let flags = open_flags(mode, reply.dialect())?;
        if flags.writes() || mode.contains(OpenMode::RCLOSE) {
            self.check_writable()?;
        }
        let attributes = self.fs.getattr(node, AttrMask::BASIC)?;
        let directory = is_directory(attributes.mode);
        if directory && (flags.writes() || mode.contains(OpenMode::RCLOSE)) {
            return Err(Errno::EISDIR);
        }
        if !directory && mode.access() == OpenMode::EXEC && attributes.mode & 0o111 == 0 {
            return Err(Errno::EACCES);
        }
        let opened = self.fs.open(node, flags)?;
        let open = FidState {
            node: node.clone(),
            uid: state.uid,
            used: Use::Legacy(LegacyOpen {
                handle: opened.handle,
                remove_on_close: mode.contains(OpenMode::RCLOSE),
                listing: directory.then(Mutex::default),
            }),
        };
        self.session.fids.replace(message.fid, &state, open)?;
        reply.send(&Ropen { qid: opened.qid, iounit: self.iounit() })
    }
}
