//! A client on a stream, on the wire types of the server.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use calgaryd::listen::ListenAddress;
use virtio_9p::wire::{
    Decoder, Fid, Header, LockFlags, LockStatus, LockType, Message, NOFID, NONUNAME, NOTAG, OpenFlags, Rlerror, Rlock,
    Rread, Rversion, Tag, Tattach, Tclunk, Tlcreate, Tlock, Tlopen, Tread, Tversion, Twalk, Twrite, WalkNames,
};

/// The fid that [`Client::connect`] attaches.
pub(crate) const ROOT: Fid = Fid(0);
/// A bound, not an expectation: what does not come within it never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub(crate) struct Client {
    stream: Box<dyn Stream>,
    next_tag: u16,
}

/// A whole frame.
pub(crate) fn frame<'m>(tag: Tag, message: &impl Message<'m>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; message.head_len()];
    message.emit(tag, &mut bytes).unwrap();
    bytes.extend_from_slice(payload);
    bytes
}

/// The `Tversion` that [`Client::connect`] begins with.
pub(crate) fn version(msize: u32) -> Vec<u8> {
    frame(NOTAG, &Tversion { msize, version: b"9P2000.L" }, &[])
}

/// Tag and type of a reply.
pub(crate) fn header(reply: &[u8]) -> Header {
    Decoder::new(reply).field().unwrap()
}

impl Client {
    /// A connection that has said nothing.
    pub(crate) fn open(address: &ListenAddress) -> Self {
        let stream: Box<dyn Stream> = match address {
            ListenAddress::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(stream)
            }
            ListenAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(stream)
            }
        };
        Self { stream, next_tag: 0 }
    }

    /// A session with [`ROOT`] attached.
    pub(crate) fn connect(address: &ListenAddress, msize: u32) -> Self {
        let mut client = Self::open(address);
        client.send(&version(msize));
        let reply = client.receive().expect("no Rversion");
        assert_eq!(Rversion::parse(&reply).unwrap().1.version, b"9P2000.L");
        client.call(&Tattach { fid: ROOT, afid: NOFID, uname: b"", aname: b"", n_uname: Some(NONUNAME) }, &[]);
        client
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next reply; `None` if the server has ended the connection.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        let ended =
            |kind| matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        let mut reply = vec![0; 4];
        match self.stream.read_exact(&mut reply) {
            Ok(()) => {}
            Err(cause) if ended(cause.kind()) => return None,
            Err(cause) => panic!("no reply: {cause}"),
        }
        let size = u32::from_le_bytes(reply[..4].try_into().unwrap()) as usize;
        reply.resize(size, 0);
        self.stream.read_exact(&mut reply[4..]).unwrap();
        Some(reply)
    }

    /// Sends a request with a tag of its own, and does not wait for the reply.
    pub(crate) fn start<'m>(&mut self, message: &impl Message<'m>, payload: &[u8]) -> Tag {
        self.next_tag += 1;
        let tag = Tag(self.next_tag);
        self.send(&frame(tag, message, payload));
        tag
    }

    /// Sends a request and returns the next reply, which must be its.
    pub(crate) fn call<'m, M: Message<'m>>(&mut self, message: &M, payload: &[u8]) -> Vec<u8> {
        let tag = self.start(message, payload);
        let reply = self.receive().expect("the connection ended");
        assert!(Rlerror::parse(&reply).is_err(), "{:?}", Rlerror::parse(&reply));
        assert_eq!((header(&reply).tag, header(&reply).kind.0), (tag, M::TYPE.0 + 1));
        reply
    }

    /// Walks from the root to `name`, a single name or nothing.
    pub(crate) fn walk(&mut self, fid: Fid, name: &[u8]) {
        let names: &[&[u8]] = if name.is_empty() { &[] } else { &[name] };
        self.call(&Twalk { fid: ROOT, newfid: fid, names: WalkNames::new(names).unwrap() }, &[]);
    }

    pub(crate) fn open_file(&mut self, fid: Fid, name: &str) {
        self.walk(fid, name.as_bytes());
        self.call(&Tlopen { fid, flags: OpenFlags(OpenFlags::RDWR) }, &[]);
    }

    pub(crate) fn create_file(&mut self, fid: Fid, name: &str) {
        self.walk(fid, b"");
        let flags = OpenFlags(OpenFlags::RDWR);
        self.call(&Tlcreate { fid, name: name.as_bytes(), flags, mode: 0o644, gid: u32::MAX }, &[]);
    }

    pub(crate) fn write(&mut self, fid: Fid, offset: u64, data: &[u8]) {
        self.call(&Twrite { fid, offset, count: data.len().try_into().unwrap() }, data);
    }

    pub(crate) fn read(&mut self, fid: Fid, offset: u64, count: u32) -> Vec<u8> {
        self.call(&Tread { fid, offset, count }, &[])[Rread::HEAD_LEN..].to_vec()
    }

    pub(crate) fn clunk(&mut self, fid: Fid) {
        self.call(&Tclunk { fid }, &[]);
    }

    /// Takes (`WRITE`) or gives up (`UNLOCK`) the whole file, for one and the same process; what the answer says.
    pub(crate) fn lock(&mut self, fid: Fid, kind: LockType) -> LockStatus {
        let reply = self.call(&whole_file(fid, kind), &[]);
        lock_status(&reply)
    }

    /// Asks for the whole file and does not wait.
    pub(crate) fn start_lock(&mut self, fid: Fid) -> Tag {
        self.start(&whole_file(fid, LockType::WRITE), &[])
    }
}

fn whole_file(fid: Fid, kind: LockType) -> Tlock<'static> {
    let flags = LockFlags(LockFlags::BLOCK);
    Tlock { fid, kind, flags, start: 0, length: 0, proc_id: 1, client_id: b"same" }
}

/// What a reply to a lock says.
pub(crate) fn lock_status(reply: &[u8]) -> LockStatus {
    Rlock::parse(reply).unwrap().1.status
}
