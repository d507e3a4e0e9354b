//! Opening a session and abandoning a request: version and flush.

use super::header::Tag;
use super::message::messages;

/// The version string of a server that shares no dialect with the client.
pub const DIALECT_UNKNOWN: &[u8] = b"unknown";

messages! {
    /// Starts a session: `msize[4] version[s]`, with tag [`NOTAG`](super::NOTAG).
    Tversion<'a> = TVERSION {
        /// Largest message in bytes that the client is ready to send or receive.
        msize: u32,
        /// The dialect that the client wants.
        version: &'a [u8],
    }
    /// The terms of the session: `msize[4] version[s]`.
    Rversion<'a> = RVERSION {
        /// Largest message in bytes; at most the client's.
        msize: u32,
        /// The dialect spoken, or [`DIALECT_UNKNOWN`].
        version: &'a [u8],
    }
    /// Asks that a request be abandoned: `oldtag[2]`.
    Tflush = TFLUSH {
        /// The tag of the request.
        oldtag: Tag,
    }
    /// The flushed request will not be answered any more.
    Rflush = RFLUSH {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Dialect, NOTAG, literal::assert_wire};

    #[test]
    fn tversion_bytes() {
        assert_wire(
            b"\x15\0\0\0\x64\xff\xff\x00\xd0\x07\x00\x08\x009P2000.L",
            NOTAG,
            Tversion { msize: 512_000, version: Dialect::Linux.version() },
        );
    }

    #[test]
    fn version_bytes_of_the_older_dialects() {
        assert_wire(
            b"\x13\0\0\0\x64\xff\xff\x00\x20\x00\x00\x06\x009P2000",
            NOTAG,
            Tversion { msize: 8192, version: Dialect::Plan9.version() },
        );
        assert_wire(
            b"\x15\0\0\0\x65\xff\xff\x00\x20\x00\x00\x08\x009P2000.u",
            NOTAG,
            Rversion { msize: 8192, version: Dialect::Unix.version() },
        );
    }

    #[test]
    fn rversion_bytes() {
        assert_wire(
            b"\x14\0\0\0\x65\xff\xff\x00\x20\x00\x00\x07\x00unknown",
            NOTAG,
            Rversion { msize: 8192, version: DIALECT_UNKNOWN },
        );
    }

    #[test]
    fn flush_bytes() {
        assert_wire(&[9, 0, 0, 0, 108, 5, 0, 4, 1], Tag(5), Tflush { oldtag: Tag(0x104) });
        assert_wire(&[7, 0, 0, 0, 109, 5, 0], Tag(5), Rflush {});
    }
}
