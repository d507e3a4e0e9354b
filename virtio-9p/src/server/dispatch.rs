//! From a request to its handler.

use super::Server;
use super::reply::Reply;
use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::segment::Readable;
use crate::wire::{Header, Message, MessageType, Tauth};

/// A request up to its payload, not yet taken apart: each handler is given its own message, which is read straight into
/// it.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) header: Header,
    pub(super) bytes: &'a [u8],
}

impl<F: FileSystem> Server<F> {
    /// Reads the message in `frame`, whose type is a request of the dialect, carries it out and writes its reply.
    /// `request` is needed for the data of a write alone.
    #[inline]
    pub(super) fn dispatch(&self, frame: Frame<'_>, request: &Readable<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        match frame.header.kind {
            MessageType::TVERSION => self.version(&read(frame, reply)?, reply),
            // What clients take for "no authentication is needed"; Linux never asks, diod's tools know this one alone.
            MessageType::TAUTH => read::<Tauth<'_>>(frame, reply).and(Err(Errno::ENOENT)),
            MessageType::TATTACH => self.attach(&read(frame, reply)?, reply),
            MessageType::TFLUSH => self.flush(&read(frame, reply)?, reply),
            MessageType::TCLUNK => self.clunk(&read(frame, reply)?, reply),
            MessageType::TWALK => self.walk(&read(frame, reply)?, reply),
            MessageType::TOPEN => self.open(&read(frame, reply)?, reply),
            MessageType::TCREATE => self.create(&read(frame, reply)?, reply),
            MessageType::TSTAT => self.stat(&read(frame, reply)?, reply),
            MessageType::TWSTAT => self.wstat(&read(frame, reply)?, reply),
            MessageType::TLOPEN => self.lopen(&read(frame, reply)?, reply),
            MessageType::TLCREATE => self.lcreate(&read(frame, reply)?, reply),
            MessageType::TREAD => self.read(&read(frame, reply)?, reply),
            MessageType::TWRITE => self.write(&read(frame, reply)?, request, reply),
            MessageType::TREADDIR => self.readdir(&read(frame, reply)?, reply),
            MessageType::TFSYNC => self.fsync(&read(frame, reply)?, reply),
            MessageType::TGETATTR => self.getattr(&read(frame, reply)?, reply),
            MessageType::TSETATTR => self.setattr(&read(frame, reply)?, reply),
            MessageType::TSTATFS => self.statfs(&read(frame, reply)?, reply),
            MessageType::TREADLINK => self.readlink(&read(frame, reply)?, reply),
            MessageType::TSYMLINK => self.symlink(&read(frame, reply)?, reply),
            MessageType::TMKNOD => self.mknod(&read(frame, reply)?, reply),
            MessageType::TMKDIR => self.mkdir(&read(frame, reply)?, reply),
            MessageType::TLINK => self.link(&read(frame, reply)?, reply),
            MessageType::TRENAME => self.rename(&read(frame, reply)?, reply),
            MessageType::TRENAMEAT => self.renameat(&read(frame, reply)?, reply),
            MessageType::TUNLINKAT => self.unlinkat(&read(frame, reply)?, reply),
            MessageType::TREMOVE => self.remove(&read(frame, reply)?, reply),
            MessageType::TXATTRWALK => self.xattrwalk(&read(frame, reply)?, reply),
            MessageType::TXATTRCREATE => self.xattrcreate(&read(frame, reply)?, reply),
            MessageType::TLOCK => self.lock(&read(frame, reply)?, reply),
            MessageType::TGETLOCK => self.getlock(&read(frame, reply)?, reply),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

/// The message in `frame`; `EPROTO` if the bytes are not one.
#[inline]
fn read<'a, M: Message<'a>>(frame: Frame<'a>, reply: &Reply<'_>) -> Result<M, Errno> {
    M::parse_in(reply.dialect(), frame.header, frame.bytes).map_err(|_| Errno::EPROTO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Directory, Synthetic};
    use crate::wire::{Dialect, NOTAG, Tversion};
    use crate::{Options, Outcome};

    #[test]
    fn every_request_of_a_dialect_has_a_handler() {
        for dialect in [Dialect::Plan9, Dialect::Unix, Dialect::Linux] {
            let server = Server::new(Synthetic::new(Directory::new()), Options::default());
            let (mut request, mut reply) = ([0; 64], [0; 64]);
            let version = Tversion { msize: 8192, version: dialect.version() };
            let len = version.emit(NOTAG, &mut request).unwrap();
            let mut kinds: Vec<u8> = (0..=255).filter(|kind| dialect.has_request(MessageType(*kind))).collect();
            // A version that is not one ends the session.
            kinds.retain(|kind| *kind != MessageType::TVERSION.0);
            assert!(matches!(server.handle_bytes(&mut request[..len], &mut reply), Outcome::Reply(_)));
            for kind in kinds {
                let error = answer(&server, kind);
                assert_eq!(error, words(dialect, Errno::EPROTO), "type {kind}");
            }
            assert_eq!(answer(&server, 5), words(dialect, Errno::EOPNOTSUPP));
        }
    }

    /// The answer to a request of nothing but a header, from behind its tag on.
    fn answer(server: &Server<Synthetic>, kind: u8) -> Vec<u8> {
        let mut reply = [0; 64];
        let Outcome::Reply(len) = server.handle_bytes(&mut [7, 0, 0, 0, kind, 1, 0], &mut reply) else {
            panic!("type {kind} was dropped");
        };
        reply[7..len].to_vec()
    }

    fn words(dialect: Dialect, error: Errno) -> Vec<u8> {
        let words = error.words();
        let text = [&u16::try_from(words.len()).unwrap().to_le_bytes(), words.as_bytes()].concat();
        match dialect {
            Dialect::Linux => error.raw().to_le_bytes().to_vec(),
            Dialect::Unix => [text, error.raw().to_le_bytes().to_vec()].concat(),
            Dialect::Plan9 => text,
        }
    }
}
