//! The work, in 9P messages.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use calgary_tests::guest::ninep::{Decoder, LINUX_MAX_MSIZE, Malformed, Qid, Reply};

use super::super::subject::{Places, ROOM, SLOTS, Subject, Times};
use super::super::tree::{self, Tree};
use super::super::work::{SMALL, Work};
use super::channel::Channel;
use super::message::{BASIC_ATTRIBUTES, Op};
use crate::failure::Failure;

/// Fids.
const ROOT: u32 = 0;
const DATA: u32 = 1;
const TARGET: u32 = 2;
const PARENT: u32 = 3;
const NEW: u32 = 4;
const FILE: u32 = 5;
const FIRST_DIRECTORY: u32 = 10;
const TEMPORARY: u32 = 100;

/// `open` flags as 9P2000.L numbers them.
const O_RDONLY: u32 = 0;
const O_RDWR: u32 = 2;
const O_CREAT: u32 = 0o100;
const O_EXCL: u32 = 0o200;
const O_DIRECTORY: u32 = 0o200_000;

/// Bytes of a reply or request besides its data, as clients reckon.
const IO_HEADER: u32 = 24;
/// Bytes of names asked for at once: less than the smallest server's largest message.
const READDIR_BYTES: u32 = 60 << 10;

/// What a listing says of a file.
struct Entry<'a> {
    offset: u64,
    name: &'a [u8],
}

/// The entries of a listing, up to the first that is malformed.
struct Entries<'a>(Decoder<'a>);

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let decoder = &mut self.0;
        let mut entry = || {
            decoder.qid()?;
            let offset = decoder.u64()?;
            decoder.u8()?;
            let length = decoder.u16()?;
            Ok(Entry { offset, name: decoder.bytes(usize::from(length))? })
        };
        Some(entry())
    }
}

/// A 9P server with a session.
pub(crate) struct NinepSubject<C> {
    channel: C,
    tree: Tree,
    msize: u32,
    file: Qid,
    directories: Vec<u32>,
    places: Places,
    made: u64,
    last_written: Option<(u64, u64)>,
}

impl<C: Channel> NinepSubject<C> {
    /// Opens a session and the files of `tree`, whose directories have so many entries.
    pub(crate) fn open(channel: C, tree: &Tree, directories: &[u32]) -> Result<Self, Failure> {
        let mut subject = Self {
            channel,
            tree: tree.clone(),
            msize: 0,
            file: Qid::default(),
            directories: directories.to_vec(),
            places: Places::new(),
            made: 0,
            last_written: None,
        };
        let version = subject.call(&Op::Version { msize: LINUX_MAX_MSIZE })?;
        let (msize, name) = subject.decode(&version, |d| Ok((d.u32()?, d.string()?)))?;
        if name != b"9P2000.L" || !(8192..=LINUX_MAX_MSIZE).contains(&msize) {
            return Err(subject.wrong(format!("msize {msize}, version {:?}", String::from_utf8_lossy(&name))));
        }
        subject.msize = msize;
        let uid = rustix::process::geteuid().as_raw();
        let root = subject.channel.tree();
        subject.call(&Op::Attach { fid: ROOT, tree: &root, uid })?;
        subject.find(DATA, &[tree::DATA], Some(O_RDONLY))?;
        subject.find(TARGET, &[tree::TARGET], Some(O_RDWR))?;
        subject.find(PARENT, &tree::WAY[..2], None)?;
        subject.file = subject.find(FILE, &tree::WAY, None)?;
        subject.find(NEW, &[tree::NEW], None)?;
        for (fid, entries) in (FIRST_DIRECTORY..).zip(directories) {
            subject.find(fid, &[&tree::directory(*entries)], Some(O_DIRECTORY))?;
        }
        Ok(subject)
    }

    fn wrong(&self, what: impl Into<String>) -> Failure {
        Failure::wrong(self.channel.name(), what)
    }

    fn call(&mut self, op: &Op<'_>) -> Result<Reply, Failure> {
        self.channel.submit(0, op)?;
        self.channel.kick()?;
        self.channel.collect(0)
    }

