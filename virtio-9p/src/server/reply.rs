//! Where a reply goes, and how far it may reach.

use std::cell::Cell;

use crate::errno::Errno;
use crate::segment::Writable;
use crate::wire::{Message, Rlerror, Rread, Tag};

/// The room for one reply. Every reply goes through [`Reply::send`], [`Reply::send_with_payload`] or [`Reply::error`], which
/// return its length: the used length that virtio reports, equal to the size field.
pub(super) struct Reply<'a> {
    tag: Tag,
    room: Writable<'a>,
    limit: usize,
    ticket: Option<u64>,
    parked: Cell<bool>,
}

impl<'a> Reply<'a> {
    /// The first `limit` bytes of `room`, which must hold at least an error reply. A request with a ticket may wait.
    pub(super) fn new(tag: Tag, room: Writable<'a>, limit: usize, ticket: Option<u64>) -> Reply<'a> {
        Reply { tag, room: room.slice(0, limit), limit, ticket, parked: Cell::new(false) }
    }

    /// By what the caller knows the request, if it may wait.
    pub(super) fn ticket(&self) -> Option<u64> {
        self.ticket
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
        self.parked.set(true);
        0
    }

    pub(super) fn is_parked(&self) -> bool {
        self.parked.get()
    }

    /// Checks, before anything is changed, that a reply of `len` bytes will fit; `EMSGSIZE` if not.
    pub(super) fn expect(&self, len: usize) -> Result<(), Errno> {
        if len <= self.room.len() { Ok(()) } else { Err(Errno::EMSGSIZE) }
    }

    /// Writes `message`; `EMSGSIZE` if it does not fit.
    pub(super) fn send<'m>(&self, message: &impl Message<'m>) -> Result<usize, Errno> {
        let len = message.head_len();
        self.expect(len)?;
        let mut small = [0; 256];
        let mut large;
        let buf = if len <= small.len() {
            &mut small[..]
        } else {
            large = vec![0; len];
            &mut large[..]
        };
        let written = message.emit(self.tag, buf).map_err(|_| Errno::EMSGSIZE)?;
        Ok(self.room.copy_from(0, &buf[..written]))
    }

    /// The room behind an 11-byte head for at most `count` bytes of data; `EMSGSIZE` if data was asked for and none fits, since
    /// an empty answer would mean the end of the file.
    pub(super) fn payload(&self, count: u32) -> Result<Writable<'a>, Errno> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let payload = self.room.slice(Rread::HEAD_LEN, count);
        if count > 0 && payload.is_empty() {
            return Err(Errno::EMSGSIZE);
        }
        Ok(payload)
    }

    /// Writes the head of a message whose payload is already in place behind it.
    pub(super) fn send_with_payload<'m>(&self, message: &impl Message<'m>) -> Result<usize, Errno> {
        Ok(self.send(message)? + message.payload_len())
    }

    /// Writes an `Rlerror`.
    pub(super) fn error(&self, error: Errno) -> usize {
        // A full descriptor table of this process is not one of the client's process.
        let error = if error == Errno::EMFILE { Errno::ENFILE } else { error };
        let mut buf = [0; Rlerror::LEN];
        // Fits: `buf` has the length of the message, and `receive` checked the room.
        let written = Rlerror { ecode: error.raw() }.emit(self.tag, &mut buf).unwrap_or(0);
        self.room.copy_from(0, &buf[..written])
    }
}
