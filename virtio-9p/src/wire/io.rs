//! Moving data and letting go: read, write, readdir, fsync, clunk.

use super::codec::{Decoder, Encoder, Field, Malformed};
use super::header::{Fid, MessageType};
use super::message::{Message, messages};

messages! {
    /// Reads an open file: `fid[4] offset[8] count[4]`.
    Tread = TREAD {
        /// The file.
        fid: Fid,
        /// Position in bytes.
        offset: u64,
        /// Most bytes to return.
        count: u32,
    }
    /// The data: `count[4]`, then `count` bytes.
    Rread = RREAD payload count {
        /// Bytes that follow; fewer than asked at the end of the file, and possibly elsewhere.
        count: u32,
    }
    /// Writes an open file: `fid[4] offset[8] count[4]`, then `count` bytes.
    Twrite = TWRITE payload count {
        /// The file.
        fid: Fid,
        /// Position in bytes; a file opened for appending ignores it.
        offset: u64,
        /// Bytes that follow.
        count: u32,
    }
    /// Data was written.
    Rwrite = RWRITE {
        /// How many bytes.
        count: u32,
    }
    /// Reads an open directory: `fid[4] offset[8] count[4]`.
    Treaddir = TREADDIR {
        /// The directory.
        fid: Fid,
        /// 0, or the offset of the last entry seen.
        offset: u64,
        /// Most bytes to return.
        count: u32,
    }
    /// Whole [`DirEntry`](super::DirEntry) records: `count[4]`, then `count` bytes; none at the end.
    Rreaddir = RREADDIR payload count {
        /// Bytes that follow.
        count: u32,
    }
    /// The file is on stable storage.
    Rfsync = RFSYNC {}
    /// Forgets a fid, and closes it if it was open: `fid[4]`. The fid is gone even if the reply is an error.
    Tclunk = TCLUNK {
        /// The fid.
        fid: Fid,
    }
    /// The fid is gone.
    Rclunk = RCLUNK {}
}

impl Rread {
    /// Length in bytes of the message before its data.
    pub const HEAD_LEN: usize = 11;
}

impl Twrite {
    /// Length in bytes of the message before its data.
    pub const HEAD_LEN: usize = 23;
}

/// Brings an open file to stable storage: `fid[4] datasync[4]`; old clients end after the fid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tfsync {
    /// The file.
    pub fid: Fid,
    /// Not 0: the data suffices (`fdatasync`).
    pub datasync: u32,
}

impl<'a> Message<'a> for Tfsync {
    const TYPE: MessageType = MessageType::TFSYNC;

    fn body_len(&self) -> usize {
        8
    }
    fn parse_body(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
        let fid = from.field()?;
        let datasync = if from.is_empty() { 0 } else { from.field()? };
        Ok(Tfsync { fid, datasync })
    }
    fn emit_body(&self, to: &mut Encoder<'_>) -> Result<(), Malformed> {
        self.fid.encode(to)?;
        self.datasync.encode(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Tag, literal::assert_wire};

    #[test]
    fn read_bytes() {
        assert_wire(
            b"\x17\0\0\0\x74\x01\0\x03\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01\0\0\x01\0",
            Tag(1),
            Tread { fid: Fid(3), offset: 0x0102_0304_0506_0708, count: 65_536 },
        );
        assert_wire(b"\x0e\0\0\0\x75\x01\0\x03\0\0\0xyz", Tag(1), Rread { count: 3 });
    }

    #[test]
    fn write_bytes() {
        let frame = b"\x19\0\0\0\x76\x01\0\x03\0\0\0\x10\0\0\0\0\0\0\0\x02\0\0\0hi";
        let message = Twrite { fid: Fid(3), offset: 16, count: 2 };
        assert_wire(frame, Tag(1), message);
        assert_eq!(Twrite::parse(&frame[..Twrite::HEAD_LEN]), Ok((Tag(1), message)));
        assert_wire(b"\x0b\0\0\0\x77\x01\0\x02\0\0\0", Tag(1), Rwrite { count: 2 });
    }

    #[test]
    fn a_count_that_differs_from_the_size_is_refused() {
        let frame = b"\x19\0\0\0\x76\x01\0\x03\0\0\0\x10\0\0\0\0\0\0\0\x03\0\0\0hi";
        assert_eq!(Twrite::parse(frame), Err(Malformed::Size));
        let frame = b"\x19\0\0\0\x76\x01\0\x03\0\0\0\x10\0\0\0\0\0\0\0\xff\xff\xff\xffhi";
        assert_eq!(Twrite::parse(frame), Err(Malformed::Size));
    }

    #[test]
    fn readdir_bytes() {
        assert_wire(
            b"\x17\0\0\0\x28\x01\0\x03\0\0\0\x05\0\0\0\0\0\0\0\0\x10\0\0",
            Tag(1),
            Treaddir { fid: Fid(3), offset: 5, count: 4096 },
        );
        assert_wire(b"\x0b\0\0\0\x29\x01\0\0\0\0\0", Tag(1), Rreaddir { count: 0 });
    }

    #[test]
    fn fsync_bytes() {
        let long = b"\x0f\0\0\0\x32\x01\0\x03\0\0\0\x01\0\0\0";
        let message = Tfsync { fid: Fid(3), datasync: 1 };
        assert_eq!(Tfsync::parse(long), Ok((Tag(1), message)));
        let mut out = [0; 15];
        assert_eq!(message.emit(Tag(1), &mut out), Ok(15));
        assert_eq!(&out, long);
        let short = b"\x0b\0\0\0\x32\x01\0\x03\0\0\0";
        assert_eq!(Tfsync::parse(short), Ok((Tag(1), Tfsync { fid: Fid(3), datasync: 0 })));
        assert!(Tfsync::parse(b"\x0d\0\0\0\x32\x01\0\x03\0\0\0\x01\0").is_err());
        assert!(Tfsync::parse(b"\x10\0\0\0\x32\x01\0\x03\0\0\0\x01\0\0\0\0").is_err());
        assert_wire(b"\x07\0\0\0\x33\x01\0", Tag(1), Rfsync {});
    }

    #[test]
    fn clunk_bytes() {
        assert_wire(b"\x0b\0\0\0\x78\x01\0\x04\0\0\0", Tag(1), Tclunk { fid: Fid(4) });
        assert_wire(b"\x07\0\0\0\x79\x01\0", Tag(1), Rclunk {});
    }
}
