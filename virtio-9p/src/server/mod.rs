//! Answers requests: one [`Server`] is one session over one file system.

mod attr;
mod dispatch;
mod frame;
mod io;
mod legacy;
mod lock;
mod namespace;
mod open;
mod parking;
mod reply;
mod session;
mod xattr;

use std::sync::Arc;

use crate::errno::Errno;
use crate::fs::{FileSystem, Patience, Work};
use crate::limits;
use crate::segment::{Prefix, Readable, Writable};
use crate::session::{FidState, Session, Use};
use crate::stats::{Counters, Stats};
use crate::wire::{Decoder, Dialect, Fid, HEADER_LEN, Header, MessageType, Twrite};

use dispatch::Frame;
pub use parking::{Completed, Started};
use reply::{Fate, Reply, Terms, least_room};

/// The terms on which a server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Largest message in bytes, 4,096 to 2^30; values outside are moved inside.
    pub max_msize: u32,
    /// Answer `EROFS` to every request that would change something. Reading still moves access times as the host's
    /// mount options say.
    pub readonly: bool,
    /// Most fids at a time; beyond it `ENFILE`. The passthrough file system spends up to two descriptors on each, so
    /// keep this below half of `RLIMIT_NOFILE`.
    pub max_fids: usize,
    /// Most bytes of extended attribute values held for all fids at a time; beyond it `ENOSPC`.
    pub max_xattr_bytes: usize,
    /// Most locks that wait at a time ([`Server::start`]); beyond it a lock is answered `BLOCKED`, and the client asks
    /// again. Keep it well below the size of the queue that the requests come from.
    pub max_parked_locks: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            max_msize: limits::DEFAULT_MAX_MSIZE,
            readonly: false,
            max_fids: limits::DEFAULT_MAX_FIDS,
            max_xattr_bytes: limits::DEFAULT_MAX_XATTR_BYTES,
            max_parked_locks: limits::DEFAULT_MAX_PARKED_LOCKS,
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The reply was written; this many bytes, exactly what its size field says. Virtio reports it as the used length.
    Reply(usize),
    /// No reply is possible, and nothing was done: the request is shorter than a header, or an error reply (11 bytes,
    /// in the older dialects 13) would not fit. Virtio reports a used length of 0.
    Dropped,
}

/// What a client does with a fid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FidUse {
    /// It refers to a file.
    Walked,
    /// It is open.
    Open,
    /// It reads or writes an extended attribute.
    Xattr,
}

impl FidUse {
    fn of<F: FileSystem>(used: &Use<F>) -> FidUse {
        match used {
            Use::Walked => FidUse::Walked,
            Use::Open(_) | Use::Legacy(_) => FidUse::Open,
            Use::XattrRead(_) | Use::XattrWrite(_) => FidUse::Xattr,
        }
    }
}

/// A server of 9P2000.L, 9P2000.u and 9P2000: one session over one file system.
///
/// `Tversion` chooses the dialect. In the older two, errors come with words; users and groups that have only names are
/// their numbers in decimal; a directory is read as stat records, without `.` and `..`; symbolic links are not
/// followed, and 9P2000 shows them as plain files. Modes that the host cannot keep (append-only, exclusive use) are
/// refused. A wstat gives a file another name in its directory: in 9P2000 only one that is free, in 9P2000.u as
/// `rename(2)` does.
///
/// All methods can be called from several threads at once. Requests are finished before [`Server::handle`] returns, so
/// a `Tflush` finds none to cancel but those that [`Server::start`] parked.
pub struct Server<F: FileSystem> {
    fs: F,
    options: Options,
    session: Session<F>,
    counters: Counters,
}

impl<F: FileSystem> Server<F> {
    /// A server of `fs` without a session; the client begins one with `Tversion`.
    pub fn new(fs: F, mut options: Options) -> Server<F> {
        options.max_msize = options.max_msize.clamp(limits::MIN_MSIZE, limits::MAX_MSIZE);
        Server {
            session: Session::new(options.max_fids, options.max_xattr_bytes, options.max_parked_locks),
            counters: Counters::new(),
            fs,
            options,
        }
    }

    /// Answers the request at the start of `request` at the start of `reply`.
    ///
    /// Whatever the bytes are, this neither panics nor writes outside `reply`; mistakes of the client are answered with
    /// an `Rlerror` (`Rerror` in the older dialects). `request` may be longer than the message, and the two may be cut
    /// into segments anywhere.
    pub fn handle(&self, request: &Readable<'_>, reply: &Writable<'_>) -> Outcome {
        match self.answer(request, reply, None, Patience::Endless) {
            Ok(Started::Done(outcome)) => outcome,
            // Only a request with a ticket is parked, and endless patience is enough for any.
            Ok(Started::Parked) | Err(_) => Outcome::Dropped,
        }
    }

    /// Answers a request, or parks it if it has a ticket and must wait, or says how much patience it needs.
    #[inline]
    fn answer(
        &self,
        request: &Readable<'_>,
        reply: &Writable<'_>,
        ticket: Option<u64>,
        patience: Patience,
    ) -> Result<Started, Patience> {
        let mut head = Prefix::new(*request);
        let terms = Terms { ticket, patience, era: self.session.fids.era() };
        let Some((header, reply)) = self.receive(&mut head, reply, terms) else {
            self.counters.dropped();
            return Ok(Started::Done(Outcome::Dropped));
        };
        let served = self.serve(header, request, &mut head, &reply);
        if let Fate::Hindered(needed) = reply.fate() {
            return Err(needed);
        }
        self.counters.request(header.kind);
        let written = match served {
            Ok(written) => written,
            Err(error) => {
                log::debug!("{} answered with {error:?}", header.kind.name().unwrap_or("unknown request"));
                self.counters.error();
                reply.error(error)
            }
        };
        if gives_up_locks(header.kind) {
            self.retry_parked();
        }
        Ok(match reply.fate() {
            Fate::Parked => Started::Parked,
            _ => Started::Done(Outcome::Reply(written)),
        })
    }

