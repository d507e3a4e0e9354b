//! T-messages.

use std::ops::Range;

use super::operations::{LockRequest, SetAttributes};
use super::wire::{Encoder, RLERROR_BYTES, message};
use super::{NOFID, PageBuffer};

/// Reply room of most messages, and that of the few that return a long string, in a Linux client.
const REPLY_BYTES: u32 = 4096;
const LONG_REPLY_BYTES: u32 = 8192;

/// File data that travels outside the message's own buffer, page by page.
#[derive(Clone, Debug, Default)]
pub enum Payload {
    /// None.
    #[default]
    None,
    /// The request ends with this part of a buffer.
    Send(PageBuffer, Range<usize>),
    /// The reply's data goes into this part of a buffer.
    Receive(PageBuffer, Range<usize>),
}

/// One request: a message and where its data and its reply go.
#[derive(Clone, Debug)]
pub struct Call {
    pub(super) kind: u8,
    pub(super) body: Vec<u8>,
    pub(super) payload: Payload,
    pub(super) reply_bytes: u32,
}

impl Call {
    /// A message of any type: `body` is what follows the header.
    #[must_use]
    pub fn new(kind: u8, body: Vec<u8>) -> Self {
        Self { kind, body, payload: Payload::None, reply_bytes: REPLY_BYTES }
    }

    /// Change the room for the reply, in bytes of the message's own buffer.
    #[must_use]
    pub fn with_reply_bytes(mut self, bytes: u32) -> Self {
        self.reply_bytes = bytes;
        self
    }

    fn encode(kind: u8, body: Encoder) -> Self {
        Self::new(kind, body.finish())
    }

    /// Tversion.
    #[must_use]
    pub fn version(msize: u32, version: &[u8]) -> Self {
        Self::encode(message::VERSION, Encoder::default().u32(msize).string(version))
    }

    /// Tauth.
    #[must_use]
    pub fn auth(afid: u32, user: &[u8], tree: &[u8], uid: u32) -> Self {
        let body = Encoder::default().u32(afid).string(user).string(tree);
        Self::encode(message::AUTH, body.u32(uid))
    }

    /// Tattach without authentication.
    #[must_use]
    pub fn attach(fid: u32, user: &[u8], tree: &[u8], uid: u32) -> Self {
        let body = Encoder::default().u32(fid).u32(NOFID);
        Self::encode(message::ATTACH, body.string(user).string(tree).u32(uid))
    }

    /// Tflush of the request with tag `old`.
    #[must_use]
    pub fn flush(old: u16) -> Self {
        Self::encode(message::FLUSH, Encoder::default().u16(old))
    }

    /// Twalk.
    #[must_use]
    pub fn walk(fid: u32, new_fid: u32, names: &[&[u8]]) -> Self {
        let count = u16::try_from(names.len()).unwrap_or(u16::MAX);
        let body = Encoder::default().u32(fid).u32(new_fid).u16(count);
        let body = names.iter().fold(body, |body, name| body.string(name));
        Self::encode(message::WALK, body).with_reply_bytes((9 + 13 * u32::from(count)).max(RLERROR_BYTES))
    }

    /// Tgetattr.
    #[must_use]
    pub fn getattr(fid: u32, mask: u64) -> Self {
        Self::encode(message::GETATTR, Encoder::default().u32(fid).u64(mask))
    }

    /// Tsetattr.
    #[must_use]
    pub fn setattr(fid: u32, set: &SetAttributes) -> Self {
        let body = Encoder::default().u32(fid).u32(set.valid);
        let body = body.u32(set.mode).u32(set.uid).u32(set.gid).u64(set.size);
        let body = body.u64(set.atime.seconds).u64(set.atime.nanoseconds);
        let body = body.u64(set.mtime.seconds).u64(set.mtime.nanoseconds);
        Self::encode(message::SETATTR, body)
    }

    /// Tlopen.
    #[must_use]
    pub fn lopen(fid: u32, flags: u32) -> Self {
        Self::encode(message::LOPEN, Encoder::default().u32(fid).u32(flags))
    }

    /// Tlcreate.
    #[must_use]
    pub fn lcreate(fid: u32, name: &[u8], flags: u32, mode: u32, gid: u32) -> Self {
        let body = Encoder::default().u32(fid).string(name);
        Self::encode(message::LCREATE, body.u32(flags).u32(mode).u32(gid))
    }

