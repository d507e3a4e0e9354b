//! Cursors over message bytes, and the fields that messages are made of.

use thiserror::Error;

/// Why bytes are not the message they claim to be, or why a message does not fit where it should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// The bytes end inside a field.
    #[error("the message ends inside a field: its sender must send all fields")]
    Truncated,
    /// Bytes follow the last field.
    #[error("bytes follow the last field: the size field must match the message")]
    Trailing,
    /// The size field is below the header length, beyond the bytes given, or differs from the sum of the fields.
    #[error("the size field does not match the message")]
    Size,
    /// The frame is of another type than the one asked for.
    #[error("the frame holds a message of another type")]
    Type,
    /// The last fields are those of another dialect.
    #[error("the message has the fields of another dialect of 9P")]
    Dialect,
    /// A walk of more than 16 names, or its reply.
    #[error("a walk has at most 16 elements")]
    TooManyNames,
    /// A field or the whole message is longer than its length field can say or than the room for it.
    #[error("the message does not fit: give a larger buffer or shorter strings")]
    NoRoom,
}

/// Reads fields off the front of a byte slice.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// A decoder over `bytes`.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder { rest: bytes }
    }

    /// How many bytes are left.
    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    /// Whether every byte has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `len` bytes.
    #[inline]
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next field, of the type that the caller expects.
    #[inline]
    pub fn field<T: Field<'a>>(&mut self) -> Result<T, Malformed> {
        T::decode(self)
    }
}

/// Writes fields to the front of a byte slice.
#[derive(Debug)]
pub struct Encoder<'b> {
    buf: &'b mut [u8],
    len: usize,
}

impl<'b> Encoder<'b> {
    /// An encoder into `buf`.
    #[inline]
    pub fn new(buf: &'b mut [u8]) -> Encoder<'b> {
        Encoder { buf, len: 0 }
    }

    /// Bytes written so far.
    pub fn written(&self) -> usize {
        self.len
    }

    /// Appends raw bytes.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let end = self.len.checked_add(bytes.len()).ok_or(Malformed::NoRoom)?;
        self.buf.get_mut(self.len..end).ok_or(Malformed::NoRoom)?.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }
}

/// A value with a wire form.
pub trait Field<'a>: Sized {
    /// Length of the wire form in bytes.
    fn wire_len(&self) -> usize;
    /// Reads the value.
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed>;
    /// Writes the value.
    fn encode(&self, to: &mut Encoder<'_>) -> Result<(), Malformed>;
}

macro_rules! integer_field {
    ($($integer:ty),*) => {$(
        impl<'a> Field<'a> for $integer {
            #[inline]
            fn wire_len(&self) -> usize {
                size_of::<$integer>()
            }
            #[inline]
            fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
                Ok(<$integer>::from_le_bytes(from.array()?))
            }
            #[inline]
            fn encode(&self, to: &mut Encoder<'_>) -> Result<(), Malformed> {
                to.bytes(&self.to_le_bytes())
            }
        }
    )*};
}
integer_field!(u8, u16, u32, u64);

/// A string: `len[2]` and the bytes, without a terminator.
impl<'a> Field<'a> for &'a [u8] {
    #[inline]
    fn wire_len(&self) -> usize {
        2 + self.len()
    }
    #[inline]
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
        let len: u16 = from.field()?;
        from.bytes(usize::from(len))
    }
    #[inline]
    fn encode(&self, to: &mut Encoder<'_>) -> Result<(), Malformed> {
        u16::try_from(self.len()).map_err(|_| Malformed::NoRoom)?.encode(to)?;
        to.bytes(self)
    }
}

/// A field at the end of a message that only some dialects have: it is absent if the bytes end before it.
impl<'a, T: Field<'a>> Field<'a> for Option<T> {
    fn wire_len(&self) -> usize {
        self.as_ref().map_or(0, Field::wire_len)
    }
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
        if from.is_empty() { Ok(None) } else { from.field().map(Some) }
    }
    fn encode(&self, to: &mut Encoder<'_>) -> Result<(), Malformed> {
        self.as_ref().map_or(Ok(()), |value| value.encode(to))
    }
}

/// Makes a tuple struct over an integer a [`Field`].
macro_rules! newtype_field {
    ($name:ty) => {
        impl<'a> $crate::wire::Field<'a> for $name {
            #[inline]
            fn wire_len(&self) -> usize {
                self.0.wire_len()
            }
            #[inline]
            fn decode(from: &mut $crate::wire::Decoder<'a>) -> Result<Self, $crate::wire::Malformed> {
                from.field().map(Self)
            }
            #[inline]
            fn encode(&self, to: &mut $crate::wire::Encoder<'_>) -> Result<(), $crate::wire::Malformed> {
                self.0.encode(to)
            }
        }
    };
}
pub(crate) use newtype_field;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_that_claims_more_than_is_there_is_truncated() {
        let mut from = Decoder::new(&[5, 0, b'a', b'b']);
        assert_eq!(from.field::<&[u8]>(), Err(Malformed::Truncated));
    }

    #[test]
    fn a_string_beyond_its_length_field_does_not_fit() {
        let long = vec![0_u8; 65_536];
        let mut buf = vec![0_u8; 70_000];
        assert_eq!(long.as_slice().encode(&mut Encoder::new(&mut buf)), Err(Malformed::NoRoom));
    }
}
