//! Opening files in 9P2000 and 9P2000.u: open and create.

use super::codec::newtype_field;
use super::header::Fid;
use super::message::messages;
use super::qid::Qid;

/// The mode of a `Topen` or `Tcreate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenMode(pub u8);
newtype_field!(OpenMode);

impl OpenMode {
    /// The bits that hold the access mode.
    pub const ACCESS: u8 = 3;
    /// Access mode: read only.
    pub const READ: u8 = 0;
    /// Access mode: write only.
    pub const WRITE: u8 = 1;
    /// Access mode: read and write.
    pub const RDWR: u8 = 2;
    /// Access mode: read a file to run it.
    pub const EXEC: u8 = 3;
    /// Cut the file to length 0.
    pub const TRUNC: u8 = 0x10;
    /// Close at exec: the client's own business.
    pub const CEXEC: u8 = 0x20;
    /// Remove the file when the fid is clunked.
    pub const RCLOSE: u8 = 0x40;
    /// Write at the end; 9P2000.u only.
    pub const APPEND: u8 = 0x80;

    /// Whether every bit of `bits` is set.
    pub fn contains(self, bits: u8) -> bool {
        self.0 & bits == bits
    }

    /// The access mode.
    pub fn access(self) -> u8 {
        self.0 & Self::ACCESS
    }
}

/// Permissions and type of a file, as `Tcreate` and stat records have them (`DM...`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Perm(pub u32);
newtype_field!(Perm);

impl Perm {
    /// Permission bits as in Unix.
    pub const BITS: u32 = 0o777;
    /// A directory.
    pub const DIRECTORY: u32 = 0x8000_0000;
    /// A file that is only appended to.
    pub const APPEND: u32 = 0x4000_0000;
    /// A file that one client at a time may open.
    pub const EXCLUSIVE: u32 = 0x2000_0000;
    /// A file that is not worth a backup.
    pub const TEMPORARY: u32 = 0x0400_0000;
    /// 9P2000.u: a symbolic link.
    pub const SYMLINK: u32 = 0x0200_0000;
    /// 9P2000.u, in `Tcreate`: another name of an existing file.
    pub const LINK: u32 = 0x0100_0000;
    /// 9P2000.u: a device.
    pub const DEVICE: u32 = 0x0080_0000;
    /// 9P2000.u: a FIFO.
    pub const FIFO: u32 = 0x0020_0000;
    /// 9P2000.u: a socket.
    pub const SOCKET: u32 = 0x0010_0000;
    /// 9P2000.u: set user id.
    pub const SETUID: u32 = 0x0008_0000;
    /// 9P2000.u: set group id.
    pub const SETGID: u32 = 0x0004_0000;
    /// 9P2000.u: sticky.
    pub const STICKY: u32 = 0x0001_0000;

    /// Whether any bit of `bits` is set.
    pub fn intersects(self, bits: u32) -> bool {
        self.0 & bits != 0
    }
}

messages! {
    /// Opens the file of a fid: `fid[4] mode[1]`.
    Topen = TOPEN {
        /// The file.
        fid: Fid,
        /// How.
        mode: OpenMode,
    }
    /// The file is open.
    Ropen = ROPEN {
        /// Its qid.
        qid: Qid,
        /// Bytes that a read or write should carry at most; 0 leaves it to msize.
        iounit: u32,
    }
    /// Creates a file and opens it; the fid of the directory becomes that of the file:
    /// `fid[4] name[s] perm[4] mode[1]`, in 9P2000.u also `extension[s]`.
    Tcreate<'a> = TCREATE unix(extension) {
        /// The directory.
        fid: Fid,
        /// The file's name.
        name: &'a [u8],
        /// Permissions and type.
        perm: Perm,
        /// How to open it.
        mode: OpenMode,
        /// The target of a symbolic link, the number of a linked fid, or `b MAJOR MINOR` or `c MAJOR MINOR` of a
        /// device.
        extension: Option<&'a [u8]>,
    }
    /// The file exists and is open.
    Rcreate = RCREATE {
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
    fn open_bytes() {
        assert_wire(
            b"\x0c\0\0\0\x70\x01\0\x09\0\0\0\x11",
            Tag(1),
            Topen { fid: Fid(9), mode: OpenMode(OpenMode::WRITE | OpenMode::TRUNC) },
        );
        let bytes = [&b"\x18\0\0\0\x71\x01\0"[..], &sample::BYTES, &[0, 0x10, 0, 0]].concat();
        assert_wire(&bytes, Tag(1), Ropen { qid: sample::QID, iounit: 4096 });
    }

    #[test]
    fn create_bytes_of_9p2000() {
        assert_wire(
            b"\x14\0\0\0\x72\x01\0\x09\0\0\0\x02\0ab\xed\x01\0\x80\0",
            Tag(1),
            Tcreate {
                fid: Fid(9),
                name: b"ab",
                perm: Perm(Perm::DIRECTORY | 0o755),
                mode: OpenMode(OpenMode::READ),
                extension: None,
            },
        );
        let bytes = [&b"\x18\0\0\0\x73\x01\0"[..], &sample::BYTES, &[0; 4]].concat();
        assert_wire(&bytes, Tag(1), Rcreate { qid: sample::QID, iounit: 0 });
    }

    #[test]
    fn create_bytes_of_9p2000_u() {
        let link = Tcreate {
            fid: Fid(9),
            name: b"l",
            perm: Perm(Perm::SYMLINK | 0o777),
            mode: OpenMode(OpenMode::READ),
            extension: Some(b"../to"),
        };
        assert_wire(b"\x1a\0\0\0\x72\x01\0\x09\0\0\0\x01\0l\xff\x01\0\x02\0\x05\0../to", Tag(1), link);
        assert_wire(
            b"\x15\0\0\0\x72\x01\0\x09\0\0\0\x01\0f\xa4\x01\0\0\x82\0\0",
            Tag(1),
            Tcreate {
                fid: Fid(9),
                name: b"f",
                perm: Perm(0o644),
                mode: OpenMode(OpenMode::RDWR | OpenMode::APPEND),
                extension: Some(b""),
            },
        );
    }
}