    /// Reads the fields of a reply and insists that nothing is left.
    fn decode<'a, T>(
        &self,
        reply: &'a Reply,
        fields: impl FnOnce(&mut Decoder<'a>) -> Result<T, Malformed>,
    ) -> Result<T, Failure> {
        let mut decoder = Decoder::new(&reply.body);
        let value = fields(&mut decoder).and_then(|value| decoder.finish().map(|()| value));
        value.map_err(|cause| self.wrong(format!("a reply of type {}: {cause}", reply.kind)))
    }

    fn nothing(&self, reply: &Reply) -> Result<(), Failure> {
        self.decode(reply, |_| Ok(()))
    }

    /// Walks from `fid`; the last qid.
    fn walk(&mut self, fid: u32, new_fid: u32, names: &[&[u8]]) -> Result<Qid, Failure> {
        let reply = self.call(&Op::Walk { fid, new_fid, names })?;
        let qids: Vec<Qid> = self.decode(&reply, |d| (0..d.u16()?).map(|_| d.qid()).collect())?;
        if qids.len() == names.len() {
            Ok(qids.last().copied().unwrap_or_default())
        } else {
            Err(self.wrong(format!("{} qids for {} names", qids.len(), names.len())))
        }
    }

    fn open_fid(&mut self, fid: u32, flags: u32) -> Result<Qid, Failure> {
        let reply = self.call(&Op::Open { fid, flags })?;
        self.decode(&reply, |d| Ok((d.qid()?, d.u32()?))).map(|(qid, _)| qid)
    }

    fn find(&mut self, fid: u32, names: &[&str], flags: Option<u32>) -> Result<Qid, Failure> {
        let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let qid = self.walk(ROOT, fid, &names)?;
        if let Some(flags) = flags
            && self.open_fid(fid, flags)?.path != qid.path
        {
            return Err(self.wrong("another file was opened than was found"));
        }
        Ok(qid)
    }

    fn clunk(&mut self, fid: u32) -> Result<(), Failure> {
        let reply = self.call(&Op::Clunk { fid })?;
        self.nothing(&reply)
    }

    /// Checks that the attributes are those of the small file.
    fn check_attributes(&self, reply: &Reply) -> Result<(), Failure> {
        let (valid, qid, size) = self.decode(reply, |d| {
            let (valid, qid) = (d.u64()?, d.qid()?);
            // Mode, uid, gid; then nlink and rdev come before the size.
            d.bytes(12)?;
            d.bytes(16)?;
            let size = d.u64()?;
            d.bytes(153 - 8 - 13 - 12 - 16 - 8)?;
            Ok((valid, qid, size))
        })?;
        let good = valid & BASIC_ATTRIBUTES == BASIC_ATTRIBUTES
            && qid.path == self.file.path
            && size == tree::SMALL_FILE_BYTES;
        if good { Ok(()) } else { Err(self.wrong(format!("attributes {valid:#x}, {qid:?}, size {size}"))) }
    }

    /// Checks count and content of what `slot` read from `offset` on.
    fn check_read(&self, reply: &Reply, slot: usize, offset: u64, bytes: u32) -> Result<(), Failure> {
        let count = self.decode(reply, Decoder::u32)?;
        if count != bytes || reply.payload_bytes != bytes {
            return Err(self.wrong(format!("{count} of {bytes} bytes read, {} came", reply.payload_bytes)));
        }
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut page = [0; 4096];
        if length <= page.len() {
            self.channel.read(slot, 0, &mut page[..length])?;
        }
        for at in tree::checked(length) {
            let mut word = [0; 8];
            if length <= page.len() {
                word.copy_from_slice(&page[at..at + 8]);
            } else {
                self.channel.read(slot, at, &mut word)?;
            }
            let (found, due) = (u64::from_le_bytes(word), tree::word(offset + at as u64));
            if found != due {
                return Err(self.wrong(format!("{found:#x} read at {:#x} where {due:#x} is", offset + at as u64)));
            }
        }
        Ok(())
    }

    fn check_count(&self, reply: &Reply, bytes: u32) -> Result<(), Failure> {
        let count = self.decode(reply, Decoder::u32)?;
        if count == bytes { Ok(()) } else { Err(self.wrong(format!("{count} of {bytes} bytes written"))) }
    }

