//! Which messages are requests, in which dialect.

use super::dialect::Dialect;
use super::header::MessageType;

impl Dialect {
    /// Whether `kind` is the type of a request of the dialect.
    #[inline]
    pub fn has_request(self, kind: MessageType) -> bool {
        match kind {
            MessageType::TVERSION
            | MessageType::TAUTH
            | MessageType::TATTACH
            | MessageType::TFLUSH
            | MessageType::TWALK
            | MessageType::TREAD
            | MessageType::TWRITE
            | MessageType::TCLUNK
            | MessageType::TREMOVE => true,
            MessageType::TOPEN | MessageType::TCREATE | MessageType::TSTAT | MessageType::TWSTAT => {
                self != Dialect::Linux
            }
            MessageType::TSTATFS
            | MessageType::TLOPEN
            | MessageType::TLCREATE
            | MessageType::TSYMLINK
            | MessageType::TMKNOD
            | MessageType::TRENAME
            | MessageType::TREADLINK
            | MessageType::TGETATTR
            | MessageType::TSETATTR
            | MessageType::TXATTRWALK
            | MessageType::TXATTRCREATE
            | MessageType::TREADDIR
            | MessageType::TFSYNC
            | MessageType::TLOCK
            | MessageType::TGETLOCK
            | MessageType::TLINK
            | MessageType::TMKDIR
            | MessageType::TRENAMEAT
            | MessageType::TUNLINKAT => self == Dialect::Linux,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Decoder, Malformed, Message, Tattach, Tcreate};

    const ALL: [Dialect; 3] = [Dialect::Plan9, Dialect::Unix, Dialect::Linux];

    #[test]
    fn each_dialect_has_its_own_requests() {
        let known =
            |dialect: Dialect| (0..=255).filter(|kind| dialect.has_request(MessageType(*kind))).collect::<Vec<u8>>();
        let old = [100, 102, 104, 108, 110, 112, 114, 116, 118, 120, 122, 124, 126];
        assert_eq!(known(Dialect::Plan9), old);
        assert_eq!(known(Dialect::Unix), old);
        let linux = known(Dialect::Linux);
        assert_eq!(linux.len(), 28);
        assert!([112, 114, 124, 126].iter().all(|kind| !linux.contains(kind)));
        assert!(linux.iter().all(|kind| kind % 2 == 0), "replies are not requests");
    }

    #[test]
    fn the_last_fields_must_be_those_of_the_dialect() {
        fn parse<'a, M: Message<'a>>(dialect: Dialect, frame: &'a [u8]) -> Result<M, Malformed> {
            M::parse_in(dialect, Decoder::new(frame).field().unwrap(), frame)
        }
        let plan9 = &b"\x13\0\0\0\x68\x01\0\x07\0\0\0\xff\xff\xff\xff\0\0\0\0"[..];
        let unix = &b"\x17\0\0\0\x68\x01\0\x07\0\0\0\xff\xff\xff\xff\0\0\0\0\x01\0\0\0"[..];
        for dialect in ALL {
            let (right, wrong) = if dialect == Dialect::Plan9 { (plan9, unix) } else { (unix, plan9) };
            assert!(parse::<Tattach<'_>>(dialect, right).is_ok());
            assert_eq!(parse::<Tattach<'_>>(dialect, wrong), Err(Malformed::Dialect));
        }
        let plan9 = &b"\x13\0\0\0\x72\x01\0\x09\0\0\0\x01\0f\xa4\x01\0\0\0"[..];
        let unix = &b"\x15\0\0\0\x72\x01\0\x09\0\0\0\x01\0f\xa4\x01\0\0\0\0\0"[..];
        let create = parse::<Tcreate<'_>>;
        assert!(create(Dialect::Plan9, plan9).is_ok() && create(Dialect::Unix, unix).is_ok());
        assert_eq!(create(Dialect::Unix, plan9), Err(Malformed::Dialect));
        assert_eq!(create(Dialect::Plan9, unix), Err(Malformed::Dialect));
    }
}
