//! Where a reply goes, and how far it may reach.

use std::cell::Cell;

use crate::errno::Errno;
use crate::fs::{Hindrance, Patience};
use crate::segment::Writable;
use crate::wire::{Dialect, Message, Rerror, Rlerror, Rread, Tag};

/// Bytes of the replies that are put together on the stack: all but long names and errors in words.
const SMALL_REPLY: usize = 256;

/// The room for one reply. Every reply goes through [`Reply::send`], [`Reply::send_with_payload`] or [`Reply::error`],
/// which return its length: the used length that virtio reports, equal to the size field.
pub(super) struct Reply<'a> {
    tag: Tag,
    dialect: Dialect,
    room: Writable<'a>,
    limit: usize,
    terms: Terms,
    fate: Cell<Fate>,
}

/// On what terms a request is answered.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// By what the caller knows the request, if it may be parked.
    pub(super) ticket: Option<u64>,
    /// How long the calling thread may be kept.
    pub(super) patience: Patience,
    /// The session in which the request came.
    pub(super) era: u64,
}

/// Whether a request gets its reply now.
#[derive(Clone, Copy)]
pub(super) enum Fate {
    Answered,
    Parked,
    /// It has not begun: it needs more patience, this much.
    Hindered(Patience),
}

impl<'a> Reply<'a> {
    /// The first `limit` bytes of `room`, which must hold at least [`least_room`].
    #[inline]
    pub(super) fn new(tag: Tag, dialect: Dialect, room: Writable<'a>, limit: usize, terms: Terms) -> Reply<'a> {
        Reply { tag, dialect, room: room.slice(0, limit), limit, terms, fate: Cell::new(Fate::Answered) }
    }

    pub(super) fn terms(&self) -> Terms {
        self.terms
    }

    /// Notes that the request has not begun because it needs more patience. What is returned is never sent.
    pub(super) fn hindered(&self, needed: Patience) -> Errno {
        self.fate.set(Fate::Hindered(needed));
        Errno::EAGAIN
    }

    /// Checks, before anything is done, that the calling thread may be kept so long.
    pub(super) fn needs(&self, patience: Patience) -> Result<(), Errno> {
        if patience <= self.terms.patience { Ok(()) } else { Err(self.hindered(patience)) }
    }

    /// What is sent for a hindrance, if anything is.
    pub(super) fn error_for(&self, hindrance: Hindrance) -> Errno {
        match hindrance {
            Hindrance::Failed(error) => error,
            Hindrance::Waits(needed) => self.hindered(needed),
        }
    }

    /// The dialect of the session; that of Linux before there is one.
    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(super) fn tag(&self) -> Tag {
        self.tag
    }

    /// Most bytes of the reply by the terms of the session.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Notes that the request waits, and that nothing is to be written now.
    pub(super) fn park(&self) -> usize {
        self.fate.set(Fate::Parked);
        0
    }

    pub(super) fn fate(&self) -> Fate {
        self.fate.get()
    }

    /// Checks, before anything is changed, that a reply of `len` bytes will fit; `EMSGSIZE` if not.
    #[inline]
    pub(super) fn expect(&self, len: usize) -> Result<(), Errno> {
        if len <= self.room.len() { Ok(()) } else { Err(Errno::EMSGSIZE) }
    }

    /// Writes `message`; `EMSGSIZE` if it does not fit.
    #[inline]
    pub(super) fn send<'m>(&self, message: &impl Message<'m>) -> Result<usize, Errno> {
        let len = message.head_len();
        self.expect(len)?;
        let mut small = [0; SMALL_REPLY];
        if len > small.len() {
            return self.send_large(message);
        }
        let written = message.emit(self.tag, &mut small).map_err(|_| Errno::EMSGSIZE)?;
        Ok(self.room.copy_from(0, &small[..written]))
    }

    #[cold]
    fn send_large<'m>(&self, message: &impl Message<'m>) -> Result<usize, Errno> {
        let mut large = vec![0; message.head_len()];
        let written = message.emit(self.tag, &mut large).map_err(|_| Errno::EMSGSIZE)?;
        Ok(self.room.copy_from(0, &large[..written]))
    }

    /// The room behind an 11-byte head for at most `count` bytes of data; `EMSGSIZE` if data was asked for and none
    /// fits, since an empty answer would mean the end of the file.
    #[inline]
    pub(super) fn payload(&self, count: u32) -> Result<Writable<'a>, Errno> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let payload = self.room.slice(Rread::HEAD_LEN, count);
        if count > 0 && payload.is_empty() {
            return Err(Errno::EMSGSIZE);
        }
        Ok(payload)
    }

    /// Writes the head of a message whose payload is already in place behind it.
    #[inline]
    pub(super) fn send_with_payload<'m>(&self, message: &impl Message<'m>) -> Result<usize, Errno> {
        Ok(self.send(message)? + message.payload_len())
    }

    /// Writes an `Rlerror`, or the `Rerror` of an older dialect.
    pub(super) fn error(&self, error: Errno) -> usize {
        // A full descriptor table of this process is not one of the client's process.
        let error = if error == Errno::EMFILE { Errno::ENFILE } else { error };
        if self.dialect != Dialect::Linux {
            return self.error_in_words(error);
        }
        let mut buf = [0; Rlerror::LEN];
        // Fits: `buf` has the length of the message, and `receive` checked the room.
        let written = Rlerror { ecode: error.raw() }.emit(self.tag, &mut buf).unwrap_or(0);
        self.room.copy_from(0, &buf[..written])
    }

    #[cold]
    fn error_in_words(&self, error: Errno) -> usize {
        let words = error.words();
        let errno = self.dialect.has_unix_fields().then_some(error.raw());
        // At least 0, since `receive` checked the room.
        let room = self.room.len().saturating_sub(Rerror::LEN);
        let ename = &words.as_bytes()[..words.len().min(room)];
        self.send(&Rerror { ename, errno }).unwrap_or(0)
    }
}

/// The least room for a reply: that of an error.
#[inline]
pub(super) fn least_room(dialect: Dialect) -> usize {
    match dialect {
        Dialect::Linux => Rlerror::LEN,
        Dialect::Unix | Dialect::Plan9 => Rerror::LEN,
    }
}
