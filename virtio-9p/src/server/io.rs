//! Moving data: read, write, readdir, fsync.

use super::Server;
use super::reply::Reply;
use crate::errno::Errno;
use crate::fs::{FileSystem, Work};
use crate::segment::Readable;
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
        let mut room = reply.payload(message.count)?;
        let all = room.len();
        let mut refused = false;
        self.fs.readdir(handle, cookie, &mut |entry| {
            refused = room.len() < entry.wire_len();
            if !refused {
                let mut head = [0; DirEntry::HEAD_LEN];
                // Fits: the name is written apart.
                refused = encode_head(entry, &mut head).is_none() || !room.append(&head) || !room.append(entry.name);
            }
            !refused
        })?;
        let used = all - room.len();
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

/// Writes a directory entry up to its name's bytes.
fn encode_head(entry: &DirEntry<'_>, head: &mut [u8; DirEntry::HEAD_LEN]) -> Option<()> {
    let mut to = Encoder::new(head);
    entry.qid.encode(&mut to).ok()?;
    entry.offset.encode(&mut to).ok()?;
    entry.kind.encode(&mut to).ok()?;
    u16::try_from(entry.name.len()).ok()?.encode(&mut to).ok()
}