    /// Tread with the data in the message's own reply buffer.
    #[must_use]
    pub fn read(fid: u32, offset: u64, count: u32) -> Self {
        let body = Encoder::default().u32(fid).u64(offset).u32(count);
        Self::encode(message::READ, body).with_reply_bytes(RLERROR_BYTES.saturating_add(count))
    }

    /// Tread of as many bytes as `range` has, into `buffer`.
    #[must_use]
    pub fn read_pages(fid: u32, offset: u64, buffer: &PageBuffer, range: Range<usize>) -> Self {
        let count = u32::try_from(range.len()).unwrap_or(u32::MAX);
        let mut call = Self::read(fid, offset, count).with_reply_bytes(RLERROR_BYTES);
        call.payload = Payload::Receive(buffer.clone(), range);
        call
    }

    /// Twrite with the data in the message's own buffer.
    #[must_use]
    pub fn write(fid: u32, offset: u64, data: &[u8]) -> Self {
        let count = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let body = Encoder::default().u32(fid).u64(offset).u32(count);
        Self::encode(message::WRITE, body.bytes(data))
    }

    /// Twrite of the bytes of `range` in `buffer`.
    #[must_use]
    pub fn write_pages(fid: u32, offset: u64, buffer: &PageBuffer, range: Range<usize>) -> Self {
        let count = u32::try_from(range.len()).unwrap_or(u32::MAX);
        let body = Encoder::default().u32(fid).u64(offset).u32(count);
        let mut call = Self::encode(message::WRITE, body);
        call.payload = Payload::Send(buffer.clone(), range);
        call
    }

    /// Treaddir with the entries in the message's own reply buffer.
    #[must_use]
    pub fn readdir(fid: u32, offset: u64, count: u32) -> Self {
        let mut call = Self::read(fid, offset, count);
        call.kind = message::READDIR;
        call
    }

    /// Treaddir of as many bytes as `range` has, into `buffer`.
    #[must_use]
    pub fn readdir_pages(fid: u32, offset: u64, buffer: &PageBuffer, range: Range<usize>) -> Self {
        let mut call = Self::read_pages(fid, offset, buffer, range);
        call.kind = message::READDIR;
        call
    }

    /// Tclunk.
    #[must_use]
    pub fn clunk(fid: u32) -> Self {
        Self::encode(message::CLUNK, Encoder::default().u32(fid))
    }

    /// Tremove.
    #[must_use]
    pub fn remove(fid: u32) -> Self {
        Self::encode(message::REMOVE, Encoder::default().u32(fid))
    }

    /// Tmkdir.
    #[must_use]
    pub fn mkdir(directory: u32, name: &[u8], mode: u32, gid: u32) -> Self {
        let body = Encoder::default().u32(directory).string(name);
        Self::encode(message::MKDIR, body.u32(mode).u32(gid))
    }

    /// Tunlinkat; flag 0x200 is for directories.
    #[must_use]
    pub fn unlinkat(directory: u32, name: &[u8], flags: u32) -> Self {
        let body = Encoder::default().u32(directory).string(name).u32(flags);
        Self::encode(message::UNLINKAT, body)
    }

    /// Trenameat.
    #[must_use]
    pub fn renameat(from: u32, old: &[u8], to: u32, new: &[u8]) -> Self {
        let body = Encoder::default().u32(from).string(old).u32(to).string(new);
        Self::encode(message::RENAMEAT, body)
    }

    /// Trename.
    #[must_use]
    pub fn rename(fid: u32, directory: u32, name: &[u8]) -> Self {
        let body = Encoder::default().u32(fid).u32(directory).string(name);
        Self::encode(message::RENAME, body)
    }

    /// Treadlink.
    #[must_use]
    pub fn readlink(fid: u32) -> Self {
        Self::encode(message::READLINK, Encoder::default().u32(fid)).with_reply_bytes(LONG_REPLY_BYTES)
    }

    /// Tsymlink.
    #[must_use]
    pub fn symlink(directory: u32, name: &[u8], target: &[u8], gid: u32) -> Self {
        let body = Encoder::default().u32(directory).string(name);
        Self::encode(message::SYMLINK, body.string(target).u32(gid))
    }

