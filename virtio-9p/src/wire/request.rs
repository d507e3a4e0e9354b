//! Any request, chosen by its type byte.

use super::codec::Malformed;
use super::header::{Header, MessageType};
use super::message::Message;
use super::{
    Tattach, Tauth, Tclunk, Tflush, Tfsync, Tgetattr, Tgetlock, Tlcreate, Tlink, Tlock, Tlopen, Tmkdir, Tmknod, Tread,
    Treaddir, Treadlink, Tremove, Trename, Trenameat, Tsetattr, Tstatfs, Tsymlink, Tunlinkat, Tversion, Twalk, Twrite,
    Txattrcreate, Txattrwalk,
};

macro_rules! requests {
    ($($variant:ident($message:ty),)*) => {
        /// A 9P2000.L request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each variant is the message of that name")]
        #[expect(clippy::large_enum_variant, reason = "it lives on the stack, for one request; a box would cost more")]
        pub enum Request<'a> {
            $($variant($message),)*
        }

        impl<'a> Request<'a> {
            /// Reads the request whose header is `header` from the start of `frame`, which must hold it up to its payload.
            ///
            /// [`Malformed::Unknown`] if the type is no 9P2000.L request.
            pub fn parse(header: Header, frame: &'a [u8]) -> Result<Request<'a>, Malformed> {
                match header.kind {
                    $(<$message>::TYPE => {
                        <$message>::parse_sized(header.size, frame).map(Request::$variant)
                    })*
                    _ => Err(Malformed::Unknown),
                }
            }

            /// Whether `kind` is the type of a 9P2000.L request.
            pub fn knows(kind: MessageType) -> bool {
                matches!(kind, $(<$message>::TYPE)|*)
            }

            /// The type of the request.
            pub fn kind(&self) -> MessageType {
                match self {
                    $(Request::$variant(_) => <$message>::TYPE,)*
                }
            }
        }
    };
}
requests! {
    Statfs(Tstatfs),
    Lopen(Tlopen),
    Lcreate(Tlcreate<'a>),
    Symlink(Tsymlink<'a>),
    Mknod(Tmknod<'a>),
    Rename(Trename<'a>),
    Readlink(Treadlink),
    Getattr(Tgetattr),
    Setattr(Tsetattr),
    Xattrwalk(Txattrwalk<'a>),
    Xattrcreate(Txattrcreate<'a>),
    Readdir(Treaddir),
    Fsync(Tfsync),
    Lock(Tlock<'a>),
    Getlock(Tgetlock<'a>),
    Link(Tlink<'a>),
    Mkdir(Tmkdir<'a>),
    Renameat(Trenameat<'a>),
    Unlinkat(Tunlinkat<'a>),
    Version(Tversion<'a>),
    Auth(Tauth<'a>),
    Attach(Tattach<'a>),
    Flush(Tflush),
    Walk(Twalk<'a>),
    Read(Tread),
    Write(Twrite),
    Clunk(Tclunk),
    Remove(Tremove),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Decoder, Fid};

    fn parse(frame: &[u8]) -> Result<Request<'_>, Malformed> {
        Request::parse(Decoder::new(frame).field().unwrap(), frame)
    }

    #[test]
    fn a_request_is_chosen_by_its_type() {
        let request = parse(b"\x0b\0\0\0\x78\x01\0\x04\0\0\0").unwrap();
        assert_eq!(request, Request::Clunk(Tclunk { fid: Fid(4) }));
        assert_eq!(request.kind(), MessageType::TCLUNK);
    }

    #[test]
    fn replies_and_other_dialects_are_unknown() {
        for kind in [6_u8, 7, 9, 107, 112, 121, 124, 126, 255] {
            assert_eq!(parse(&[7, 0, 0, 0, kind, 1, 0]), Err(Malformed::Unknown));
        }
    }
}