    /// How much patience a request needs before it is known what it needs in particular.
    #[inline]
    fn needs(&self, kind: MessageType) -> Patience {
        match kind {
            // What it gives up may be tried at this moment.
            MessageType::TFLUSH if self.parked_count() > 0 => self.fs.needs(Work::Names),
            // These find out by trying, and the others touch no file.
            MessageType::TREAD | MessageType::TWRITE | MessageType::TFLUSH | MessageType::TAUTH => Patience::None,
            MessageType::TFSYNC => self.fs.needs(Work::Sync),
            _ => self.fs.needs(Work::Names),
        }
    }

    /// Reads the header, if a reply to it is possible.
    fn receive<'a>(&self, head: &mut Prefix<'_>, reply: &Writable<'a>, terms: Terms) -> Option<(Header, Reply<'a>)> {
        let (dialect, limit) = match self.session.terms() {
            Some(agreed) => (agreed.dialect, usize::try_from(agreed.msize).unwrap_or(usize::MAX)),
            None => (Dialect::Linux, limits::MAX_HEAD),
        };
        if reply.len() < least_room(dialect) {
            return None;
        }
        let header: Header = Decoder::new(head.up_to(Twrite::HEAD_LEN)?).field().ok()?;
        Some((header, Reply::new(header.tag, dialect, *reply, limit, terms)))
    }

    #[inline]
    fn serve(
        &self,
        header: Header,
        request: &Readable<'_>,
        head: &mut Prefix<'_>,
        reply: &Reply<'_>,
    ) -> Result<usize, Errno> {
        let size = usize::try_from(header.size).map_err(|_| Errno::EMSGSIZE)?;
        if size < HEADER_LEN || size > request.len() {
            return Err(Errno::EPROTO);
        }
        if !reply.dialect().has_request(header.kind) {
            return Err(Errno::EOPNOTSUPP);
        }
        if header.kind != MessageType::TVERSION {
            let msize = self.session.msize().ok_or(Errno::EPROTO)?;
            if header.size > msize {
                return Err(Errno::EMSGSIZE);
            }
        }
        let head_len = if header.kind == MessageType::TWRITE { size.min(Twrite::HEAD_LEN) } else { size };
        // Only strings make a head this long, and none of them would be accepted.
        let bytes = head.up_to(head_len).ok_or(Errno::ENAMETOOLONG)?;
        if reply.terms().patience < Patience::Endless {
            reply.needs(self.needs(header.kind))?;
        }
        self.dispatch(Frame { header, bytes }, request, reply)
    }

    /// Drops every fid, and with them open files, locks and parked requests: the client is gone, or a new one takes
    /// over. The file system may keep the caller, which [`Server::end_session`] avoids.
    pub fn reset(&self) {
        self.close(self.end_session());
    }

    /// The part of [`Server::reset`] that waits for nothing: no fid is left. The rest is for [`Server::close`], in a thread
    /// that the file system may keep; until then, locks of the session may still be held.
    pub fn end_session(&self) -> Ended<F> {
        let mut files = self.session.restart(None, None).unwrap_or_default();
        files.extend(self.session.parked.forget());
        Ended(files)
    }

    /// Closes the files of a session that is over.
    pub fn close(&self, ended: Ended<F>) {
        for state in ended.0 {
            if state.removes_on_close() {
                // Nobody is there to be told of an error.
                let _ = self.fs.remove_node(&state.node);
            }
        }
    }

    /// Largest message of the session in bytes, as agreed; `None` before a `Tversion` succeeded.
    pub fn msize(&self) -> Option<u32> {
        self.session.msize()
    }

    /// Number of fids in use.
    pub fn fid_count(&self) -> usize {
        self.session.fids.len()
    }

    /// Up to `limit` fids in use, small numbers first, with what each is used for.
    pub fn fids(&self, limit: usize) -> Vec<(Fid, FidUse)> {
        self.session.fids.first(limit).into_iter().map(|(fid, state)| (fid, FidUse::of(&state.used))).collect()
    }

    /// What the server did so far.
    pub fn stats(&self) -> Stats {
        self.counters.snapshot()
    }

    /// The file system served.
    pub fn file_system(&self) -> &F {
        &self.fs
    }

    /// `EROFS` if the server is read-only.
    fn check_writable(&self) -> Result<(), Errno> {
        if self.options.readonly { Err(Errno::EROFS) } else { Ok(()) }
    }
}

/// The files of a session that is over.
pub struct Ended<F: FileSystem>(Vec<Arc<FidState<F>>>);

impl<F: FileSystem> Ended<F> {
    /// Whether there are none to be closed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<F: FileSystem> Drop for Server<F> {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Whether a request may free a lock, or is a lock that was parked while the lock became free.
fn gives_up_locks(kind: MessageType) -> bool {
    matches!(kind, MessageType::TLOCK | MessageType::TCLUNK | MessageType::TREMOVE)
}
