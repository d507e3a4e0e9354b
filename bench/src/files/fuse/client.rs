//! The work, in FUSE messages.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::subject::{Places, ROOM, SLOTS, Subject, Times};
use super::super::tree::{self, Tree};
use super::super::work::{SMALL, Work};
use super::channel::{Channel, Reply};
use super::wire::{ENTRY, Op, ROOT, field};
use crate::failure::Failure;
use crate::peers::Virtiofsd;

const O_RDONLY: u32 = 0;
const O_RDWR: u32 = 2;
const O_EXCL: u32 = 0o200;
/// Bytes of names asked for at once, as by the 9P client.
const READDIR_BYTES: u32 = 60 << 10;

/// An open file.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    node: u64,
    handle: u64,
}

/// A virtio-fs server with a session.
#[derive(Debug)]
pub(crate) struct FuseSubject {
    channel: Channel,
    tree: Tree,
    data: Open,
    target: Open,
    new: u64,
    first: u64,
    parent: u64,
    file: u64,
    /// Number of entries and the open directory.
    directories: Vec<(u32, Open)>,
    places: Places,
    made: u64,
    last_written: Option<(u64, u64)>,
}

impl FuseSubject {
    /// Opens a session and the files of `tree`, whose directories have so many entries.
    pub(crate) fn open(virtiofsd: Virtiofsd, tree: &Tree, directories: &[u32]) -> Result<Self, Failure> {
        let channel = Channel::start(virtiofsd.server, virtiofsd.device, virtiofsd.memory)?;
        let mut subject = Self {
            channel,
            tree: tree.clone(),
            data: Open::default(),
            target: Open::default(),
            new: 0,
            first: 0,
            parent: 0,
            file: 0,
            directories: Vec::new(),
            places: Places::new(),
            made: 0,
            last_written: None,
        };
        subject.call(&Op::Init)?;
        subject.data = subject.open_file(tree::DATA, O_RDONLY)?;
        subject.target = subject.open_file(tree::TARGET, O_RDWR)?;
        subject.new = subject.lookup(ROOT, tree::NEW)?.0;
        subject.first = subject.lookup(ROOT, tree::WAY[0])?.0;
        subject.parent = subject.lookup(subject.first, tree::WAY[1])?.0;
        subject.file = subject.lookup(subject.parent, tree::WAY[2])?.0;
        for entries in directories {
            let node = subject.lookup(ROOT, &tree::directory(*entries))?.0;
            let reply = subject.call(&Op::OpenDirectory { node })?;
            let handle = field(Virtiofsd::NAME, &reply.body, 0)?;
            subject.directories.push((*entries, Open { node, handle }));
        }
        Ok(subject)
    }

    fn call(&mut self, op: &Op<'_>) -> Result<Reply, Failure> {
        self.channel.submit(0, op)?;
        self.channel.kick()?;
        self.channel.collect(0)
    }

    /// The node of a name, and its size.
    fn lookup(&mut self, parent: u64, name: &str) -> Result<(u64, u64), Failure> {
        let reply = self.call(&Op::Lookup { parent, name })?;
        // The size is the second field of the attributes, which follow 40 bytes.
        Ok((field(Virtiofsd::NAME, &reply.body, 0)?, field(Virtiofsd::NAME, &reply.body, 48)?))
    }

    fn open_file(&mut self, name: &str, flags: u32) -> Result<Open, Failure> {
        let (node, _) = self.lookup(ROOT, name)?;
        self.open_node(node, flags)
    }

    fn open_node(&mut self, node: u64, flags: u32) -> Result<Open, Failure> {
        let reply = self.call(&Op::Open { node, flags })?;
        Ok(Open { node, handle: field(Virtiofsd::NAME, &reply.body, 0)? })
    }

    fn check_attributes(reply: &Reply) -> Result<(), Failure> {
        // 16 bytes of validity, then inode and size.
        match field(Virtiofsd::NAME, &reply.body, 24)? {
            tree::SMALL_FILE_BYTES => Ok(()),
            size => Err(wrong(format!("size {size}"))),
        }
    }

    fn check_found(&self, (node, size): (u64, u64)) -> Result<(), Failure> {
        if node == self.file && size == tree::SMALL_FILE_BYTES {
            return Ok(());
        }
        Err(wrong(format!("node {node}, size {size} where node {} is", self.file)))
    }