    /// Tlink.
    #[must_use]
    pub fn link(directory: u32, fid: u32, name: &[u8]) -> Self {
        let body = Encoder::default().u32(directory).u32(fid).string(name);
        Self::encode(message::LINK, body)
    }

    /// Tmknod.
    #[must_use]
    pub fn mknod(directory: u32, name: &[u8], mode: u32, device: (u32, u32), gid: u32) -> Self {
        let body = Encoder::default().u32(directory).string(name).u32(mode);
        Self::encode(message::MKNOD, body.u32(device.0).u32(device.1).u32(gid))
    }

    /// Tstatfs.
    #[must_use]
    pub fn statfs(fid: u32) -> Self {
        Self::encode(message::STATFS, Encoder::default().u32(fid))
    }

    /// Tfsync; `data_only` is fdatasync.
    #[must_use]
    pub fn fsync(fid: u32, data_only: bool) -> Self {
        let body = Encoder::default().u32(fid).u32(u32::from(data_only));
        Self::encode(message::FSYNC, body)
    }

    /// Txattrwalk; an empty name asks for the list of names.
    #[must_use]
    pub fn xattrwalk(fid: u32, new_fid: u32, name: &[u8]) -> Self {
        let body = Encoder::default().u32(fid).u32(new_fid).string(name);
        Self::encode(message::XATTRWALK, body)
    }

    /// Txattrcreate; flag 1 is create, 2 is replace.
    #[must_use]
    pub fn xattrcreate(fid: u32, name: &[u8], size: u64, flags: u32) -> Self {
        let body = Encoder::default().u32(fid).string(name);
        Self::encode(message::XATTRCREATE, body.u64(size).u32(flags))
    }

    /// Tlock.
    #[must_use]
    pub fn lock(fid: u32, lock: &LockRequest<'_>) -> Self {
        let body = Encoder::default().u32(fid).u8(lock.kind).u32(lock.flags);
        let body = body.u64(lock.start).u64(lock.length).u32(lock.process);
        Self::encode(message::LOCK, body.string(lock.client))
    }

    /// Tgetlock; the flags are not sent.
    #[must_use]
    pub fn getlock(fid: u32, lock: &LockRequest<'_>) -> Self {
        let body = Encoder::default().u32(fid).u8(lock.kind);
        let body = body.u64(lock.start).u64(lock.length).u32(lock.process);
        Self::encode(message::GETLOCK, body.string(lock.client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of whole messages, header included, by the protocol's field lists.
    #[test]
    fn messages_have_the_sizes_of_the_protocol() {
        let set = SetAttributes::default();
        let lock = LockRequest { client: b"abc", ..LockRequest::default() };
        let sizes = [
            (21, Call::version(8192, b"9P2000.L")),
            (23 + 1 + 2, Call::attach(0, b"u", b"tr", 0)),
            (9, Call::flush(3)),
            (17 + 3 + 4, Call::walk(0, 1, &[b"a", b"bc"])),
            (19, Call::getattr(0, 0)),
            (67, Call::setattr(0, &set)),
            (15, Call::lopen(0, 0)),
            (25 + 3, Call::lcreate(0, b"abc", 0, 0, 0)),
            (23, Call::read(0, 0, 10)),
            (23 + 5, Call::write(0, 0, b"12345")),
            (23, Call::readdir(0, 0, 100)),
            (11, Call::clunk(0)),
            (11, Call::remove(0)),
            (21 + 1, Call::mkdir(0, b"d", 0, 0)),
            (17 + 1, Call::unlinkat(0, b"d", 0)),
            (19 + 3, Call::renameat(0, b"a", 1, b"bc")),
            (17 + 1, Call::rename(0, 1, b"a")),
            (11, Call::readlink(0)),
            (19 + 3, Call::symlink(0, b"a", b"bc", 0)),
            (17 + 1, Call::link(0, 1, b"a")),
            (29 + 1, Call::mknod(0, b"a", 0, (1, 2), 0)),
            (11, Call::statfs(0)),
            (15, Call::fsync(0, true)),
            (17 + 2, Call::xattrwalk(0, 1, b"ab")),
            (25 + 2, Call::xattrcreate(0, b"ab", 9, 0)),
            (38 + 3, Call::lock(0, &lock)),
            (34 + 3, Call::getlock(0, &lock)),
        ];
        for (size, call) in sizes {
            assert_eq!(call.body.len() + 7, size, "message {}", call.kind);
        }
    }
}
