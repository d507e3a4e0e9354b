//! What is known about files: getattr, setattr, statfs.

use super::codec::{Decoder, Encoder, Field, Malformed, newtype_field};
use super::header::Fid;
use super::message::messages;
use super::qid::Qid;

/// A point in time: `sec[8] nsec[8]`. Seconds before 1970 are negative, as two's complement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: u64,
    /// Nanoseconds within the second.
    pub nanoseconds: u64,
}

impl<'a> Field<'a> for Time {
    #[inline]
    fn wire_len(&self) -> usize {
        16
    }
    #[inline]
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
        Ok(Time { seconds: from.field()?, nanoseconds: from.field()? })
    }
    #[inline]
    fn encode(&self, to: &mut Encoder<'_>) -> Result<(), Malformed> {
        self.seconds.encode(to)?;
        self.nanoseconds.encode(to)
    }
}

/// Which fields of an `Rgetattr` are wanted or valid (`P9_STATS_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttrMask(pub u64);
newtype_field!(AttrMask);

impl AttrMask {
    /// `mode` to `blocks`: what `stat` needs.
    pub const BASIC: AttrMask = AttrMask(0x07ff);
    /// Time of birth.
    pub const BTIME: AttrMask = AttrMask(0x0800);
    /// Inode generation.
    pub const GENERATION: AttrMask = AttrMask(0x1000);
    /// Data version.
    pub const DATA_VERSION: AttrMask = AttrMask(0x2000);
    /// Everything.
    pub const ALL: AttrMask = AttrMask(0x3fff);
}

/// Which fields of a `Tsetattr` to apply (`P9_ATTR_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetattrValid(pub u32);
newtype_field!(SetattrValid);

impl SetattrValid {
    /// `mode`.
    pub const MODE: u32 = 0x1;
    /// `uid`.
    pub const UID: u32 = 0x2;
    /// `gid`.
    pub const GID: u32 = 0x4;
    /// `size`.
    pub const SIZE: u32 = 0x8;
    /// Access time, the server's now unless `ATIME_SET` is there too.
    pub const ATIME: u32 = 0x10;
    /// Modification time, the server's now unless `MTIME_SET` is there too.
    pub const MTIME: u32 = 0x20;
    /// Change time, the server's now.
    pub const CTIME: u32 = 0x40;
    /// Access time from `atime`.
    pub const ATIME_SET: u32 = 0x80;
    /// Modification time from `mtime`.
    pub const MTIME_SET: u32 = 0x100;
    /// Every bit with a meaning.
    pub const ALL: u32 = 0x1ff;