    fn check_read(&self, reply: &Reply, slot: usize, offset: u64, bytes: u32) -> Result<(), Failure> {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        if reply.data != length {
            return Err(wrong(format!("{} of {bytes} bytes read", reply.data)));
        }
        let buffer = self.channel.buffer(slot);
        let mut page = [0; 4096];
        if length <= page.len() {
            buffer.read(0, &mut page[..length])?;
        }
        for at in tree::checked(length) {
            let mut word = [0; 8];
            if length <= page.len() {
                word.copy_from_slice(&page[at..at + 8]);
            } else {
                buffer.read(at, &mut word)?;
            }
            let (found, due) = (u64::from_le_bytes(word), tree::word(offset + at as u64));
            if found != due {
                return Err(wrong(format!("{found:#x} read at {:#x} where {due:#x} is", offset + at as u64)));
            }
        }
        Ok(())
    }

    fn check_count(reply: &Reply, bytes: u32) -> Result<(), Failure> {
        match field(Virtiofsd::NAME, &reply.body, 0)? & u64::from(u32::MAX) {
            count if count == u64::from(bytes) => Ok(()),
            count => Err(wrong(format!("{count} of {bytes} bytes written"))),
        }
    }

    fn stamp(&mut self, slot: usize, offset: u64, bytes: u32) -> Result<(), Failure> {
        self.made += 1;
        for at in (0..u64::from(bytes)).step_by(4096) {
            let place = usize::try_from(at).unwrap_or(usize::MAX);
            let value = self.made ^ tree::word(offset + at);
            self.channel.buffer(slot).write(place, &value.to_le_bytes())?;
        }
        let last = u64::from(bytes - 1) / 4096 * 4096;
        self.last_written = Some((offset + last, self.made ^ tree::word(offset + last)));
        Ok(())
    }

    fn once(&mut self, work: Work, times: &mut Times) -> Result<(), Failure> {
        match work {
            Work::Getattr => {
                let start = Instant::now();
                let reply = self.call(&Op::Getattr { node: self.file })?;
                times.ended(start);
                Self::check_attributes(&reply)
            }
            // A Linux client knows the first folder; a lookup brings the attributes along.
            Work::Walk => {
                let start = Instant::now();
                let parent = self.lookup(self.first, tree::WAY[1])?.0;
                let found = self.lookup(parent, tree::WAY[2])?;
                self.call(&Op::Forget { nodes: &[parent, found.0] })?;
                times.ended(start);
                self.check_found(found)
            }
            Work::OpenRead => {
                let start = Instant::now();
                let found = self.lookup(self.parent, tree::WAY[2])?;
                let Open { node, handle } = self.open_node(found.0, O_RDONLY)?;
                let reply = self.call(&Op::Read { node, handle, offset: 0, bytes: SMALL })?;
                self.call(&Op::Release { node, handle })?;
                self.call(&Op::Forget { nodes: &[node] })?;
                times.ended(start);
                self.check_found(found)?;
                self.check_read(&reply, 0, 0, SMALL)
            }
            Work::Create => {
                self.made += 1;
                let name = format!("new-{}", self.made);
                let (parent, name) = (self.new, name.as_str());
                let start = Instant::now();
                let reply = self.call(&Op::Create { parent, name, flags: O_RDWR | O_EXCL })?;
                let node = field(Virtiofsd::NAME, &reply.body, 0)?;
                let handle = field(Virtiofsd::NAME, &reply.body, ENTRY)?;
                let reply = self.call(&Op::Write { node, handle, offset: 0, bytes: SMALL })?;
                Self::check_count(&reply, SMALL)?;
                self.call(&Op::Release { node, handle })?;
                self.call(&Op::Unlink { parent, name })?;
                self.call(&Op::Forget { nodes: &[node] })?;
                times.ended(start);
                Ok(())
            }
            Work::Readdir(entries) => self.readdir(entries, times),
            Work::Fsync => {
                let Open { node, handle } = self.target;
                let start = Instant::now();
                self.call(&Op::Fsync { node, handle })?;
                times.ended(start);
                Ok(())
            }
            Work::Read(bytes) => {
                let Open { node, handle } = self.data;
                let offset = self.places.next(bytes, tree::FILE_BYTES);
                let start = Instant::now();
                let reply = self.call(&Op::Read { node, handle, offset, bytes })?;
                times.ended(start);
                self.check_read(&reply, 0, offset, bytes)
            }
            Work::Write(bytes) => {
                let Open { node, handle } = self.target;
                let offset = self.places.next(bytes, tree::FILE_BYTES);
                self.stamp(0, offset, bytes)?;
                let start = Instant::now();
                let reply = self.call(&Op::Write { node, handle, offset, bytes })?;
                times.ended(start);
                Self::check_count(&reply, bytes)
            }
        }
    }

