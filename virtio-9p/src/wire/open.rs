//! Opening files: lopen and lcreate.

use super::codec::newtype_field;
use super::header::Fid;
use super::message::messages;
use super::qid::Qid;

/// The flags of an open, in 9P2000.L's own numbers (`P9_DOTL_*`), which happen to be those of x86 Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFlags(pub u32);
newtype_field!(OpenFlags);

impl OpenFlags {
    /// The bits that hold the access mode.
    pub const ACCESS: u32 = 0o3;
    /// Access mode: read only.
    pub const RDONLY: u32 = 0o0;
    /// Access mode: write only.
    pub const WRONLY: u32 = 0o1;
    /// Access mode: read and write.
    pub const RDWR: u32 = 0o2;
    /// Create the file if it does not exist.
    pub const CREATE: u32 = 0o100;
    /// With `CREATE`: fail if the file exists.
    pub const EXCL: u32 = 0o200;
    /// Do not make a terminal the controlling one.
    pub const NOCTTY: u32 = 0o400;
    /// Cut the file to length 0.
    pub const TRUNC: u32 = 0o1000;
    /// Write at the end.
    pub const APPEND: u32 = 0o2000;
    /// Do not wait.
    pub const NONBLOCK: u32 = 0o4000;
    /// Each write reaches stable storage (data).
    pub const DSYNC: u32 = 0o10000;
    /// Signal-driven I/O.
    pub const FASYNC: u32 = 0o20000;
    /// Bypass the page cache.
    pub const DIRECT: u32 = 0o40000;
    /// Allow sizes beyond 2 GiB.
    pub const LARGEFILE: u32 = 0o100000;
    /// Fail unless it is a directory.
    pub const DIRECTORY: u32 = 0o200000;
    /// Fail if it is a symbolic link.
    pub const NOFOLLOW: u32 = 0o400000;
    /// Do not update the access time.
    pub const NOATIME: u32 = 0o1000000;
    /// Close at exec.
    pub const CLOEXEC: u32 = 0o2000000;
    /// Each write reaches stable storage (data and metadata); includes `DSYNC` in Linux.
    pub const SYNC: u32 = 0o4000000;

    /// Whether every bit of `bits` is set.
    pub fn contains(self, bits: u32) -> bool {
        self.0 & bits == bits
    }

    /// The access mode: `RDONLY`, `WRONLY`, `RDWR`, or 3, which no open accepts.
    pub fn access(self) -> u32 {
        self.0 & Self::ACCESS
    }

    /// Whether the open may change the file.
    pub fn writes(self) -> bool {
        self.access() != Self::RDONLY || self.contains(Self::TRUNC)
    }
}

messages! {
    /// Opens the file of a fid: `fid[4] flags[4]`.
    Tlopen = TLOPEN {
        /// The file.
        fid: Fid,
        /// How.
        flags: OpenFlags,
    }
    /// The file is open.
    Rlopen = RLOPEN {
        /// Its qid.
        qid: Qid,
        /// Bytes that a read or write should carry at most; 0 leaves it to msize.
        iounit: u32,
    }
    /// Creates a regular file and opens it; the fid of the directory becomes that of the file:
    /// `fid[4] name[s] flags[4] mode[4] gid[4]`.
    Tlcreate<'a> = TLCREATE {
        /// The directory.
        fid: Fid,
        /// The file's name.
        name: &'a [u8],
        /// How to open it.
        flags: OpenFlags,
        /// Permission bits.
        mode: u32,
        /// Group of the new file.
        gid: u32,
    }
    /// The file exists and is open.
    Rlcreate = RLCREATE {
        /// Its qid.
        qid: Qid,
        /// Bytes that a read or write should carry at most; 0 leaves it to msize.
        iounit: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Tag, literal::assert_wire, qid::sample};

    #[test]
    fn lopen_bytes() {
        assert_wire(
            b"\x0f\0\0\0\x0c\x01\0\x09\0\0\0\x02\x80\0\0",
            Tag(1),
            Tlopen { fid: Fid(9), flags: OpenFlags(OpenFlags::RDWR | OpenFlags::LARGEFILE) },
        );
        let bytes = [&b"\x18\0\0\0\x0d\x01\0"[..], &sample::BYTES, &[0, 0x10, 0, 0]].concat();
        assert_wire(&bytes, Tag(1), Rlopen { qid: sample::QID, iounit: 4096 });
    }

    #[test]
    fn lcreate_bytes() {
        assert_wire(
            b"\x1b\0\0\0\x0e\x01\0\x09\0\0\0\x02\0ab\xc1\0\0\0\xa4\x01\0\0\x64\0\0\0",
            Tag(1),
            Tlcreate {
                fid: Fid(9),
                name: b"ab",
                flags: OpenFlags(OpenFlags::WRONLY | OpenFlags::CREATE | OpenFlags::EXCL),
                mode: 0o644,
                gid: 100,
            },
        );
        let bytes = [&b"\x18\0\0\0\x0f\x01\0"[..], &sample::BYTES, &[0; 4]].concat();
        assert_wire(&bytes, Tag(1), Rlcreate { qid: sample::QID, iounit: 0 });
    }
}
