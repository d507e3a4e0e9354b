//! The error replies: `Rlerror` of 9P2000.L, `Rerror` of the others. Their request halves are never sent.

use super::message::messages;

messages! {
    /// The request failed: `size[4] Rlerror tag[2] ecode[4]`, always 11 bytes.
    Rlerror = RLERROR {
        /// A Linux (asm-generic) errno; clients accept 1 to 4095.
        ecode: u32,
    }
    /// The request failed: `ename[s]`, in 9P2000.u also `errno[4]`.
    Rerror<'a> = RERROR {
        /// What went wrong, in words.
        ename: &'a [u8],
        /// The same as an errno.
        errno: Option<u32>,
    }
}

impl Rlerror {
    /// Length of the whole message in bytes: the least room that a reply buffer must have.
    pub const LEN: usize = 11;
}

impl Rerror<'_> {
    /// Length in bytes of the message of 9P2000.u without words, the longer one: the least room that a reply buffer
    /// must have.
    pub const LEN: usize = 13;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Tag, literal::assert_wire};

    #[test]
    fn rlerror_bytes() {
        assert_wire(&[11, 0, 0, 0, 7, 0x34, 0x12, 2, 0, 0, 0], Tag(0x1234), Rlerror { ecode: 2 });
    }

    #[test]
    fn rerror_bytes() {
        assert_wire(b"\x0c\0\0\0\x6b\x01\0\x03\0no!", Tag(1), Rerror { ename: b"no!", errno: None });
        assert_wire(b"\x10\0\0\0\x6b\x01\0\x03\0no!\x02\0\0\0", Tag(1), Rerror { ename: b"no!", errno: Some(2) });
        let bytes = b"\x0d\0\0\0\x6b\x01\0\0\0\x02\0\0\0";
        assert_eq!(bytes.len(), Rerror::LEN);
        assert_wire(bytes, Tag(1), Rerror { ename: b"", errno: Some(2) });
    }
}
