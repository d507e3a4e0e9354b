//! Beginning and ending: version, attach, flush, clunk.

use super::reply::Reply;
use super::{Ended, Server};
use crate::errno::Errno;
use crate::fs::{Attach, FileSystem};
use crate::limits::MIN_MSIZE;
use crate::session::{FidState, Terms, Use};
use crate::wire::{
    DIALECT_UNKNOWN, Dialect, Message, NOFID, NONUNAME, Qid, Rattach, Rclunk, Rflush, Rversion, Tattach, Tclunk,
    Tflush, Tversion,
};

/// The user of an attachment. In 9P2000 there are names alone, and one that is a decimal number is that user.
fn user(message: &Tattach<'_>) -> Option<u32> {
    message.n_uname.or_else(|| number(message.uname)).filter(|uid| *uid != NONUNAME)
}

/// A user or group by its name in 9P2000: its number in decimal.
pub(super) fn number(name: &[u8]) -> Option<u32> {
    name.first()?.is_ascii_digit().then(|| std::str::from_utf8(name).ok()?.parse().ok()).flatten()
}

impl<F: FileSystem> Server<F> {
    pub(super) fn version(&self, message: &Tversion<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        let msize = message.msize.min(self.options.max_msize);
        let dialect = Dialect::offered(message.version);
        let answer = Rversion { msize, version: dialect.map_or(DIALECT_UNKNOWN, Dialect::version) };
        let fits = if message.msize < MIN_MSIZE { Err(Errno::EMSGSIZE) } else { reply.expect(answer.head_len()) };
        let terms = dialect.filter(|_| fits.is_ok()).map(|dialect| Terms { msize, dialect });
        // Whatever the outcome, the old session is over; and only that, should the file system have kept this request so
        // long that another client has come.
        self.session.parked.cancel(None);
        let files = self.session.restart(terms, Some(reply.terms().era)).ok_or(Errno::EBADF)?;
        self.close(Ended(files));
        fits?;
        reply.send(&answer)
    }

    pub(super) fn attach(&self, message: &Tattach<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        reply.expect(Rattach::LEN)?;
        if message.afid != NOFID {
            // No authentication file can exist.
            return Err(Errno::EBADF);
        }
        self.session.fids.check_free(message.fid)?;
        let uid = user(message);
        let root = self.fs.attach(&Attach { uname: message.uname, aname: message.aname, uid })?;
        let state = FidState { node: root.node, uid, used: Use::Walked };
        self.session.fids.insert(message.fid, state, reply.terms().era)?;
        reply.send(&Rattach { qid: root.qid })
    }

    /// A parked request is cancelled; the caller gives it back before this answer. Any other was answered before this
    /// one was seen, or is being answered by another thread, whose reply the client takes.
    pub(super) fn flush(&self, message: &Tflush, reply: &Reply<'_>) -> Result<usize, Errno> {
        self.session.parked.cancel(Some(message.oldtag));
        reply.send(&Rflush {})
    }

    #[inline]
    pub(super) fn clunk(&self, message: &Tclunk, reply: &Reply<'_>) -> Result<usize, Errno> {
        let state = self.session.fids.remove(message.fid)?;
        if let Use::XattrWrite(attribute) = &state.used {
            self.finish_xattr(&state.node, attribute)?;
        }
        if state.removes_on_close() {
            self.fs.remove_node(&state.node)?;
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
    fn users_are_numbers_in_decimal() {
        for (name, user) in [(&b"0"[..], Some(0)), (b"1000", Some(1000)), (b"4294967294", Some(u32::MAX - 1))] {
            assert_eq!(number(name), user);
        }
        for name in [&b""[..], b"root", b"+1", b"-1", b"1x", b" 1", b"4294967296", b"\xff"] {
            assert_eq!(number(name), None);
        }
    }
}
