//! Any request, chosen by its type byte among those of a dialect.

use super::codec::Malformed;
use super::dialect::Dialect;
use super::header::{Header, MessageType};
use super::message::Message;
use super::{
    Tattach, Tauth, Tclunk, Tcreate, Tflush, Tfsync, Tgetattr, Tgetlock, Tlcreate, Tlink, Tlock, Tlopen, Tmkdir,
    Tmknod, Topen, Tread, Treaddir, Treadlink, Tremove, Trename, Trenameat, Tsetattr, Tstat, Tstatfs, Tsymlink,
    Tunlinkat, Tversion, Twalk, Twrite, Twstat, Txattrcreate, Txattrwalk,
};

macro_rules! requests {
    ($($dialects:ident { $($variant:ident($message:ty),)* })*) => {
        /// A request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each variant is the message of that name")]
        pub enum Request<'a> {
            $($($variant($message),)*)*
        }

        impl<'a> Request<'a> {
            /// Reads the request whose header is `header` from the start of `frame`, which must hold it up to its payload.
            ///
            /// [`Malformed::Unknown`] if the type is no request of the dialect.
            #[inline]
            pub fn parse(dialect: Dialect, header: Header, frame: &'a [u8]) -> Result<Request<'a>, Malformed> {
                if !Request::knows(dialect, header.kind) {
                    return Err(Malformed::Unknown);
                }
                let request = match header.kind {
                    $($(<$message>::TYPE => {
                        <$message>::parse_sized(header.size, frame).map(Request::$variant)
                    })*)*
                    _ => Err(Malformed::Unknown),
                }?;
                if request.is_of(dialect) { Ok(request) } else { Err(Malformed::Dialect) }
            }

            /// Whether `kind` is the type of a request of the dialect.
            #[inline]
            pub fn knows(dialect: Dialect, kind: MessageType) -> bool {
                match kind {
                    $($(<$message>::TYPE)|* => requests!(@in $dialects dialect),)*
                    _ => false,
                }
            }

            /// The type of the request.
            pub fn kind(&self) -> MessageType {
                match self {
                    $($(Request::$variant(_) => <$message>::TYPE,)*)*
                }
            }
        }
    };
    (@in all $dialect:ident) => {
        true
    };
    (@in linux $dialect:ident) => {
        $dialect == Dialect::Linux
    };
    (@in legacy $dialect:ident) => {
        $dialect != Dialect::Linux
    };
}
requests! {
    linux {
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
    }
    legacy {
        Open(Topen),
        Create(Tcreate<'a>),
        Stat(Tstat),
        Wstat(Twstat<'a>),
    }
    all {
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
}

impl Request<'_> {
    /// Whether the fields that only some dialects have are there as the dialect says.
    #[inline]
    fn is_of(&self, dialect: Dialect) -> bool {
        let unix = match self {
            Request::Auth(message) => message.n_uname.is_some(),
            Request::Attach(message) => message.n_uname.is_some(),
            Request::Create(message) => message.extension.is_some(),
            Request::Wstat(message) => message.stat.0.unix.is_some(),
            _ => return true,
        };
        unix == dialect.has_unix_fields()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Decoder, Fid};

    const ALL: [Dialect; 3] = [Dialect::Plan9, Dialect::Unix, Dialect::Linux];

    fn parse(dialect: Dialect, frame: &[u8]) -> Result<Request<'_>, Malformed> {
        Request::parse(dialect, Decoder::new(frame).field().unwrap(), frame)
    }

    #[test]
    fn a_request_is_chosen_by_its_type() {
        for dialect in ALL {
            let request = parse(dialect, b"\x0b\0\0\0\x78\x01\0\x04\0\0\0").unwrap();
            assert_eq!(request, Request::Clunk(Tclunk { fid: Fid(4) }));
            assert_eq!(request.kind(), MessageType::TCLUNK);
        }
    }

    #[test]
    fn replies_and_what_no_dialect_has_are_unknown() {
        for dialect in ALL {
            for kind in [6_u8, 7, 9, 106, 107, 113, 121, 125, 128, 255] {
                assert_eq!(parse(dialect, &[7, 0, 0, 0, kind, 1, 0]), Err(Malformed::Unknown));
            }
        }
    }

    #[test]
    fn each_dialect_has_its_own_requests() {
        let known = |dialect| (0..=255).filter(|kind| Request::knows(dialect, MessageType(*kind))).collect::<Vec<u8>>();
        let old = [100, 102, 104, 108, 110, 112, 114, 116, 118, 120, 122, 124, 126];
        assert_eq!(known(Dialect::Plan9), old);
        assert_eq!(known(Dialect::Unix), old);
        let linux = known(Dialect::Linux);
        assert_eq!(linux.len(), 28);
        assert!([112, 114, 124, 126].iter().all(|kind| !linux.contains(kind)));
    }

    #[test]
    fn the_last_fields_must_be_those_of_the_dialect() {
        let plan9 = &b"\x13\0\0\0\x68\x01\0\x07\0\0\0\xff\xff\xff\xff\0\0\0\0"[..];
        let unix = &b"\x17\0\0\0\x68\x01\0\x07\0\0\0\xff\xff\xff\xff\0\0\0\0\x01\0\0\0"[..];
        for dialect in ALL {
            let (right, wrong) = if dialect == Dialect::Plan9 { (plan9, unix) } else { (unix, plan9) };
            assert!(matches!(parse(dialect, right), Ok(Request::Attach(_))));
            assert_eq!(parse(dialect, wrong), Err(Malformed::Dialect));
        }
        let plan9 = &b"\x13\0\0\0\x72\x01\0\x09\0\0\0\x01\0f\xa4\x01\0\0\0"[..];
        let unix = &b"\x15\0\0\0\x72\x01\0\x09\0\0\0\x01\0f\xa4\x01\0\0\0\0\0"[..];
        assert!(parse(Dialect::Plan9, plan9).is_ok() && parse(Dialect::Unix, unix).is_ok());
        assert_eq!(parse(Dialect::Unix, plan9), Err(Malformed::Dialect));
        assert_eq!(parse(Dialect::Plan9, unix), Err(Malformed::Dialect));
    }
}
