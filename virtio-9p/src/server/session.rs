//! Beginning and ending: version, attach, flush, clunk.

use super::Server;
use super::reply::Reply;
use crate::errno::Errno;
use crate::fs::{Attach, FileSystem};
use crate::limits::MIN_MSIZE;
use crate::session::{FidState, Use};
use crate::wire::{
    DIALECT_LINUX, DIALECT_UNKNOWN, Message, NOFID, NONUNAME, Qid, Rattach, Rclunk, Rflush, Rversion, Tattach, Tclunk,
    Tflush, Tversion,
};

/// Whether a version string asks for 9P2000.L, possibly with a suffix (`9P2000.L.something`) that this server does not offer.
fn asks_for_linux_dialect(version: &[u8]) -> bool {
    version.strip_prefix(DIALECT_LINUX).is_some_and(|suffix| suffix.is_empty() || suffix.starts_with(b"."))
}

impl<F: FileSystem> Server<F> {
    pub(super) fn version(&self, message: &Tversion<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        // Whatever the outcome, the old session is over.
        self.session.restart(None);
        if message.msize < MIN_MSIZE {
            return Err(Errno::EMSGSIZE);
        }
        let msize = message.msize.min(self.options.max_msize);
        if !asks_for_linux_dialect(message.version) {
            return reply.send(&Rversion { msize, version: DIALECT_UNKNOWN });
        }
        let answer = Rversion { msize, version: DIALECT_LINUX };
        reply.expect(answer.head_len())?;
        self.session.restart(Some(msize));
        reply.send(&answer)
    }

    pub(super) fn attach(&self, message: &Tattach<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        reply.expect(Rattach::LEN)?;
        if message.afid != NOFID {
            // No authentication file can exist.
            return Err(Errno::EBADF);
        }
        self.session.fids.check_free(message.fid)?;
        let uid = Some(message.n_uname).filter(|uid| *uid != NONUNAME);
        let root = self.fs.attach(&Attach { uname: message.uname, aname: message.aname, uid })?;
        let state = FidState { node: root.node, uid, used: Use::Walked };
        self.session.fids.insert(message.fid, state)?;
        reply.send(&Rattach { qid: root.qid })
    }

    /// A parked request is cancelled; the caller gives it back before this answer. Any other was answered before this one was
    /// seen, or is being answered by another thread, whose reply the client takes.
    pub(super) fn flush(&self, message: &Tflush, reply: &Reply<'_>) -> Result<usize, Errno> {
        self.session.parked.cancel(message.oldtag);
        reply.send(&Rflush {})
    }

    pub(super) fn clunk(&self, message: &Tclunk, reply: &Reply<'_>) -> Result<usize, Errno> {
        let state = self.session.fids.remove(message.fid)?;
        if let Use::XattrWrite(attribute) = &state.used {
            self.finish_xattr(&state.node, attribute)?;
        }
        drop(state);
        reply.send(&Rclunk {})
    }
}

impl Rattach {
    /// Length of the message in bytes.
    const LEN: usize = 7 + Qid::LEN;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_declined_and_other_dialects_are_not_ours() {
        for ours in [&b"9P2000.L"[..], b"9P2000.L.Google.7"] {
            assert!(asks_for_linux_dialect(ours));
        }
        for other in [&b"9P2000"[..], b"9P2000.u", b"9P2000.Lx", b"", b"9p2000.l"] {
            assert!(!asks_for_linux_dialect(other));
        }
    }
}