    /// Makes the first word of each page that is to be written one that was never written before.
    fn stamp(&mut self, slot: usize, offset: u64, bytes: u32) -> Result<(), Failure> {
        self.made += 1;
        for at in (0..u64::from(bytes)).step_by(4096) {
            let place = usize::try_from(at).unwrap_or(usize::MAX);
            self.channel.fill(slot, place, &(self.made ^ tree::word(offset + at)).to_le_bytes())?;
        }
        let last = u64::from(bytes - 1) / 4096 * 4096;
        self.last_written = Some((offset + last, self.made ^ tree::word(offset + last)));
        Ok(())
    }

    /// One operation of several messages, or of one, with nothing else out.
    fn once(&mut self, work: Work, times: &mut Times) -> Result<(), Failure> {
        match work {
            Work::Getattr => {
                let start = Instant::now();
                let reply = self.call(&Op::Getattr { fid: FILE })?;
                times.ended(start);
                self.check_attributes(&reply)
            }
            Work::Walk => {
                let names = tree::WAY.map(str::as_bytes);
                let start = Instant::now();
                let qid = self.walk(ROOT, TEMPORARY, &names)?;
                let reply = self.call(&Op::Getattr { fid: TEMPORARY })?;
                self.clunk(TEMPORARY)?;
                times.ended(start);
                self.check_same(qid)?;
                self.check_attributes(&reply)
            }
            Work::OpenRead => {
                let name = tree::WAY[2].as_bytes();
                let start = Instant::now();
                let qid = self.walk(PARENT, TEMPORARY, &[name])?;
                self.open_fid(TEMPORARY, O_RDONLY)?;
                let reply = self.call(&Op::Read { fid: TEMPORARY, offset: 0, bytes: SMALL })?;
                self.clunk(TEMPORARY)?;
                times.ended(start);
                self.check_same(qid)?;
                self.check_read(&reply, 0, 0, SMALL)
            }
            Work::Create => {
                self.made += 1;
                let name = format!("new-{}", self.made);
                let start = Instant::now();
                self.walk(NEW, TEMPORARY, &[])?;
                let flags = O_RDWR | O_CREAT | O_EXCL;
                let reply = self.call(&Op::Create { fid: TEMPORARY, name: name.as_bytes(), flags })?;
                self.decode(&reply, |d| Ok((d.qid()?, d.u32()?)))?;
                let reply = self.call(&Op::Write { fid: TEMPORARY, offset: 0, bytes: SMALL })?;
                self.check_count(&reply, SMALL)?;
                if self.channel.removes_by_name() {
                    let reply = self.call(&Op::Unlink { directory: NEW, name: name.as_bytes() })?;
                    self.nothing(&reply)?;
                    self.clunk(TEMPORARY)?;
                } else {
                    let reply = self.call(&Op::Remove { fid: TEMPORARY })?;
                    self.nothing(&reply)?;
                }
                times.ended(start);
                Ok(())
            }
            Work::Readdir(entries) => self.readdir(entries, times),
            Work::Fsync => {
                let start = Instant::now();
                let reply = self.call(&Op::Fsync { fid: TARGET })?;
                times.ended(start);
                self.nothing(&reply)
            }
            Work::Read(bytes) => {
                let offset = self.places.next(bytes, tree::FILE_BYTES);
                let start = Instant::now();
                let reply = self.call(&Op::Read { fid: DATA, offset, bytes })?;
                times.ended(start);
                self.check_read(&reply, 0, offset, bytes)
            }
            Work::Write(bytes) => {
                let offset = self.places.next(bytes, tree::FILE_BYTES);
                self.stamp(0, offset, bytes)?;
                let start = Instant::now();
                let reply = self.call(&Op::Write { fid: TARGET, offset, bytes })?;
                times.ended(start);
                self.check_count(&reply, bytes)
            }
        }
    }

    fn check_same(&self, qid: Qid) -> Result<(), Failure> {
        if qid.path == self.file.path { Ok(()) } else { Err(self.wrong(format!("{qid:?} where {:?} is", self.file))) }
    }

