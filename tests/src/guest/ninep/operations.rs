//! The protocol's operations, one call each.

use super::call::Call;
use super::client::NinepClient;
use super::envelope::{NinepError, Reply};
use super::reply::{Attributes, DirectoryEntry, LockRecord, StatFs, Timestamp};
use super::wire::{Decoder, Qid};
use super::{IO_HEADER, NONUNAME, PageBuffer};

/// Larger reads and writes put their data into pages of their own, as Linux does.
const ZERO_COPY_ABOVE: usize = 1024;

/// What Tsetattr sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Which fields count: mode 1, uid 2, gid 4, size 8, atime 0x10, mtime 0x20, ctime 0x40, atime
    /// from the field 0x80, mtime from the field 0x100.
    pub valid: u32,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change.
    pub mtime: Timestamp,
}

/// What Tlock and Tgetlock ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockRequest<'a> {
    /// 0 read, 1 write, 2 unlock.
    pub kind: u8,
    /// Block 1, reclaim 2.
    pub flags: u32,
    /// First byte.
    pub start: u64,
    /// Length in bytes; 0 is to the end.
    pub length: u64,
    /// Process in the guest.
    pub process: u32,
    /// Name of the guest.
    pub client: &'a [u8],
}

/// Every operation fails with [`NinepError::Rlerror`] when the server answers an errno, and
/// otherwise as [`NinepClient::call`].
#[expect(clippy::missing_errors_doc, reason = "said once for all operations, above")]
impl NinepClient {
    /// Agree on 9P2000.L and on messages of at most `msize` bytes. Returns the server's size.
    pub fn version(&mut self, msize: u32) -> Result<u32, NinepError> {
        let (msize, version) = self.version_as(msize, b"9P2000.L")?;
        if version != b"9P2000.L" {
            let version = String::from_utf8_lossy(&version).into_owned();
            return Err(NinepError::Protocol(format!("version {version:?}")));
        }
        Ok(msize)
    }

    /// Propose any version. Returns the server's size and version.
    pub fn version_as(&mut self, msize: u32, version: &[u8]) -> Result<(u32, Vec<u8>), NinepError> {
        let reply = self.call(Call::version(msize, version))?;
        let (agreed, version) = decode(&reply, |d| Ok((d.u32()?, d.string()?)))?;
        if agreed > msize {
            return Err(NinepError::Protocol(format!("msize {agreed} for {msize}")));
        }
        self.msize = agreed;
        Ok((agreed, version))
    }

    /// Attach `fid` to the root of tree `tree` (empty: the only one) for numeric user `uid`.
    pub fn attach(&mut self, fid: u32, tree: &[u8], uid: u32) -> Result<Qid, NinepError> {
        let user: &[u8] = if uid == NONUNAME { b"nobody" } else { b"" };
        let reply = self.call(Call::attach(fid, user, tree, uid))?;
        decode(&reply, |d| d.qid())
    }

    /// Ask for authentication on `afid`.
    pub fn auth(&mut self, afid: u32, user: &[u8], tree: &[u8]) -> Result<Qid, NinepError> {
        let reply = self.call(Call::auth(afid, user, tree, NONUNAME))?;
        decode(&reply, |d| d.qid())
    }

    /// Walk from `fid` along `names` and name the result `new_fid`. Fewer qids than names mean that
    /// the walk stopped there and `new_fid` does not exist.
    pub fn walk(&mut self, fid: u32, new_fid: u32, names: &[&[u8]]) -> Result<Vec<Qid>, NinepError> {
        let reply = self.call(Call::walk(fid, new_fid, names))?;
        decode(&reply, |d| {
            let count = d.u16()?;
            (0..count).map(|_| d.qid()).collect()
        })
    }

    /// Read the attributes in `mask`.
    pub fn getattr(&mut self, fid: u32, mask: u64) -> Result<Attributes, NinepError> {
        let reply = self.call(Call::getattr(fid, mask))?;
        Ok(Attributes::parse(Decoder::new(&reply.body))?)
    }

    /// Set attributes.
    pub fn setattr(&mut self, fid: u32, set: &SetAttributes) -> Result<(), NinepError> {
        nothing(&self.call(Call::setattr(fid, set))?)
    }

    /// Open. Returns the qid and the largest I/O (0: as large as messages allow).
    pub fn lopen(&mut self, fid: u32, flags: u32) -> Result<(Qid, u32), NinepError> {
        let reply = self.call(Call::lopen(fid, flags))?;
        decode(&reply, |d| Ok((d.qid()?, d.u32()?)))
    }

    /// Create `name` in the directory `fid`, which becomes the open file.
    pub fn lcreate(
        &mut self,
        fid: u32,
        name: &[u8],
        flags: u32,
        mode: u32,
        gid: u32,
    ) -> Result<(Qid, u32), NinepError> {
        let reply = self.call(Call::lcreate(fid, name, flags, mode, gid))?;
        decode(&reply, |d| Ok((d.qid()?, d.u32()?)))
    }

