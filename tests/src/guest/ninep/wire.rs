//! Message numbers, and the bytes that messages are made of.

/// Numbers of T-messages; the reply to each is one higher.
#[expect(missing_docs, reason = "the names are those of the protocol")]
pub mod message {
    pub const RLERROR: u8 = 7;
    pub const STATFS: u8 = 8;
    pub const LOPEN: u8 = 12;
    pub const LCREATE: u8 = 14;
    pub const SYMLINK: u8 = 16;
    pub const MKNOD: u8 = 18;
    pub const RENAME: u8 = 20;
    pub const READLINK: u8 = 22;
    pub const GETATTR: u8 = 24;
    pub const SETATTR: u8 = 26;
    pub const XATTRWALK: u8 = 30;
    pub const XATTRCREATE: u8 = 32;
    pub const READDIR: u8 = 40;
    pub const FSYNC: u8 = 50;
    pub const LOCK: u8 = 52;
    pub const GETLOCK: u8 = 54;
    pub const LINK: u8 = 70;
    pub const MKDIR: u8 = 72;
    pub const RENAMEAT: u8 = 74;
    pub const UNLINKAT: u8 = 76;
    pub const VERSION: u8 = 100;
    pub const AUTH: u8 = 102;
    pub const ATTACH: u8 = 104;
    pub const FLUSH: u8 = 108;
    pub const WALK: u8 = 110;
    pub const READ: u8 = 116;
    pub const WRITE: u8 = 118;
    pub const CLUNK: u8 = 120;
    pub const REMOVE: u8 = 122;
}

/// Bytes of the header: size, type, tag.
pub(super) const HEADER_BYTES: usize = 7;
/// Bytes of an Rlerror, which any reply buffer must have room for.
pub(super) const RLERROR_BYTES: u32 = 11;

/// A message is shorter or longer than its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message does not hold the fields of its type")]
pub struct Malformed;

/// The server's name of a file: 13 bytes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Qid {
    /// Directory 0x80, symbolic link 0x02, file 0.
    pub kind: u8,
    /// Changes when the file does.
    pub version: u32,
    /// Unique to the file.
    pub path: u64,
}

/// Appends fields to a message, in little-endian order.
#[derive(Debug)]
pub(super) struct Encoder(Vec<u8>);

impl Default for Encoder {
    /// With room for most messages.
    fn default() -> Self {
        Self(Vec::with_capacity(96))
    }
}

impl Encoder {
    pub(super) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A string with its length. One longer than the length can say is cut off there.
    pub(super) fn string(self, value: &[u8]) -> Self {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        let mut encoder = self.u16(length);
        encoder.0.extend(&value[..usize::from(length)]);
        encoder
    }

    pub(super) fn bytes(mut self, value: &[u8]) -> Self {
        self.0.extend(value);
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes fields off the front of a message.
#[derive(Clone, Copy, Debug)]
pub struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    /// A decoder of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`Malformed`] when fewer are left; so in all methods.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A byte.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// A 16-bit number.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// A 32-bit number.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A 64-bit number.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A string: 16-bit length, then bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn string(&mut self) -> Result<Vec<u8>, Malformed> {
        let length = self.u16()?;
        Ok(self.bytes(usize::from(length))?.to_vec())
    }

    /// A qid.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn qid(&mut self) -> Result<Qid, Malformed> {
        Ok(Qid { kind: self.u8()?, version: self.u32()?, path: self.u64()? })
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Insist that nothing is left.
    ///
    /// # Errors
    /// [`Malformed`] when something is.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_as_they_went_in() {
        let bytes =
            Encoder::default().u8(1).u16(0x0203).u32(0x0405_0607).u64(0x0809_0a0b_0c0d_0e0f).string(b"ab").finish();
        assert_eq!(bytes, [1, 3, 2, 7, 6, 5, 4, 0xf, 0xe, 0xd, 0xc, 0xb, 0xa, 9, 8, 2, 0, b'a', b'b']);
        let mut decoder = Decoder::new(&bytes);
        assert_eq!(decoder.u8(), Ok(1));
        assert_eq!(decoder.u16(), Ok(0x0203));
        assert_eq!(decoder.u32(), Ok(0x0405_0607));
        assert_eq!(decoder.u64(), Ok(0x0809_0a0b_0c0d_0e0f));
        assert_eq!(decoder.string(), Ok(b"ab".to_vec()));
        assert_eq!(decoder.finish(), Ok(()));
        assert_eq!(decoder.u8(), Err(Malformed));
    }
}
