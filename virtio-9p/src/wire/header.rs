//! The frame header and the numbers that name messages, requests and files.

use super::codec::{Decoder, Field, Malformed, newtype_field};

/// Length of `size[4] type[1] tag[2]`.
pub const HEADER_LEN: usize = 7;

/// The client's name for one outstanding request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub u16);
newtype_field!(Tag);

/// The tag of a `Tversion`.
pub const NOTAG: Tag = Tag(0xffff);

/// The client's number for a file. Linux hands out the lowest free number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fid(pub u32);
newtype_field!(Fid);

/// The number that means "no fid"; never a valid fid.
pub const NOFID: Fid = Fid(u32::MAX);

/// The type byte of a message. A reply's type is its request's plus one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageType(pub u8);
newtype_field!(MessageType);

macro_rules! message_types {
    ($($number:literal $request:ident $reply:ident $name:literal;)*) => {
        impl MessageType {
            $(
                #[doc = concat!("The request `T", $name, "`.")]
                pub const $request: MessageType = MessageType($number);
                #[doc = concat!("The reply `R", $name, "`.")]
                pub const $reply: MessageType = MessageType($number + 1);
            )*

            /// The message's name without the leading T or R, such as `walk`; `None` for a number that no dialect
            /// has.
            pub fn name(self) -> Option<&'static str> {
                match self.0 & !1 {
                    $($number => Some($name),)*
                    _ => None,
                }
            }
        }
    };
}
message_types! {
    6 TLERROR RLERROR "lerror";
    8 TSTATFS RSTATFS "statfs";
    12 TLOPEN RLOPEN "lopen";
    14 TLCREATE RLCREATE "lcreate";
    16 TSYMLINK RSYMLINK "symlink";
    18 TMKNOD RMKNOD "mknod";
    20 TRENAME RRENAME "rename";
    22 TREADLINK RREADLINK "readlink";
    24 TGETATTR RGETATTR "getattr";
    26 TSETATTR RSETATTR "setattr";
    30 TXATTRWALK RXATTRWALK "xattrwalk";
    32 TXATTRCREATE RXATTRCREATE "xattrcreate";
    40 TREADDIR RREADDIR "readdir";
    50 TFSYNC RFSYNC "fsync";
    52 TLOCK RLOCK "lock";
    54 TGETLOCK RGETLOCK "getlock";
    70 TLINK RLINK "link";
    72 TMKDIR RMKDIR "mkdir";
    74 TRENAMEAT RRENAMEAT "renameat";
    76 TUNLINKAT RUNLINKAT "unlinkat";
    100 TVERSION RVERSION "version";
    102 TAUTH RAUTH "auth";
    104 TATTACH RATTACH "attach";
    106 TERROR RERROR "error";
    108 TFLUSH RFLUSH "flush";
    110 TWALK RWALK "walk";
    112 TOPEN ROPEN "open";
    114 TCREATE RCREATE "create";
    116 TREAD RREAD "read";
    118 TWRITE RWRITE "write";
    120 TCLUNK RCLUNK "clunk";
    122 TREMOVE RREMOVE "remove";
    124 TSTAT RSTAT "stat";
    126 TWSTAT RWSTAT "wstat";
}

/// The first seven bytes of every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the whole message in bytes, this field included.
    pub size: u32,
    /// What the message is.
    pub kind: MessageType,
    /// Which request it belongs to.
    pub tag: Tag,
}

impl<'a> Field<'a> for Header {
    #[inline]
    fn wire_len(&self) -> usize {
        HEADER_LEN
    }
    #[inline]
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
        Ok(Header { size: from.field()?, kind: from.field()?, tag: from.field()? })
    }
    #[inline]
    fn encode(&self, to: &mut super::Encoder<'_>) -> Result<(), Malformed> {
        self.size.encode(to)?;
        self.kind.encode(to)?;
        self.tag.encode(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_bytes() {
        let bytes = [0x13, 0, 0, 0, 0x18, 0x02, 0x01];
        let header: Header = Decoder::new(&bytes).field().unwrap();
        assert_eq!(header, Header { size: 19, kind: MessageType::TGETATTR, tag: Tag(0x0102) });
        let mut out = [0; HEADER_LEN];
        header.encode(&mut super::super::Encoder::new(&mut out)).unwrap();
        assert_eq!(out, bytes);
    }

    #[test]
    fn names_cover_requests_and_replies() {
        assert_eq!(MessageType::TWALK.name(), Some("walk"));
        assert_eq!(MessageType::RWALK.name(), Some("walk"));
        assert_eq!(MessageType(128).name(), None);
    }
}
