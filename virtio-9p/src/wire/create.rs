//! Making things other than regular files: symlink, mknod, mkdir.

use super::header::Fid;
use super::message::messages;
use super::qid::Qid;

messages! {
    /// Makes a symbolic link: `dfid[4] name[s] target[s] gid[4]`.
    Tsymlink<'a> = TSYMLINK {
        /// The directory.
        dfid: Fid,
        /// The link's name.
        name: &'a [u8],
        /// What it says.
        target: &'a [u8],
        /// Group of the link.
        gid: u32,
    }
    /// The link exists.
    Rsymlink = RSYMLINK {
        /// Its qid.
        qid: Qid,
    }
    /// Makes a file of any type but directory and symbolic link: `dfid[4] name[s] mode[4] major[4] minor[4] gid[4]`.
    Tmknod<'a> = TMKNOD {
        /// The directory.
        dfid: Fid,
        /// The file's name.
        name: &'a [u8],
        /// File type and permission bits as in `st_mode`.
        mode: u32,
        /// Major device number.
        major: u32,
        /// Minor device number.
        minor: u32,
        /// Group of the file.
        gid: u32,
    }
    /// The file exists.
    Rmknod = RMKNOD {
        /// Its qid.
        qid: Qid,
    }
    /// Makes a directory: `dfid[4] name[s] mode[4] gid[4]`.
    Tmkdir<'a> = TMKDIR {
        /// The parent.
        dfid: Fid,
        /// The new directory's name.
        name: &'a [u8],
        /// Permission bits.
        mode: u32,
        /// Group of the directory.
        gid: u32,
    }
    /// The directory exists.
    Rmkdir = RMKDIR {
        /// Its qid.
        qid: Qid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Tag, literal::assert_wire, qid::sample};

    #[test]
    fn symlink_bytes() {
        assert_wire(
            b"\x19\0\0\0\x10\x01\0\x04\0\0\0\x01\0l\x05\0../to\x64\0\0\0",
            Tag(1),
            Tsymlink { dfid: Fid(4), name: b"l", target: b"../to", gid: 100 },
        );
        let bytes = [&b"\x14\0\0\0\x11\x01\0"[..], &sample::BYTES].concat();
        assert_wire(&bytes, Tag(1), Rsymlink { qid: sample::QID });
    }

    #[test]
    fn mknod_bytes() {
        assert_wire(
            b"\x1e\0\0\0\x12\x01\0\x04\0\0\0\x01\0n\xb6\x21\0\0\x01\0\0\0\x03\0\0\0\0\0\0\0",
            Tag(1),
            Tmknod { dfid: Fid(4), name: b"n", mode: 0o020_666, major: 1, minor: 3, gid: 0 },
        );
        let bytes = [&b"\x14\0\0\0\x13\x01\0"[..], &sample::BYTES].concat();
        assert_wire(&bytes, Tag(1), Rmknod { qid: sample::QID });
    }

    #[test]
    fn mkdir_bytes() {
        assert_wire(
            b"\x18\0\0\0\x48\x01\0\x04\0\0\0\x03\0dir\xed\x01\0\0\x64\0\0\0",
            Tag(1),
            Tmkdir { dfid: Fid(4), name: b"dir", mode: 0o755, gid: 100 },
        );
        let bytes = [&b"\x14\0\0\0\x49\x01\0"[..], &sample::BYTES].concat();
        assert_wire(&bytes, Tag(1), Rmkdir { qid: sample::QID });
    }
}
