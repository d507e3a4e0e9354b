//! A small 9P client that calls a server in process, over scatter lists cut in any way and fenced by guard bytes.
#![expect(dead_code, reason = "each program uses its own part of the client")]

pub(crate) mod legacy;

use std::path::Path;

use tempfile::TempDir;
use virtio_9p::wire::{
    AttrMask, Decoder, Dialect, DirEntry, Fid, Header, LockFlags, LockStatus, LockType, Message, NOFID, NONUNAME,
    NOTAG, OpenFlags, Qid, Rattach, Rgetattr, Rgetlock, Rlcreate, Rlerror, Rlock, Rlopen, Rmkdir, Rmknod, Rread,
    Rreaddir, Rreadlink, Rstatfs, Rsymlink, Rversion, Rwalk, Rwrite, Rxattrwalk, SetattrValid, Tag, Tattach, Tclunk,
    Tfsync, Tgetattr, Tgetlock, Tlcreate, Tlink, Tlock, Tlopen, Tmkdir, Tmknod, Tread, Treaddir, Treadlink, Tremove,
    Trename, Trenameat, Tsetattr, Tstatfs, Tsymlink, Tunlinkat, Tversion, Twalk, Twrite, Txattrcreate, Txattrwalk,
    WalkNames, XattrFlags,
};
use virtio_9p::{
    Errno, FileSystem, Options, Outcome, Passthrough, PassthroughOptions, Readable, Segment, Server, Writable,
};

/// The root's fid in every test.
pub(crate) const ROOT: Fid = Fid(0);

const GUARD: u8 = 0xa5;
const FENCE: usize = 16;

/// How messages are cut into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// One segment.
    Whole,
    /// One byte each.
    Bytes,
    /// Lengths 3, 0, 7, 1, 13, 4096 and so on.
    Odd,
    /// As Linux over virtio does: 11 or 23 bytes, then pages.
    Pages(usize),
}

/// Memory cut into segments, each between guard bytes.
pub(crate) struct Fenced {
    bytes: Vec<u8>,
    spans: Vec<(usize, usize)>,
}

impl Fenced {
    pub(crate) fn new(len: usize, cut: Cut) -> Fenced {
        let mut lengths: Box<dyn Iterator<Item = usize>> = match cut {
            Cut::Whole => Box::new(std::iter::once(len)),
            Cut::Bytes => Box::new(std::iter::repeat(1)),
            Cut::Odd => Box::new([3, 0, 7, 1, 13, 4096].into_iter().cycle()),
            Cut::Pages(head) => Box::new(std::iter::once(head).chain(std::iter::repeat(4096))),
        };
        let mut spans = Vec::new();
        let mut at = FENCE;
        let mut left = len;
        while left > 0 {
            let part = lengths.next().unwrap_or(left).min(left);
            spans.push((at, part));
            at += part + FENCE;
            left -= part;
        }
        Fenced { bytes: vec![GUARD; at], spans }
    }

    pub(crate) fn segments(&mut self) -> Vec<Segment> {
        let base = self.bytes.as_mut_ptr();
        // SAFETY: the spans lie inside `bytes`, which the caller keeps and does not touch while the segments are in use.
        self.spans.iter().map(|(at, len)| unsafe { Segment::new(base.add(*at), *len) }).collect()
    }

    pub(crate) fn fill(&mut self, mut data: &[u8]) {
        for (at, len) in &self.spans {
            let (now, rest) = data.split_at(*len);
            self.bytes[*at..at + len].copy_from_slice(now);
            data = rest;
        }
    }

    pub(crate) fn gather(&self) -> Vec<u8> {
        self.spans.iter().flat_map(|(at, len)| &self.bytes[*at..at + len]).copied().collect()
    }

    /// Panics if a guard byte changed.
    pub(crate) fn check_guards(&self) {
        let mut at = 0;
        for (start, len) in self.spans.iter().copied().chain([(self.bytes.len(), 0)]) {
            assert!(self.bytes[at..start].iter().all(|byte| *byte == GUARD), "written outside the segments");
            at = start + len;
        }
    }
}

