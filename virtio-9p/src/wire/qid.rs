//! A file's identity as the client sees it.

use super::codec::{Decoder, Encoder, Field, Malformed, newtype_field};

/// The type byte of a [`Qid`]: the high bits of a Plan 9 mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QidType(pub u8);
newtype_field!(QidType);

impl QidType {
    /// A directory.
    pub const DIRECTORY: QidType = QidType(0x80);
    /// A symbolic link.
    pub const SYMLINK: QidType = QidType(0x02);
    /// Any other file.
    pub const FILE: QidType = QidType(0x00);
}

/// `type[1] version[4] path[8]`: two files of a server are the same if and only if their paths are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Qid {
    /// Directory, symbolic link or other.
    pub kind: QidType,
    /// Changes when the file does. Linux 6.4 and later treats 0 as "never cache this file".
    pub version: u32,
    /// The file's number, unique within the server.
    pub path: u64,
}

impl Qid {
    /// Length of the wire form in bytes.
    pub const LEN: usize = 13;
}

impl<'a> Field<'a> for Qid {
    #[inline]
    fn wire_len(&self) -> usize {
        Qid::LEN
    }
    #[inline]
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
        Ok(Qid { kind: from.field()?, version: from.field()?, path: from.field()? })
    }
    #[inline]
    fn encode(&self, to: &mut Encoder<'_>) -> Result<(), Malformed> {
        self.kind.encode(to)?;
        self.version.encode(to)?;
        self.path.encode(to)
    }
}

/// The qid, and its wire form, that message tests use.
#[cfg(test)]
pub(crate) mod sample {
    use super::*;

    pub(crate) const QID: Qid = Qid { kind: QidType::DIRECTORY, version: 0x0403_0201, path: 0x1817_1615_1413_1211 };
    pub(crate) const BYTES: [u8; 13] = [0x80, 1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18];

    #[test]
    fn qid_bytes() {
        assert_eq!(Decoder::new(&BYTES).field(), Ok(QID));
        let mut out = [0; 13];
        QID.encode(&mut Encoder::new(&mut out)).unwrap();
        assert_eq!(out, BYTES);
    }
}