    fn readdir(&mut self, entries: u32, times: &mut Times) -> Result<(), Failure> {
        let open = self.directories.iter().find(|(known, _)| *known == entries).map(|(_, open)| *open);
        let Open { node, handle } = open.ok_or_else(|| wrong("a directory that is not there".to_owned()))?;
        let mut seen = vec![false; usize::try_from(entries).unwrap_or(0)];
        let (mut offset, mut dots) = (0, 0);
        let start = Instant::now();
        loop {
            let reply = self.call(&Op::Readdir { node, handle, offset, bytes: READDIR_BYTES })?;
            if reply.data == 0 {
                break;
            }
            let mut names = vec![0; reply.data];
            self.channel.buffer(0).read(0, &mut names)?;
            let mut rest = names.as_slice();
            while !rest.is_empty() {
                offset = field(Virtiofsd::NAME, rest, 8)?;
                let length = usize::try_from(field(Virtiofsd::NAME, rest, 16)? & u64::from(u32::MAX)).unwrap_or(0);
                let name = rest.get(24..24 + length).ok_or_else(|| wrong("a name is cut off".to_owned()))?;
                let place = tree::entry_index(name).and_then(|index| usize::try_from(index).ok());
                match place.and_then(|index| seen.get_mut(index)) {
                    Some(seen) if !*seen => *seen = true,
                    _ if name == b"." || name == b".." => dots += 1,
                    _ => return Err(wrong(format!("the name {:?}", String::from_utf8_lossy(name)))),
                }
                rest = rest.get((24 + length).next_multiple_of(8)..).unwrap_or_default();
            }
        }
        times.ended(start);
        if dots <= 2 && !seen.contains(&false) { Ok(()) } else { Err(wrong("names are missing".to_owned())) }
    }

    fn many(&mut self, work: Work, depth: usize, operations: u64, times: &mut Times) -> Result<(), Failure> {
        let start = Instant::now();
        let mut free: Vec<usize> = (0..depth).rev().collect();
        let mut out: VecDeque<(usize, u64)> = VecDeque::new();
        let mut left = operations;
        while left > 0 || !out.is_empty() {
            while let (true, Some(slot)) = (left > 0, free.last().copied()) {
                free.pop();
                left -= 1;
                let offset = self.begin(work, slot, &out)?;
                out.push_back((slot, offset));
            }
            self.channel.kick()?;
            while let Some((slot, offset)) = out.pop_front() {
                let reply = self.channel.collect(slot)?;
                match work {
                    Work::Read(bytes) => self.check_read(&reply, slot, offset, bytes)?,
                    Work::Write(bytes) => Self::check_count(&reply, bytes)?,
                    _ => Self::check_attributes(&reply)?,
                }
                free.push(slot);
                match out.front() {
                    Some((next, _)) if self.channel.is_done(*next)? => {}
                    _ => break,
                }
            }
        }
        times.wall += start.elapsed();
        Ok(())
    }

    /// Submits one message; `out` are the others, whose places no write shares: the last one to a place can be checked then.
    fn begin(&mut self, work: Work, slot: usize, out: &VecDeque<(usize, u64)>) -> Result<u64, Failure> {
        let (Work::Read(bytes) | Work::Write(bytes)) = work else {
            self.channel.submit(slot, &Op::Getattr { node: self.file })?;
            return Ok(0);
        };
        let offset = self.places.next_but(bytes, tree::FILE_BYTES, out.iter().map(|(_, offset)| *offset));
        let op = if matches!(work, Work::Read(_)) {
            Op::Read { node: self.data.node, handle: self.data.handle, offset, bytes }
        } else {
            self.stamp(slot, offset, bytes)?;
            Op::Write { node: self.target.node, handle: self.target.handle, offset, bytes }
        };
        self.channel.submit(slot, &op)?;
        Ok(offset)
    }
}

fn wrong(what: String) -> Failure {
    Failure::wrong(Virtiofsd::NAME, what)
}

impl Subject for FuseSubject {
    fn name(&self) -> &'static str {
        Virtiofsd::NAME
    }

    fn can(&self, work: Work, depth: u16) -> bool {
        let depth = usize::from(depth);
        match work {
            Work::Read(bytes) | Work::Write(bytes) => {
                depth <= SLOTS && usize::try_from(bytes).is_ok_and(|bytes| bytes <= ROOM)
            }
            Work::Getattr => depth <= SLOTS,
            Work::Readdir(entries) => depth == 1 && self.directories.iter().any(|(known, _)| *known == entries),
            _ => depth == 1,
        }
    }

    fn run(&mut self, work: Work, depth: u16, operations: u64, times: &mut Times) -> Result<(), Failure> {
        self.last_written = None;
        if depth == 1 {
            (0..operations).try_for_each(|_| self.once(work, times))?;
        } else {
            self.many(work, usize::from(depth), operations, times)?;
        }
        match self.last_written {
            Some((offset, value)) => self.tree.check_written(Virtiofsd::NAME, offset, value),
            None => Ok(()),
        }
    }

    fn cpu(&self) -> Result<Duration, Failure> {
        self.channel.cpu()
    }
}
