//! Introducing a user: auth and attach.

use super::header::Fid;
use super::message::messages;
use super::qid::Qid;

/// The `n_uname` that means "no numeric user given".
pub const NONUNAME: u32 = u32::MAX;

messages! {
    /// Asks for an authentication file: `afid[4] uname[s] aname[s] n_uname[4]`, in 9P2000 without the last.
    Tauth<'a> = TAUTH unix(n_uname) {
        /// Fid that would become the authentication file.
        afid: Fid,
        /// User name, often empty.
        uname: &'a [u8],
        /// Name of the tree to attach to.
        aname: &'a [u8],
        /// User id, or [`NONUNAME`]; `None` in 9P2000.
        n_uname: Option<u32>,
    }
    /// The authentication file.
    Rauth = RAUTH {
        /// Its qid.
        aqid: Qid,
    }
    /// Makes `fid` the root of a tree on behalf of a user: `fid[4] afid[4] uname[s] aname[s] n_uname[4]`, in 9P2000
    /// without the last.
    Tattach<'a> = TATTACH unix(n_uname) {
        /// Fid that becomes the root.
        fid: Fid,
        /// Authentication file, or [`NOFID`](super::NOFID).
        afid: Fid,
        /// User name, often empty.
        uname: &'a [u8],
        /// Name of the tree to attach to.
        aname: &'a [u8],
        /// User id, or [`NONUNAME`]; `None` in 9P2000.
        n_uname: Option<u32>,
    }
    /// The root.
    Rattach = RATTACH {
        /// Its qid.
        qid: Qid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{NOFID, Tag, literal::assert_wire, qid::sample};

    #[test]
    fn auth_bytes() {
        assert_wire(
            b"\x16\0\0\0\x66\x01\0\x02\0\0\0\x02\0me\x01\0/\xe8\x03\0\0",
            Tag(1),
            Tauth { afid: Fid(2), uname: b"me", aname: b"/", n_uname: Some(1000) },
        );
        assert_wire(
            b"\x12\0\0\0\x66\x01\0\x02\0\0\0\x02\0me\x01\0/",
            Tag(1),
            Tauth { afid: Fid(2), uname: b"me", aname: b"/", n_uname: None },
        );
        let bytes = [&b"\x14\0\0\0\x67\x01\0"[..], &sample::BYTES].concat();
        assert_wire(&bytes, Tag(1), Rauth { aqid: sample::QID });
    }

    #[test]
    fn attach_bytes() {
        assert_wire(
            b"\x19\0\0\0\x68\x01\0\x07\0\0\0\xff\xff\xff\xff\0\0\x02\0/a\xff\xff\xff\xff",
            Tag(1),
            Tattach { fid: Fid(7), afid: NOFID, uname: b"", aname: b"/a", n_uname: Some(NONUNAME) },
        );
        assert_wire(
            b"\x19\0\0\0\x68\x01\0\x07\0\0\0\xff\xff\xff\xff\x06\0glenda\0\0",
            Tag(1),
            Tattach { fid: Fid(7), afid: NOFID, uname: b"glenda", aname: b"", n_uname: None },
        );
        let bytes = [&b"\x14\0\0\0\x69\x01\0"[..], &sample::BYTES].concat();
        assert_wire(&bytes, Tag(1), Rattach { qid: sample::QID });
    }
}