    /// Whether every bit of `bits` is set.
    pub fn contains(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

messages! {
    /// Asks for attributes: `fid[4] request_mask[8]`.
    Tgetattr = TGETATTR {
        /// The file.
        fid: Fid,
        /// The fields wanted.
        request_mask: AttrMask,
    }
    /// The attributes, 160 bytes.
    Rgetattr = RGETATTR {
        /// The fields that hold a value.
        valid: AttrMask,
        /// The file's qid.
        qid: Qid,
        /// File type and permission bits as in `st_mode`.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Number of links.
        nlink: u64,
        /// Device number of a device file, in Linux's 32-bit encoding (`new_encode_dev`).
        rdev: u64,
        /// Length in bytes.
        size: u64,
        /// Bytes that a program should read or write at once.
        blksize: u64,
        /// Space in use, in units of 512 bytes.
        blocks: u64,
        /// Last access.
        atime: Time,
        /// Last modification of the data.
        mtime: Time,
        /// Last change of data or attributes.
        ctime: Time,
        /// Birth.
        btime: Time,
        /// Inode generation.
        generation: u64,
        /// Data version.
        data_version: u64,
    }
    /// Changes attributes: `fid[4] valid[4] mode[4] uid[4] gid[4] size[8] atime[16] mtime[16]`.
    Tsetattr = TSETATTR {
        /// The file.
        fid: Fid,
        /// The fields to apply.
        valid: SetattrValid,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Length in bytes.
        size: u64,
        /// Access time.
        atime: Time,
        /// Modification time.
        mtime: Time,
    }
    /// The attributes are changed.
    Rsetattr = RSETATTR {}
    /// Asks about the file system of a file: `fid[4]`.
    Tstatfs = TSTATFS {
        /// The file.
        fid: Fid,
    }
    /// The file system, 67 bytes.
    Rstatfs = RSTATFS {
        /// Its magic number, as in `statfs(2)`.
        kind: u32,
        /// Unit of the block counts, in bytes.
        bsize: u32,
        /// Blocks in all.
        blocks: u64,
        /// Blocks free.
        bfree: u64,
        /// Blocks free for ordinary users.
        bavail: u64,
        /// Inodes in all.
        files: u64,
        /// Inodes free.
        ffree: u64,
        /// Identity of the file system.
        fsid: u64,
        /// Longest name in bytes.
        namelen: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Tag, literal::assert_wire, qid::sample};

    fn le64(values: &[u64]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn getattr_bytes() {
        assert_wire(
            b"\x13\0\0\0\x18\x01\0\x04\0\0\0\xff\x17\0\0\0\0\0\0",
            Tag(1),
            Tgetattr { fid: Fid(4), request_mask: AttrMask(0x17ff) },
        );
        let bytes = [
            &b"\xa0\0\0\0\x19\x01\0\xff\x07\0\0\0\0\0\0"[..],
            &sample::BYTES,
            b"\xed\x41\0\0\xe8\x03\0\0\x64\0\0\0",
            &le64(&[2, 0x0801, 4097, 4096, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ]
        .concat();
        assert_eq!(bytes.len(), 160);
        assert_wire(
            &bytes,
            Tag(1),
            Rgetattr {
                valid: AttrMask::BASIC,
                qid: sample::QID,
                mode: 0o040_755,
                uid: 1000,
                gid: 100,
                nlink: 2,
                rdev: 0x0801,
                size: 4097,
                blksize: 4096,
                blocks: 16,
                atime: Time { seconds: 1, nanoseconds: 2 },
                mtime: Time { seconds: 3, nanoseconds: 4 },
                ctime: Time { seconds: 5, nanoseconds: 6 },
                btime: Time { seconds: 7, nanoseconds: 8 },
                generation: 9,
                data_version: 10,
            },
        );
    }

    #[test]
    fn setattr_bytes() {
        let bytes =
            [&b"\x43\0\0\0\x1a\x01\0\x04\0\0\0\x41\0\0\0\xa4\x01\0\0\x01\0\0\0\x02\0\0\0"[..], &le64(&[3, 4, 5, 6, 7])]
                .concat();
        assert_eq!(bytes.len(), 67);
        assert_wire(
            &bytes,
            Tag(1),
            Tsetattr {
                fid: Fid(4),
                valid: SetattrValid(SetattrValid::MODE | SetattrValid::CTIME),
                mode: 0o644,
                uid: 1,
                gid: 2,
                size: 3,
                atime: Time { seconds: 4, nanoseconds: 5 },
                mtime: Time { seconds: 6, nanoseconds: 7 },
            },
        );
        assert_wire(b"\x07\0\0\0\x1b\x01\0", Tag(1), Rsetattr {});
    }

    #[test]
    fn statfs_bytes() {
        assert_wire(b"\x0b\0\0\0\x08\x01\0\x04\0\0\0", Tag(1), Tstatfs { fid: Fid(4) });
        let bytes =
            [&b"\x43\0\0\0\x09\x01\0\x53\xef\0\0\0\x10\0\0"[..], &le64(&[1, 2, 3, 4, 5, 6]), &[255, 0, 0, 0]].concat();
        assert_wire(
            &bytes,
            Tag(1),
            Rstatfs {
                kind: 0xef53,
                bsize: 4096,
                blocks: 1,
                bfree: 2,
                bavail: 3,
                files: 4,
                ffree: 5,
                fsid: 6,
                namelen: 255,
            },
        );
    }
}