    fn readdir(&mut self, entries: u32, times: &mut Times) -> Result<(), Failure> {
        let place = self.directories.iter().position(|known| *known == entries);
        let place = place.ok_or_else(|| self.wrong("a directory that is not there"))?;
        let fid = FIRST_DIRECTORY + u32::try_from(place).unwrap_or(0);
        let bytes = READDIR_BYTES.min(self.msize - IO_HEADER);
        let mut lists = Vec::new();
        let mut offset = 0;
        let start = Instant::now();
        loop {
            let reply = self.call(&Op::Readdir { fid, offset, bytes })?;
            let count = self.decode(&reply, Decoder::u32)?;
            if count != reply.payload_bytes {
                return Err(self.wrong(format!("count {count} with {} bytes of names", reply.payload_bytes)));
            }
            if count == 0 {
                break;
            }
            let mut list = vec![0; usize::try_from(count).unwrap_or(0)];
            self.channel.read(0, 0, &mut list)?;
            for entry in Entries(Decoder::new(&list)) {
                offset = entry.map_err(|cause| self.wrong(format!("a directory entry: {cause}")))?.offset;
            }
            lists.push(list);
        }
        times.ended(start);
        self.check_names(entries, &lists)
    }

    /// Checks that the lists hold each of so many entries once, and nothing else but the two dots.
    fn check_names(&self, entries: u32, lists: &[Vec<u8>]) -> Result<(), Failure> {
        let mut seen = vec![false; usize::try_from(entries).unwrap_or(0)];
        let mut dots = 0;
        for entry in lists.iter().flat_map(|list| Entries(Decoder::new(list))).flatten() {
            let place = tree::entry_index(entry.name).and_then(|index| usize::try_from(index).ok());
            match place.and_then(|index| seen.get_mut(index)) {
                Some(seen) if !*seen => *seen = true,
                _ if entry.name == b"." || entry.name == b".." => dots += 1,
                _ => return Err(self.wrong(format!("the name {:?}", String::from_utf8_lossy(entry.name)))),
            }
        }
        if dots <= 2 && !seen.contains(&false) { Ok(()) } else { Err(self.wrong("names are missing")) }
    }

    /// Single messages, `depth` out at a time.
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
            // The oldest first, and with it all that are done: the next kick then stands for several requests.
            while let Some((slot, offset)) = out.pop_front() {
                let reply = self.channel.collect(slot)?;
                match work {
                    Work::Read(bytes) => self.check_read(&reply, slot, offset, bytes)?,
                    Work::Write(bytes) => self.check_count(&reply, bytes)?,
                    _ => self.check_attributes(&reply)?,
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
        let op = match work {
            Work::Read(bytes) => {
                let offset = self.places.next(bytes, tree::FILE_BYTES);
                Op::Read { fid: DATA, offset, bytes }
            }
            Work::Write(bytes) => {
                let places = out.iter().map(|(_, offset)| *offset);
                let offset = self.places.next_but(bytes, tree::FILE_BYTES, places);
                self.stamp(slot, offset, bytes)?;
                Op::Write { fid: TARGET, offset, bytes }
            }
            _ => Op::Getattr { fid: FILE },
        };
        self.channel.submit(slot, &op)?;
        Ok(match op {
            Op::Read { offset, .. } | Op::Write { offset, .. } => offset,
            _ => 0,
        })
    }
}

impl<C: Channel> Subject for NinepSubject<C> {
    fn name(&self) -> &'static str {
        self.channel.name()
    }

    fn is_process(&self) -> bool {
        self.channel.is_process()
    }

    fn can(&self, work: Work, depth: u16) -> bool {
        let depth = usize::from(depth);
        if depth > 1 && !self.channel.is_process() {
            return false;
        }
        match work {
            Work::Read(bytes) | Work::Write(bytes) => {
                let fits = usize::try_from(bytes).is_ok_and(|bytes| bytes <= ROOM);
                bytes <= self.msize - IO_HEADER && fits && depth <= SLOTS
            }
            Work::Getattr => depth <= SLOTS,
            Work::Readdir(entries) => depth == 1 && self.directories.contains(&entries),
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
            Some((offset, value)) => self.tree.check_written(self.channel.name(), offset, value),
            None => Ok(()),
        }
    }

    fn cpu(&self) -> Result<Duration, Failure> {
        self.channel.cpu()
    }
}