    /// Read at most `count` bytes, with the data in pages if they are many.
    pub fn read(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<u8>, NinepError> {
        let bytes = usize::try_from(count).unwrap_or(usize::MAX);
        if bytes <= ZERO_COPY_ABOVE {
            return counted(&self.call(Call::read(fid, offset, count))?);
        }
        let buffer = PageBuffer::new(self.memory(), bytes, 0)?;
        let read = self.read_pages(fid, offset, &buffer, 0..bytes)?;
        let mut data = vec![0; usize::try_from(read).unwrap_or(usize::MAX)];
        buffer.read(0, &mut data)?;
        Ok(data)
    }

    /// Read into part of a buffer. Returns the bytes read.
    pub fn read_pages(
        &mut self,
        fid: u32,
        offset: u64,
        buffer: &PageBuffer,
        range: std::ops::Range<usize>,
    ) -> Result<u32, NinepError> {
        let reply = self.call(Call::read_pages(fid, offset, buffer, range))?;
        counted_pages(&reply)
    }

    /// Write `data`, from pages if it is long. Returns the bytes written.
    pub fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Result<u32, NinepError> {
        if data.len() > ZERO_COPY_ABOVE {
            let buffer = PageBuffer::new(self.memory(), data.len(), 0)?;
            buffer.write(0, data)?;
            return self.write_pages(fid, offset, &buffer, 0..data.len());
        }
        let reply = self.call(Call::write(fid, offset, data))?;
        decode(&reply, |d| d.u32())
    }

    /// Write part of a buffer. Returns the bytes written.
    pub fn write_pages(
        &mut self,
        fid: u32,
        offset: u64,
        buffer: &PageBuffer,
        range: std::ops::Range<usize>,
    ) -> Result<u32, NinepError> {
        let reply = self.call(Call::write_pages(fid, offset, buffer, range))?;
        decode(&reply, |d| d.u32())
    }

    /// The largest read or write in one message, in bytes.
    #[must_use]
    pub fn max_io(&self) -> u32 {
        self.msize.saturating_sub(IO_HEADER)
    }

    /// Read entries from the position `offset` (0: the start), at most `count` bytes of them.
    /// Nothing means the end.
    pub fn readdir(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<DirectoryEntry>, NinepError> {
        let bytes = usize::try_from(count).unwrap_or(usize::MAX);
        if bytes <= ZERO_COPY_ABOVE {
            let data = counted(&self.call(Call::readdir(fid, offset, count))?)?;
            return Ok(DirectoryEntry::parse_all(&data)?);
        }
        let buffer = PageBuffer::new(self.memory(), bytes, 0)?;
        let reply = self.call(Call::readdir_pages(fid, offset, &buffer, 0..bytes))?;
        let read = counted_pages(&reply)?;
        let mut data = vec![0; usize::try_from(read).unwrap_or(usize::MAX)];
        buffer.read(0, &mut data)?;
        Ok(DirectoryEntry::parse_all(&data)?)
    }

    /// Read a whole open directory.
    pub fn readdir_all(&mut self, fid: u32) -> Result<Vec<DirectoryEntry>, NinepError> {
        let mut entries: Vec<DirectoryEntry> = Vec::new();
        loop {
            let offset = entries.last().map_or(0, |entry| entry.offset);
            let more = self.readdir(fid, offset, self.max_io())?;
            if more.is_empty() {
                return Ok(entries);
            }
            entries.extend(more);
        }
    }

    /// Forget `fid`. It is gone even after an error.
    pub fn clunk(&mut self, fid: u32) -> Result<(), NinepError> {
        nothing(&self.call(Call::clunk(fid))?)
    }

    /// Remove the file and forget `fid`, which is gone even after an error.
    pub fn remove(&mut self, fid: u32) -> Result<(), NinepError> {
        nothing(&self.call(Call::remove(fid))?)
    }

    /// Make a directory.
    pub fn mkdir(&mut self, directory: u32, name: &[u8], mode: u32, gid: u32) -> Result<Qid, NinepError> {
        let reply = self.call(Call::mkdir(directory, name, mode, gid))?;
        decode(&reply, |d| d.qid())
    }

    /// Remove a name; flags 0x200 for a directory.
    pub fn unlinkat(&mut self, directory: u32, name: &[u8], flags: u32) -> Result<(), NinepError> {
        nothing(&self.call(Call::unlinkat(directory, name, flags))?)
    }

    /// Rename between directories.
    pub fn renameat(&mut self, from: u32, old: &[u8], to: u32, new: &[u8]) -> Result<(), NinepError> {
        nothing(&self.call(Call::renameat(from, old, to, new))?)
    }

    /// Rename the file of a fid.
    pub fn rename(&mut self, fid: u32, directory: u32, name: &[u8]) -> Result<(), NinepError> {
        nothing(&self.call(Call::rename(fid, directory, name))?)
    }

    /// Read the target of a symbolic link.
    pub fn readlink(&mut self, fid: u32) -> Result<Vec<u8>, NinepError> {
        let reply = self.call(Call::readlink(fid))?;
        decode(&reply, |d| d.string())
    }

    /// Make a symbolic link.
    pub fn symlink(&mut self, directory: u32, name: &[u8], target: &[u8], gid: u32) -> Result<Qid, NinepError> {
        let reply = self.call(Call::symlink(directory, name, target, gid))?;
        decode(&reply, |d| d.qid())
    }

    /// Give the file of `fid` another name.
    pub fn link(&mut self, directory: u32, fid: u32, name: &[u8]) -> Result<(), NinepError> {
        nothing(&self.call(Call::link(directory, fid, name))?)
    }

    /// Make a device node, FIFO or socket; `device` is (major, minor).
    pub fn mknod(
        &mut self,
        directory: u32,
        name: &[u8],
        mode: u32,
        device: (u32, u32),
        gid: u32,
    ) -> Result<Qid, NinepError> {
        let reply = self.call(Call::mknod(directory, name, mode, device, gid))?;
        decode(&reply, |d| d.qid())
    }

    /// Figures of the file system.
    pub fn statfs(&mut self, fid: u32) -> Result<StatFs, NinepError> {
        let reply = self.call(Call::statfs(fid))?;
        Ok(StatFs::parse(Decoder::new(&reply.body))?)
    }

    /// Write a file through to the disk.
    pub fn fsync(&mut self, fid: u32, data_only: bool) -> Result<(), NinepError> {
        nothing(&self.call(Call::fsync(fid, data_only))?)
    }

    /// Make `new_fid` the value of an extended attribute (empty name: the list of names). Returns
    /// its size in bytes.
    pub fn xattrwalk(&mut self, fid: u32, new_fid: u32, name: &[u8]) -> Result<u64, NinepError> {
        let reply = self.call(Call::xattrwalk(fid, new_fid, name))?;
        decode(&reply, |d| d.u64())
    }

    /// Make `fid` a buffer for `size` bytes of an extended attribute, set at the clunk.
    pub fn xattrcreate(&mut self, fid: u32, name: &[u8], size: u64, flags: u32) -> Result<(), NinepError> {
        nothing(&self.call(Call::xattrcreate(fid, name, size, flags))?)
    }

    /// Lock or unlock. Returns 0 done, 1 blocked, 2 error, 3 grace.
    pub fn lock(&mut self, fid: u32, lock: &LockRequest<'_>) -> Result<u8, NinepError> {
        let reply = self.call(Call::lock(fid, lock))?;
        decode(&reply, |d| d.u8())
    }

    /// Which lock stands in the way.
    pub fn getlock(&mut self, fid: u32, lock: &LockRequest<'_>) -> Result<LockRecord, NinepError> {
        let reply = self.call(Call::getlock(fid, lock))?;
        Ok(LockRecord::parse(Decoder::new(&reply.body))?)
    }
}

impl Reply {
    /// The data of an Rread or Rreaddir that went into the message's own buffer.
    ///
    /// # Errors
    /// [`NinepError::Protocol`] when count and data disagree.
    pub fn data(&self) -> Result<Vec<u8>, NinepError> {
        counted(self)
    }

    /// The bytes of an Rread or Rreaddir that went into data pages.
    ///
    /// # Errors
    /// [`NinepError::Protocol`] when count and data disagree.
    pub fn data_bytes(&self) -> Result<u32, NinepError> {
        counted_pages(self)
    }
}

fn decode<'a, T>(
    reply: &'a Reply,
    fields: impl FnOnce(&mut Decoder<'a>) -> Result<T, super::Malformed>,
) -> Result<T, NinepError> {
    let mut decoder = Decoder::new(&reply.body);
    let value = fields(&mut decoder)?;
    decoder.finish()?;
    Ok(value)
}

fn nothing(reply: &Reply) -> Result<(), NinepError> {
    decode(reply, |_| Ok(()))
}

fn counted(reply: &Reply) -> Result<Vec<u8>, NinepError> {
    decode(reply, |d| {
        let count = usize::try_from(d.u32()?).unwrap_or(usize::MAX);
        Ok(d.bytes(count)?.to_vec())
    })
}

fn counted_pages(reply: &Reply) -> Result<u32, NinepError> {
    let count = decode(reply, |d| d.u32())?;
    if count == reply.payload_bytes {
        Ok(count)
    } else {
        let got = reply.payload_bytes;
        Err(NinepError::Protocol(format!("count {count} with {got} bytes of data")))
    }
}
