//! What every message has in common, and the macro that writes the field-by-field part.

use super::codec::{Decoder, Encoder, Field, Malformed};
use super::dialect::Dialect;
use super::header::{HEADER_LEN, Header, MessageType, Tag};

/// A message with a wire form.
pub trait Message<'a>: Sized {
    /// The type byte of the message.
    const TYPE: MessageType;

    /// Length in bytes of the fields after the header, without the payload.
    fn body_len(&self) -> usize;

    /// Reads the fields after the header.
    fn parse_body(from: &mut Decoder<'a>) -> Result<Self, Malformed>;

    /// Writes the fields after the header.
    fn emit_body(&self, to: &mut Encoder<'_>) -> Result<(), Malformed>;

    /// Bytes of file data that follow the fields; they are counted by the size field and are not part of the struct.
    #[inline]
    fn payload_len(&self) -> usize {
        0
    }

    /// Whether the fields that only some dialects have are there as the dialect says.
    #[inline]
    fn is_of(&self, _dialect: Dialect) -> bool {
        true
    }

    /// Length in bytes of header and fields, without the payload.
    #[inline]
    fn head_len(&self) -> usize {
        HEADER_LEN + self.body_len()
    }

    /// Reads a message from the start of `frame`.
    ///
    /// `frame` must hold the message up to its payload; the payload may be missing, and bytes beyond the size field are
    /// ignored. The size field must be exact.
    fn parse(frame: &'a [u8]) -> Result<(Tag, Self), Malformed> {
        let mut from = Decoder::new(frame);
        let header: Header = from.field()?;
        if header.kind != Self::TYPE {
            return Err(Malformed::Type);
        }
        Ok((header.tag, Self::parse_sized(header.size, frame)?))
    }

    /// As [`Message::parse`], for a message of `dialect` whose header was read: [`Malformed::Dialect`] if it has the
    /// fields of another one.
    #[inline]
    fn parse_in(dialect: Dialect, header: Header, frame: &'a [u8]) -> Result<Self, Malformed> {
        if header.kind != Self::TYPE {
            return Err(Malformed::Type);
        }
        let message = Self::parse_sized(header.size, frame)?;
        if message.is_of(dialect) { Ok(message) } else { Err(Malformed::Dialect) }
    }

    /// Reads the body of a message whose header said `size`.
    #[doc(hidden)]
    #[inline]
    fn parse_sized(size: u32, frame: &'a [u8]) -> Result<Self, Malformed> {
        let size = usize::try_from(size).map_err(|_| Malformed::Size)?;
        let body = frame.get(HEADER_LEN..size.min(frame.len())).ok_or(Malformed::Size)?;
        let mut from = Decoder::new(body);
        let message = Self::parse_body(&mut from)?;
        let payload = message.payload_len();
        if payload == 0 && !from.is_empty() {
            return Err(Malformed::Trailing);
        }
        let expected = message.head_len().checked_add(payload);
        // A short form of a message (Tfsync) is accepted by its own parser, so only a longer frame is an error here.
        if payload > 0 && expected != Some(size) || expected.is_none_or(|len| size > len) {
            return Err(Malformed::Size);
        }
        Ok(message)
    }

    /// Writes header and fields into `buf`; returns their length. The payload is for the caller to place after them.
    #[inline]
    fn emit(&self, tag: Tag, buf: &mut [u8]) -> Result<usize, Malformed> {
        let size = self
            .head_len()
            .checked_add(self.payload_len())
            .and_then(|len| u32::try_from(len).ok())
            .ok_or(Malformed::NoRoom)?;
        let mut to = Encoder::new(buf);
        Header { size, kind: Self::TYPE, tag }.encode(&mut to)?;
        self.emit_body(&mut to)?;
        Ok(to.written())
    }
}

/// Declares message structs. `payload FIELD` marks the field that counts the bytes after the fields, `unix(FIELD)` the
/// one that is there in the dialects with the fields of 9P2000.u.
macro_rules! messages {
    ($(
        $(#[$meta:meta])*
        $name:ident $(<$life:lifetime>)? = $kind:ident $(payload $count:ident)? $(unix($($unix:tt)*))? {
            $( $(#[$field_meta:meta])* $field:ident : $type:ty ),* $(,)?
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name $(<$life>)? {
            $( $(#[$field_meta])* pub $field: $type, )*
        }
        $crate::wire::message::messages!(@impl ($($life)?) $name $kind ($($count)?) ($($($unix)*)?) $($field)*);
    )*};
    (@impl () $name:ident $kind:ident ($($count:ident)?) ($($unix:tt)*) $($field:ident)*) => {
        impl<'m> $crate::wire::Message<'m> for $name {
            $crate::wire::message::messages!(@body 'm $kind ($($count)?) ($($unix)*) $($field)*);
        }
    };
    (@impl ($life:lifetime) $name:ident $kind:ident ($($count:ident)?) ($($unix:tt)*) $($field:ident)*) => {
        impl<$life> $crate::wire::Message<$life> for $name<$life> {
            $crate::wire::message::messages!(@body $life $kind ($($count)?) ($($unix)*) $($field)*);
        }
    };
    (@body $life:lifetime $kind:ident ($($count:ident)?) ($($unix:tt)*) $($field:ident)*) => {
        const TYPE: $crate::wire::MessageType = $crate::wire::MessageType::$kind;
        #[inline]
        fn body_len(&self) -> usize {
            0 $( + $crate::wire::Field::wire_len(&self.$field) )*
        }
        #[inline]
        fn parse_body(
            _from: &mut $crate::wire::Decoder<$life>,
        ) -> Result<Self, $crate::wire::Malformed> {
            Ok(Self { $( $field: _from.field()?, )* })
        }
        #[inline]
        fn emit_body(
            &self,
            _to: &mut $crate::wire::Encoder<'_>,
        ) -> Result<(), $crate::wire::Malformed> {
            $( $crate::wire::Field::encode(&self.$field, _to)?; )*
            Ok(())
        }
        $(
            #[inline]
            fn payload_len(&self) -> usize {
                usize::try_from(self.$count).unwrap_or(usize::MAX)
            }
        )?
        $crate::wire::message::messages!(@dialect $($unix)*);
    };
    (@dialect) => {};
    (@dialect $($unix:tt)+) => {
        #[inline]
        fn is_of(&self, dialect: $crate::wire::Dialect) -> bool {
            self.$($unix)+.is_some() == dialect.has_unix_fields()
        }
    };
}
pub(crate) use messages;