/// Sends raw bytes to a server with room for a reply of `room` bytes; `None` if it was dropped.
pub(crate) fn exchange<F: FileSystem>(
    server: &Server<F>,
    request: &[u8],
    room: usize,
    cut: (Cut, Cut),
) -> Option<Vec<u8>> {
    let mut from = Fenced::new(request.len(), cut.0);
    from.fill(request);
    let mut to = Fenced::new(room, cut.1);
    let (from_segments, to_segments) = (from.segments(), to.segments());
    let outcome = server.handle(&Readable::new(&from_segments), &Writable::new(&to_segments));
    to.check_guards();
    from.check_guards();
    assert_eq!(from.gather(), request, "the request was written to");
    match outcome {
        Outcome::Reply(len) => {
            let mut reply = to.gather();
            assert!(len <= reply.len(), "used length {len} beyond the room {room}");
            assert_eq!(u32::from_le_bytes(reply[..4].try_into().unwrap()), u32::try_from(len).unwrap());
            reply.truncate(len);
            Some(reply)
        }
        Outcome::Dropped => {
            assert!(to.gather().iter().all(|byte| *byte == GUARD), "dropped, yet written to");
            None
        }
    }
}

/// A session with a server.
pub(crate) struct Client<F: FileSystem = Passthrough> {
    pub(crate) server: Server<F>,
    pub(crate) cut: (Cut, Cut),
    pub(crate) room: usize,
    pub(crate) dialect: Dialect,
}

impl<F: FileSystem> Client<F> {
    /// A client before its first request.
    pub(crate) fn new(server: Server<F>) -> Client<F> {
        Client { server, cut: (Cut::Whole, Cut::Whole), room: 64 << 10, dialect: Dialect::Linux }
    }
}

/// A server of `folder`, attached as nobody in particular.
pub(crate) fn connect(folder: &Path) -> Client {
    connect_with(folder, Options::default(), PassthroughOptions::default())
}

/// A server of a folder of its own.
pub(crate) fn connect_fresh() -> (TempDir, Client) {
    let folder = tempfile::tempdir().unwrap();
    let client = connect(folder.path());
    (folder, client)
}

pub(crate) fn connect_with(folder: &Path, options: Options, passthrough: PassthroughOptions) -> Client {
    let server = Server::new(Passthrough::new(folder, passthrough).unwrap(), options);
    let client = Client::new(server);
    client.version(1 << 20);
    client.attach(ROOT, NONUNAME).unwrap();
    client
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A whole request frame.
pub(crate) fn frame<'m>(message: &impl Message<'m>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; message.head_len()];
    message.emit(Tag(7), &mut bytes).unwrap();
    bytes.extend_from_slice(payload);
    bytes
}

impl<F: FileSystem> Client<F> {
    /// Sends a message and returns the reply's frame, or the error that it is.
    pub(crate) fn call_with<'m, M: Message<'m>>(&self, message: &M, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let request = frame(message, payload);
        let reply = exchange(&self.server, &request, self.room, self.cut).expect("dropped");
        let header: Header = Decoder::new(&reply).field().unwrap();
        assert_eq!(header.tag, Tag(7));
        if let Ok((_, error)) = Rlerror::parse(&reply) {
            assert_eq!(reply.len(), Rlerror::LEN);
            assert_eq!(self.dialect, Dialect::Linux);
            return Err(Errno::from_raw(error.ecode.try_into().unwrap()));
        }
        if let Some(error) = self.error_in_words(&reply) {
            return Err(error);
        }
        assert_eq!(header.kind.0, M::TYPE.0 + 1);
        Ok(reply)
    }

