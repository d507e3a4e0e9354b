//! Extended attributes: xattrwalk and xattrcreate.

use super::codec::newtype_field;
use super::header::Fid;
use super::message::messages;

/// The flags of a `Txattrcreate`, as in `setxattr(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XattrFlags(pub u32);
newtype_field!(XattrFlags);

impl XattrFlags {
    /// Fail if the attribute exists.
    pub const CREATE: u32 = 1;
    /// Fail if it does not.
    pub const REPLACE: u32 = 2;
}

messages! {
    /// Makes `newfid` an attribute of a file, to be read: `fid[4] newfid[4] name[s]`.
    Txattrwalk<'a> = TXATTRWALK {
        /// The file.
        fid: Fid,
        /// The new fid.
        newfid: Fid,
        /// The attribute; empty: the list of names, each followed by a zero byte.
        name: &'a [u8],
    }
    /// The attribute can be read.
    Rxattrwalk = RXATTRWALK {
        /// Its length in bytes.
        size: u64,
    }
    /// Makes `fid` an attribute of its file, to be written and set at clunk: `fid[4] name[s] attr_size[8] flags[4]`.
    Txattrcreate<'a> = TXATTRCREATE {
        /// The fid of the file.
        fid: Fid,
        /// The attribute.
        name: &'a [u8],
        /// Its length in bytes; 0 removes it.
        attr_size: u64,
        /// Whether it must or must not exist.
        flags: XattrFlags,
    }
    /// The attribute can be written.
    Rxattrcreate = RXATTRCREATE {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Tag, literal::assert_wire};

    #[test]
    fn xattrwalk_bytes() {
        assert_wire(
            b"\x17\0\0\0\x1e\x01\0\x04\0\0\0\x05\0\0\0\x06\0user.a",
            Tag(1),
            Txattrwalk { fid: Fid(4), newfid: Fid(5), name: b"user.a" },
        );
        assert_wire(b"\x0f\0\0\0\x1f\x01\0\x09\0\0\0\0\0\0\0", Tag(1), Rxattrwalk { size: 9 });
    }

    #[test]
    fn xattrcreate_bytes() {
        assert_wire(
            b"\x1f\0\0\0\x20\x01\0\x04\0\0\0\x06\0user.a\x03\0\0\0\0\0\0\0\x02\0\0\0",
            Tag(1),
            Txattrcreate { fid: Fid(4), name: b"user.a", attr_size: 3, flags: XattrFlags(XattrFlags::REPLACE) },
        );
        assert_wire(b"\x07\0\0\0\x21\x01\0", Tag(1), Rxattrcreate {});
    }
}
