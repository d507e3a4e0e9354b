//! Moving data: read, write, readdir, fsync.

use super::Server;
use super::reply::Reply;
use crate::errno::Errno;
use crate::fs::{FileSystem, Work};
use crate::segment::{Readable, Writable};
use crate::session::{LegacyOpen, Use};
use crate::wire::{DirEntry, Encoder, Field, Rfsync, Rread, Rreaddir, Rwrite, Tfsync, Tread, Treaddir, Twrite};

/// A position in a file or directory; `EINVAL` from 2^63, which Linux would take for a negative one.
fn position(offset: u64) -> Result<u64, Errno> {
    i64::try_from(offset).map(|_| offset).map_err(|_| Errno::EINVAL)
}

/// A byte count that came from a 32-bit field or was limited by one.
fn count(bytes: usize) -> Result<u32, Errno> {
    u32::try_from(bytes).map_err(|_| Errno::EIO)
}

impl<F: FileSystem> Server<F> {
    #[inline]
    pub(super) fn read(&self, message: &Tread, reply: &Reply<'_>) -> Result<usize, Errno> {
        let state = self.session.fids.get(message.fid)?;
        let offset = position(message.offset)?;
        let data = reply.payload(message.count)?;
        let read = match &state.used {
            Use::XattrRead(value) => value.read(offset, &data),
            Use::Legacy(LegacyOpen { handle, listing: Some(listing), .. }) => {
                reply.needs(self.fs.needs(Work::Names))?;
                self.list(&state.node, handle, listing, offset, data, reply.dialect())?
            }
            _ => {
                let handle = state.handle()?;
                // An empty read still tells whether the file can be read at all.
                let patience = reply.terms().patience;
                self.fs.read_within(handle, offset, &data, patience).map_err(|cause| reply.error_for(cause))?
            }
        };
        let count = count(read.min(data.len()))?;
        self.counters.read(count);
        reply.send_with_payload(&Rread { count })
    }

    #[inline]
    pub(super) fn write(&self, message: &Twrite, request: &Readable<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        let state = self.session.fids.get(message.fid)?;
        self.check_writable()?;
        let offset = position(message.offset)?;
        let len = usize::try_from(message.count).map_err(|_| Errno::EPROTO)?;
        let data = request.slice(Twrite::HEAD_LEN, len);
        let written = match &state.used {
            Use::XattrWrite(value) => value.write(offset, &data)?,
            _ => {
                let patience = reply.terms().patience;
                let written = self.fs.write_within(state.handle()?, offset, &data, patience);
                written.map_err(|cause| reply.error_for(cause))?
            }
        };
        let count = count(written.min(len))?;
        self.counters.written(count);
        reply.send(&Rwrite { count })
    }

    pub(super) fn readdir(&self, message: &Treaddir, reply: &Reply<'_>) -> Result<usize, Errno> {
        let state = self.session.fids.get(message.fid)?;
        let handle = state.handle()?;
        let cookie = position(message.offset)?;
        let mut listed = Listed::new(reply.payload(message.count)?);
        let mut refused = false;
        self.fs.readdir(handle, cookie, &mut |entry| {
            refused = !listed.push(entry);
            !refused
        })?;
        let used = listed.finish();
        if used == 0 && refused {
            // An empty answer would mean the end of the directory.
            return Err(Errno::EINVAL);
        }
        reply.send_with_payload(&Rreaddir { count: count(used)? })
    }

    pub(super) fn fsync(&self, message: &Tfsync, reply: &Reply<'_>) -> Result<usize, Errno> {
        let state = self.session.fids.get(message.fid)?;
        self.fs.fsync(state.handle()?, message.datasync != 0)?;
        reply.send(&Rfsync {})
    }
}

/// Bytes of directory entries that are gathered.
const GATHERED: usize = 2048;

/// Directory entries on their way into a reply. They are gathered, so that few large copies go to the client's memory,
/// which may lie in many pieces.
struct Listed<'a> {
    room: Writable<'a>,
    gathered: [u8; GATHERED],
    len: usize,
    /// Bytes of entries in all.
    used: usize,
}

impl<'a> Listed<'a> {
    fn new(room: Writable<'a>) -> Listed<'a> {
        Listed { room, gathered: [0; GATHERED], len: 0, used: 0 }
    }

    /// Adds an entry, whole; false, with nothing done, if it does not fit.
    #[inline]
    fn push(&mut self, entry: &DirEntry<'_>) -> bool {
        let len = entry.wire_len();
        if len > self.room.len() - self.len {
            return false;
        }
        if len > GATHERED - self.len {
            self.pass_on();
        }
        let mut to = Encoder::new(&mut self.gathered[self.len..]);
        // Only a name that is longer than any does not fit.
        if entry.encode(&mut to).is_err() {
            return false;
        }
        self.len += len;
        self.used += len;
        true
    }

    fn pass_on(&mut self) {
        // Fits, since no more was taken than there is room for.
        self.room.append(&self.gathered[..self.len]);
        self.len = 0;
    }

    /// Brings the rest to the client; returns how many bytes there are in all.
    fn finish(mut self) -> usize {
        self.pass_on();
        self.used
    }
}
