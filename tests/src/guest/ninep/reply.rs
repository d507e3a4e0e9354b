//! What R-messages carry.

use super::wire::{Decoder, Malformed, Qid};

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds.
    pub seconds: u64,
    /// Nanoseconds, 0 to 999 999 999.
    pub nanoseconds: u64,
}

impl Timestamp {
    fn parse(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Self { seconds: decoder.u64()?, nanoseconds: decoder.u64()? })
    }
}

/// Rgetattr: what `stat` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Which fields are good: mode 1, nlink 2, uid 4, gid 8, rdev 0x10, atime 0x20, mtime 0x40,
    /// ctime 0x80, inode 0x100, size 0x200, blocks 0x400, btime 0x800, generation 0x1000, data
    /// version 0x2000.
    pub valid: u64,
    /// The file.
    pub qid: Qid,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u64,
    /// Device number of a device node.
    pub rdev: u64,
    /// Length in bytes.
    pub size: u64,
    /// Preferred size of I/O in bytes.
    pub block_size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the data.
    pub mtime: Timestamp,
    /// Last change of the attributes.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Inode generation.
    pub generation: u64,
    /// Data version.
    pub data_version: u64,
}

impl Attributes {
    pub(super) fn parse(mut decoder: Decoder<'_>) -> Result<Self, Malformed> {
        let attributes = Self {
            valid: decoder.u64()?,
            qid: decoder.qid()?,
            mode: decoder.u32()?,
            uid: decoder.u32()?,
            gid: decoder.u32()?,
            nlink: decoder.u64()?,
            rdev: decoder.u64()?,
            size: decoder.u64()?,
            block_size: decoder.u64()?,
            blocks: decoder.u64()?,
            atime: Timestamp::parse(&mut decoder)?,
            mtime: Timestamp::parse(&mut decoder)?,
            ctime: Timestamp::parse(&mut decoder)?,
            btime: Timestamp::parse(&mut decoder)?,
            generation: decoder.u64()?,
            data_version: decoder.u64()?,
        };
        decoder.finish()?;
        Ok(attributes)
    }
}

/// Rstatfs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// File system type.
    pub kind: u32,
    /// Block size in bytes.
    pub block_size: u32,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Blocks free to ordinary users.
    pub available: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub free_files: u64,
    /// File system id.
    pub fsid: u64,
    /// Longest name in bytes.
    pub name_bytes: u32,
}

impl StatFs {
    pub(super) fn parse(mut decoder: Decoder<'_>) -> Result<Self, Malformed> {
        let statfs = Self {
            kind: decoder.u32()?,
            block_size: decoder.u32()?,
            blocks: decoder.u64()?,
            free: decoder.u64()?,
            available: decoder.u64()?,
            files: decoder.u64()?,
            free_files: decoder.u64()?,
            fsid: decoder.u64()?,
            name_bytes: decoder.u32()?,
        };
        decoder.finish()?;
        Ok(statfs)
    }
}

/// One entry of Rreaddir.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The file.
    pub qid: Qid,
    /// Where to go on after this entry.
    pub offset: u64,
    /// `DT_…` number.
    pub kind: u8,
    /// Its name.
    pub name: Vec<u8>,
}

impl DirectoryEntry {
    pub(super) fn parse_all(data: &[u8]) -> Result<Vec<Self>, Malformed> {
        let mut decoder = Decoder::new(data);
        let mut entries = Vec::new();
        while !decoder.is_empty() {
            entries.push(Self {
                qid: decoder.qid()?,
                offset: decoder.u64()?,
                kind: decoder.u8()?,
                name: decoder.string()?,
            });
        }
        Ok(entries)
    }
}

/// Rgetlock: the lock that stands in the way, or the one asked about with type 2 (unlocked).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockRecord {
    /// 0 read, 1 write, 2 unlocked.
    pub kind: u8,
    /// First byte.
    pub start: u64,
    /// Length in bytes; 0 is to the end.
    pub length: u64,
    /// The process that holds it.
    pub process: u32,
    /// The client that holds it.
    pub client: Vec<u8>,
}

impl LockRecord {
    pub(super) fn parse(mut decoder: Decoder<'_>) -> Result<Self, Malformed> {
        let record = Self {
            kind: decoder.u8()?,
            start: decoder.u64()?,
            length: decoder.u64()?,
            process: decoder.u32()?,
            client: decoder.string()?,
        };
        decoder.finish()?;
        Ok(record)
    }
}
