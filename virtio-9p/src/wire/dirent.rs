//! The records inside an `Rreaddir`.

use super::codec::{Decoder, Encoder, Field, Malformed};
use super::qid::Qid;

/// One directory entry: `qid[13] offset[8] type[1] name[s]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// Identity of the file; Linux looks at the path only, and the version may be 0.
    pub qid: Qid,
    /// Cookie of the position after this entry.
    pub offset: u64,
    /// File type as in `d_type` of Linux's `struct dirent` (4 directory, 8 regular, 10 symbolic link, ...).
    pub kind: u8,
    /// The name.
    pub name: &'a [u8],
}

impl DirEntry<'_> {
    /// Length in bytes of the record before the name's bytes.
    pub const HEAD_LEN: usize = Qid::LEN + 8 + 1 + 2;
}

impl<'a> Field<'a> for DirEntry<'a> {
    fn wire_len(&self) -> usize {
        Self::HEAD_LEN + self.name.len()
    }
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
        Ok(DirEntry { qid: from.field()?, offset: from.field()?, kind: from.field()?, name: from.field()? })
    }
    fn encode(&self, to: &mut Encoder<'_>) -> Result<(), Malformed> {
        self.qid.encode(to)?;
        self.offset.encode(to)?;
        self.kind.encode(to)?;
        self.name.encode(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::qid::sample;

    #[test]
    fn entry_bytes() {
        let bytes = [&sample::BYTES[..], b"\x09\0\0\0\0\0\0\0\x04\x03\0sub"].concat();
        let entry = DirEntry { qid: sample::QID, offset: 9, kind: 4, name: b"sub" };
        assert_eq!(Decoder::new(&bytes).field(), Ok(entry));
        let mut out = vec![0; entry.wire_len()];
        entry.encode(&mut Encoder::new(&mut out)).unwrap();
        assert_eq!(out, bytes);
        assert_eq!(Decoder::new(&bytes[..bytes.len() - 1]).field::<DirEntry<'_>>(), Err(Malformed::Truncated));
    }
}