    pub(crate) fn call<'m>(&self, message: &impl Message<'m>) -> Result<Vec<u8>, Errno> {
        self.call_with(message, &[])
    }

    pub(crate) fn version(&self, msize: u32) -> u32 {
        let offer = Tversion { msize, version: self.dialect.version() };
        let mut request = vec![0; offer.head_len()];
        offer.emit(NOTAG, &mut request).unwrap();
        let reply = exchange(&self.server, &request, self.room, self.cut).unwrap();
        let (tag, version) = Rversion::parse(&reply).unwrap();
        assert_eq!((tag, version.version), (NOTAG, self.dialect.version()));
        version.msize
    }

    pub(crate) fn attach(&self, fid: Fid, n_uname: u32) -> Result<Qid, Errno> {
        let n_uname = self.dialect.has_unix_fields().then_some(n_uname);
        let reply = self.call(&Tattach { fid, afid: NOFID, uname: b"", aname: b"", n_uname })?;
        Ok(Rattach::parse(&reply).unwrap().1.qid)
    }

    pub(crate) fn walk(&self, fid: Fid, newfid: Fid, names: &[&[u8]]) -> Result<Vec<Qid>, Errno> {
        let reply = self.call(&Twalk { fid, newfid, names: WalkNames::new(names).unwrap() })?;
        Ok(Rwalk::parse(&reply).unwrap().1.qids.as_slice().to_vec())
    }

    /// Walks from the root by a path; `ENOENT` if the walk ends early.
    pub(crate) fn reach(&self, newfid: Fid, path: &str) -> Result<(), Errno> {
        let names: Vec<&[u8]> = path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect();
        let qids = self.walk(ROOT, newfid, &names)?;
        if qids.len() == names.len() { Ok(()) } else { Err(Errno::ENOENT) }
    }

    pub(crate) fn clunk(&self, fid: Fid) -> Result<(), Errno> {
        self.call(&Tclunk { fid }).map(drop)
    }

    pub(crate) fn open(&self, fid: Fid, flags: u32) -> Result<Rlopen, Errno> {
        let reply = self.call(&Tlopen { fid, flags: OpenFlags(flags) })?;
        Ok(Rlopen::parse(&reply).unwrap().1)
    }

    /// Reaches and opens a file.
    pub(crate) fn open_path(&self, fid: Fid, path: &str, flags: u32) -> Result<(), Errno> {
        self.reach(fid, path)?;
        self.open(fid, flags).map(drop)
    }

    pub(crate) fn create(&self, fid: Fid, name: &[u8], flags: u32, mode: u32) -> Result<Rlcreate, Errno> {
        self.create_for(fid, name, flags, mode, u32::MAX)
    }

    pub(crate) fn create_for(&self, fid: Fid, name: &[u8], flags: u32, mode: u32, gid: u32) -> Result<Rlcreate, Errno> {
        let reply = self.call(&Tlcreate { fid, name, flags: OpenFlags(flags), mode, gid })?;
        Ok(Rlcreate::parse(&reply).unwrap().1)
    }

    /// Creates a file in the root, with its fid.
    pub(crate) fn create_in_root(&self, fid: Fid, name: &str, flags: u32) -> Result<(), Errno> {
        self.walk(ROOT, fid, &[])?;
        self.create(fid, name.as_bytes(), flags, 0o644).map(drop)
    }

    pub(crate) fn read(&self, fid: Fid, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        let reply = self.call(&Tread { fid, offset, count })?;
        Rread::parse(&reply).unwrap();
        Ok(reply[Rread::HEAD_LEN..].to_vec())
    }

    pub(crate) fn write(&self, fid: Fid, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let count = data.len().try_into().unwrap();
        let reply = self.call_with(&Twrite { fid, offset, count }, data)?;
        Ok(Rwrite::parse(&reply).unwrap().1.count)
    }

    pub(crate) fn readdir(&self, fid: Fid, offset: u64, count: u32) -> Result<Vec<Entry>, Errno> {
        let reply = self.call(&Treaddir { fid, offset, count })?;
        let (_, head) = Rreaddir::parse(&reply).unwrap();
        assert!(head.count <= count);
        let mut from = Decoder::new(&reply[Rread::HEAD_LEN..]);
        let mut entries = Vec::new();
        while !from.is_empty() {
            let entry: DirEntry<'_> = from.field().unwrap();
            entries.push(Entry {
                qid: entry.qid,
                offset: entry.offset,
                kind: entry.kind,
                name: String::from_utf8_lossy(entry.name).into_owned(),
            });
        }
        Ok(entries)
    }

    /// All entries of an open directory, by requests of `count` bytes.
    pub(crate) fn list(&self, fid: Fid, count: u32) -> Result<Vec<Entry>, Errno> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let offset = all.last().map_or(0, |entry| entry.offset);
            let more = self.readdir(fid, offset, count)?;
            if more.is_empty() {
                return Ok(all);
            }
            all.extend(more);
        }
    }

    pub(crate) fn getattr(&self, fid: Fid) -> Result<Rgetattr, Errno> {
        let reply = self.call(&Tgetattr { fid, request_mask: AttrMask::ALL })?;
        assert_eq!(reply.len(), 160);
        Ok(Rgetattr::parse(&reply).unwrap().1)
    }

    pub(crate) fn setattr(&self, fid: Fid, valid: u32, change: impl FnOnce(&mut Tsetattr)) -> Result<(), Errno> {
        let mut message = Tsetattr {
            fid,
            valid: SetattrValid(valid),
            mode: 0,
            uid: u32::MAX,
            gid: u32::MAX,
            size: 0,
            atime: Default::default(),
            mtime: Default::default(),
        };
        change(&mut message);
        self.call(&message).map(drop)
    }

    pub(crate) fn mkdir(&self, dfid: Fid, name: &[u8], mode: u32) -> Result<Qid, Errno> {
        self.mkdir_for(dfid, name, mode, u32::MAX)
    }

    pub(crate) fn mkdir_for(&self, dfid: Fid, name: &[u8], mode: u32, gid: u32) -> Result<Qid, Errno> {
        let reply = self.call(&Tmkdir { dfid, name, mode, gid })?;
        Ok(Rmkdir::parse(&reply).unwrap().1.qid)
    }

    pub(crate) fn mknod(
        &self,
        dfid: Fid,
        name: &[u8],
        mode: u32,
        (major, minor): (u32, u32),
        gid: u32,
    ) -> Result<Qid, Errno> {
        let reply = self.call(&Tmknod { dfid, name, mode, major, minor, gid })?;
        Ok(Rmknod::parse(&reply).unwrap().1.qid)
    }

    pub(crate) fn statfs(&self, fid: Fid) -> Result<Rstatfs, Errno> {
        let reply = self.call(&Tstatfs { fid })?;
        Ok(Rstatfs::parse(&reply).unwrap().1)
    }

    pub(crate) fn symlink(&self, dfid: Fid, name: &[u8], target: &[u8]) -> Result<Qid, Errno> {
        let reply = self.call(&Tsymlink { dfid, name, target, gid: u32::MAX })?;
        Ok(Rsymlink::parse(&reply).unwrap().1.qid)
    }

    pub(crate) fn readlink(&self, fid: Fid) -> Result<Vec<u8>, Errno> {
        let reply = self.call(&Treadlink { fid })?;
        Ok(Rreadlink::parse(&reply).unwrap().1.target.to_vec())
    }

    pub(crate) fn link(&self, fid: Fid, dfid: Fid, name: &[u8]) -> Result<(), Errno> {
        self.call(&Tlink { dfid, fid, name }).map(drop)
    }

    pub(crate) fn renameat(&self, old_dfid: Fid, old_name: &[u8], new_dfid: Fid, new_name: &[u8]) -> Result<(), Errno> {
        self.call(&Trenameat { old_dfid, old_name, new_dfid, new_name }).map(drop)
    }

    pub(crate) fn rename(&self, fid: Fid, dfid: Fid, name: &[u8]) -> Result<(), Errno> {
        self.call(&Trename { fid, dfid, name }).map(drop)
    }

    pub(crate) fn unlinkat(&self, dfid: Fid, name: &[u8], flags: u32) -> Result<(), Errno> {
        self.call(&Tunlinkat { dfid, name, flags }).map(drop)
    }

    /// Removes a file from the directory at `path`, reached with `fid`.
    pub(crate) fn unlinkat_path(&self, fid: Fid, path: &str, name: &[u8]) -> Result<(), Errno> {
        self.reach(fid, path)?;
        self.unlinkat(fid, name, 0)
    }

    pub(crate) fn remove(&self, fid: Fid) -> Result<(), Errno> {
        self.call(&Tremove { fid }).map(drop)
    }

    pub(crate) fn fsync(&self, fid: Fid, datasync: u32) -> Result<(), Errno> {
        self.call(&Tfsync { fid, datasync }).map(drop)
    }

    pub(crate) fn xattrwalk(&self, fid: Fid, newfid: Fid, name: &[u8]) -> Result<u64, Errno> {
        let reply = self.call(&Txattrwalk { fid, newfid, name })?;
        Ok(Rxattrwalk::parse(&reply).unwrap().1.size)
    }

    pub(crate) fn xattrcreate(&self, fid: Fid, name: &[u8], attr_size: u64, flags: u32) -> Result<(), Errno> {
        self.call(&Txattrcreate { fid, name, attr_size, flags: XattrFlags(flags) }).map(drop)
    }

    pub(crate) fn lock(&self, fid: Fid, kind: LockType, range: (u64, u64), proc_id: u32) -> Result<LockStatus, Errno> {
        let reply = self.call(&Tlock {
            fid,
            kind,
            flags: LockFlags(LockFlags::BLOCK),
            start: range.0,
            length: range.1,
            proc_id,
            client_id: b"vm",
        })?;
        Ok(Rlock::parse(&reply).unwrap().1.status)
    }

    /// The conflicting lock: type, start, length, process and client.
    pub(crate) fn getlock(
        &self,
        fid: Fid,
        kind: LockType,
        range: (u64, u64),
        proc_id: u32,
    ) -> Result<(LockType, u64, u64, u32, Vec<u8>), Errno> {
        let reply = self.call(&Tgetlock { fid, kind, start: range.0, length: range.1, proc_id, client_id: b"vm" })?;
        let (_, lock) = Rgetlock::parse(&reply).unwrap();
        Ok((lock.kind, lock.start, lock.length, lock.proc_id, lock.client_id.to_vec()))
    }
}

/// A directory entry as the client got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) qid: Qid,
    pub(crate) offset: u64,
    pub(crate) kind: u8,
    pub(crate) name: String,
}
