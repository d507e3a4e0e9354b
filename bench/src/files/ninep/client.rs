//! The work, in 9P messages.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use calgary_tests::guest::ninep::{Decoder, LINUX_MAX_MSIZE, Malformed, Qid, Reply};

use super::super::subject::{Places, ROOM, SLOTS, Subject, Times, batches};
use super::super::tree::{self, Tree};
use super::super::work::{SMALL, Work};
use super::channel::Channel;
use super::message::{BASIC_ATTRIBUTES, Op};
use super::operation::{
    DATA, FILE, FIRST_DIRECTORY, NEW, O_DIRECTORY, O_RDONLY, O_RDWR, Operation, PARENT, ROOT, TARGET,
};
use crate::failure::Failure;

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

    /// The last qid of a walk of so many names, if there are any.
    fn qids(&self, reply: &Reply, names: usize) -> Result<Qid, Failure> {
        let qids: Vec<Qid> = self.decode(reply, |d| (0..d.u16()?).map(|_| d.qid()).collect())?;
        if qids.len() == names {
            Ok(qids.last().copied().unwrap_or_default())
        } else {
            Err(self.wrong(format!("{} qids for {names} names", qids.len())))
        }
    }

    /// The qid of a file that was opened or created.
    fn opened(&self, reply: &Reply) -> Result<Qid, Failure> {
        self.decode(reply, |d| Ok((d.qid()?, d.u32()?))).map(|(qid, _)| qid)
    }

    fn find(&mut self, fid: u32, names: &[&str], flags: Option<u32>) -> Result<Qid, Failure> {
        let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let walk = self.call(&Op::Walk { fid: ROOT, new_fid: fid, names: &names })?;
        let qid = self.qids(&walk, names.len())?;
        if let Some(flags) = flags {
            let open = self.call(&Op::Open { fid, flags })?;
            if self.opened(&open)?.path != qid.path {
                return Err(self.wrong("another file was opened than was found"));
            }
        }
        Ok(qid)
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
        if let Some(page) = page.get_mut(..length) {
            self.channel.read(slot, 0, page)?;
            if tree::holds(offset, page) {
                return Ok(());
            }
        }
        for at in tree::checked(length) {
            let mut word = [0; 8];
            self.channel.read(slot, at, &mut word)?;
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

    /// The next operation, whose messages begin with the one in `slot`.
    fn next(&mut self, work: Work, slot: usize) -> Result<Operation, Failure> {
        let mut operation = Operation { work, offset: 0, name: String::new() };
        match work {
            Work::Create => {
                self.made += 1;
                operation.name = format!("new-{}", self.made);
            }
            Work::Read(bytes) => operation.offset = self.places.next(bytes, tree::FILE_BYTES),
            Work::Write(bytes) => {
                operation.offset = self.places.next(bytes, tree::FILE_BYTES);
                self.stamp(slot, operation.offset, bytes)?;
            }
            _ => {}
        }
        Ok(operation)
    }

    /// One operation, each message sent when the one before is answered.
    fn once(&mut self, work: Work, times: &mut Times) -> Result<(), Failure> {
        let operation = self.next(work, 0)?;
        let messages = operation.messages(self.channel.removes_by_name());
        let mut replies = Vec::with_capacity(messages.len());
        let start = Instant::now();
        for (slot, message) in messages.iter().enumerate() {
            self.channel.submit(slot, message)?;
            self.channel.kick()?;
            replies.push(self.channel.collect(slot)?);
        }
        times.ended(start);
        self.check(&operation, 0, &replies)
    }

    /// Some operations of a core in this process: all messages are there before the first is answered, and all are answered
    /// before the first answer is looked at, so that no more than one look at the clock is in a figure, spread over all.
    fn together(&mut self, work: Work, count: usize) -> Result<(), Failure> {
        let by_name = self.channel.removes_by_name();
        let mut operations = Vec::with_capacity(count);
        let mut slot = 0;
        for _ in 0..count {
            let operation = self.next(work, slot)?;
            let first = slot;
            for message in operation.messages(by_name) {
                self.channel.submit(slot, &message)?;
                slot += 1;
            }
            operations.push((operation, first..slot));
        }
        self.channel.kick()?;
        for (operation, slots) in operations {
            let replies = slots.clone().map(|slot| self.channel.collect(slot)).collect::<Result<Vec<_>, _>>()?;
            self.check(&operation, slots.start, &replies)?;
        }
        Ok(())
    }

    /// Checks all replies of an operation, whose messages were those in `slot` and the following.
    fn check(&self, operation: &Operation, slot: usize, replies: &[Reply]) -> Result<(), Failure> {
        match (operation.work, replies) {
            (Work::Getattr, [attributes]) => self.check_attributes(attributes),
            (Work::Walk, [walk, attributes, clunk]) => {
                self.check_same(self.qids(walk, tree::WAY.len())?)?;
                self.check_attributes(attributes)?;
                self.nothing(clunk)
            }
            (Work::OpenRead, [walk, open, read, clunk]) => {
                self.check_same(self.qids(walk, 1)?)?;
                self.check_same(self.opened(open)?)?;
                self.check_read(read, slot + 2, 0, SMALL)?;
                self.nothing(clunk)
            }
            (Work::Create, [walk, create, write, ends @ ..]) => {
                self.qids(walk, 0)?;
                self.opened(create)?;
                self.check_count(write, SMALL)?;
                ends.iter().try_for_each(|end| self.nothing(end))
            }
            (Work::Fsync, [fsync]) => self.nothing(fsync),
            (Work::Read(bytes), [read]) => self.check_read(read, slot, operation.offset, bytes),
            (Work::Write(bytes), [write]) => self.check_count(write, bytes),
            (work, replies) => Err(self.wrong(format!("{} replies to {work}", replies.len()))),
        }
    }

    /// Operations of a core in this process, whose time is the time inside its calls.
    fn run_in_process(&mut self, work: Work, operations: u64, times: &mut Times) -> Result<(), Failure> {
        let before = self.channel.cpu()?;
        if let Work::Readdir(entries) = work {
            (0..operations).try_for_each(|_| self.readdir(entries, &mut Times::default()))?;
        } else {
            batches(work, operations).try_for_each(|count| self.together(work, count))?;
        }
        times.wall += self.channel.cpu()?.saturating_sub(before);
        Ok(())
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
        let mut requests: Vec<(usize, Op<'static>)> = Vec::new();
        while left > 0 || !out.is_empty() {
            requests.clear();
            while let (true, Some(slot)) = (left > 0, free.last().copied()) {
                free.pop();
                left -= 1;
                let (op, offset) = self.begin(work, slot, &out)?;
                requests.push((slot, op));
                out.push_back((slot, offset));
            }
            self.channel.submit_all(&requests)?;
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

    /// The next message for `slot`, and where in the file; `out` are the others, whose places no write shares: the last one to
    /// a place can be checked then.
    fn begin(&mut self, work: Work, slot: usize, out: &VecDeque<(usize, u64)>) -> Result<(Op<'static>, u64), Failure> {
        Ok(match work {
            Work::Read(bytes) => {
                let offset = self.places.next(bytes, tree::FILE_BYTES);
                (Op::Read { fid: DATA, offset, bytes }, offset)
            }
            Work::Write(bytes) => {
                let places = out.iter().map(|(_, offset)| *offset);
                let offset = self.places.next_but(bytes, tree::FILE_BYTES, places);
                self.stamp(slot, offset, bytes)?;
                (Op::Write { fid: TARGET, offset, bytes }, offset)
            }
            _ => (Op::Getattr { fid: FILE }, 0),
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
        if !self.channel.is_process() {
            self.run_in_process(work, operations, times)?;
        } else if depth > 1 {
            self.many(work, usize::from(depth), operations, times)?;
        } else if let Work::Readdir(entries) = work {
            (0..operations).try_for_each(|_| self.readdir(entries, times))?;
        } else {
            (0..operations).try_for_each(|_| self.once(work, times))?;
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
