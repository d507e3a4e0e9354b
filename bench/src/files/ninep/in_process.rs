//! Server cores called as functions: no transport, no second processor.
//!
//! Their processor time is the time inside the call. File data in requests and in the replies of this project's core begins on
//! a page, where a Linux guest puts it; the crate `p9` writes its replies into a `Vec`, by copies of its own.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use calgary_tests::guest::ninep::Reply;
use virtio_9p::{Options, Outcome, Passthrough, PassthroughOptions, Readable, Segment, Server, Writable};

use super::super::subject::{ROOM, SLOTS};
use super::channel::{Channel, parse};
use super::message::Op;
use crate::failure::Failure;

/// Bytes of a reply besides its data.
const REPLY_HEAD: usize = 4096;

/// Bytes of a write request before its data, and of a read's reply.
const WRITE_HEAD: usize = 23;
const READ_HEAD: usize = 11;

/// Where in `buffer` a message starts whose data, behind `head` bytes, begins on a page.
fn start_of<T>(buffer: &[T], head: usize) -> usize {
    const PAGE: usize = 4096;
    (PAGE - (buffer.as_ptr().addr() + head) % PAGE) % PAGE
}

/// What both have: messages, replies, a stopwatch.
#[derive(Debug)]
struct Slots {
    name: &'static str,
    /// The request begins at `request_start`.
    request: Vec<u8>,
    request_start: usize,
    data: Vec<Vec<u8>>,
    replies: Vec<Option<Reply>>,
    busy: Duration,
}

impl Slots {
    fn new(name: &'static str) -> Self {
        let mut request = Vec::with_capacity(ROOM + 2 * REPLY_HEAD);
        let request_start = start_of(request.spare_capacity_mut(), WRITE_HEAD);
        request.resize(request_start, 0);
        Self {
            name,
            request,
            request_start,
            data: vec![vec![0; ROOM]; SLOTS],
            replies: vec![None; SLOTS],
            busy: Duration::ZERO,
        }
    }

    fn encode(&mut self, slot: usize, op: &Op<'_>) {
        self.request.truncate(self.request_start);
        op.encode(op.tag(slot), &self.data[slot][..op.sent()], &mut self.request);
    }

    fn answer(&mut self, slot: usize, op: &Op<'_>, reply: &[u8]) -> Result<(), Failure> {
        let reply = parse(self.name, reply, op.kind(), op.tag(slot), &mut self.data[slot])?;
        self.replies[slot] = Some(reply);
        Ok(())
    }
}

/// A core that answers one request at a time.
pub(crate) trait Core {
    /// Answers `request` into `reply`; returns where in it the reply is.
    fn handle(&mut self, request: &mut [u8], reply: &mut Vec<u8>) -> Result<Range<usize>, Failure>;
}

/// A channel to a core.
#[derive(Debug)]
pub(crate) struct InProcess<C> {
    core: C,
    slots: Slots,
    reply: Vec<u8>,
}

/// This project's server core.
pub(crate) type CoreChannel = InProcess<OwnCore>;
/// crosvm's server, the crate `p9`.
pub(crate) type P9Channel = InProcess<P9Core>;

impl<C: Core> Channel for InProcess<C> {
    fn name(&self) -> &'static str {
        self.slots.name
    }

    fn removes_by_name(&self) -> bool {
        true
    }

    fn is_process(&self) -> bool {
        false
    }

    fn submit(&mut self, slot: usize, op: &Op<'_>) -> Result<(), Failure> {
        self.slots.encode(slot, op);
        let start = Instant::now();
        let request = &mut self.slots.request[self.slots.request_start..];
        let place = self.core.handle(request, &mut self.reply)?;
        self.slots.busy += start.elapsed();
        self.slots.answer(slot, op, &self.reply[place])
    }

    fn kick(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn is_done(&mut self, slot: usize) -> Result<bool, Failure> {
        Ok(self.slots.replies[slot].is_some())
    }

    fn collect(&mut self, slot: usize) -> Result<Reply, Failure> {
        let name = self.slots.name;
        self.slots.replies[slot].take().ok_or_else(|| Failure::wrong(name, "no request is out"))
    }

    fn fill(&mut self, slot: usize, at: usize, bytes: &[u8]) -> Result<(), Failure> {
        self.slots.data[slot][at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, slot: usize, at: usize, bytes: &mut [u8]) -> Result<(), Failure> {
        bytes.copy_from_slice(&self.slots.data[slot][at..at + bytes.len()]);
        Ok(())
    }

    fn cpu(&self) -> Result<Duration, Failure> {
        Ok(self.slots.busy)
    }
}

/// [`virtio_9p::Server`].
pub(crate) struct OwnCore {
    server: Server<Passthrough>,
    /// Where in the buffer replies begin.
    reply_start: usize,
}

impl CoreChannel {
    /// Name in reports.
    pub(crate) const NAME: &'static str = "our core";

    /// A server of `folder`.
    pub(crate) fn own(folder: &Path) -> Result<Self, Failure> {
        let files = Passthrough::new(folder, PassthroughOptions::default())
            .map_err(|cause| Failure::wrong(Self::NAME, cause.to_string()))?;
        let reply = vec![0; ROOM + 2 * REPLY_HEAD];
        let core = OwnCore { server: Server::new(files, Options::default()), reply_start: start_of(&reply, READ_HEAD) };
        Ok(Self { core, slots: Slots::new(Self::NAME), reply })
    }
}

impl Core for OwnCore {
    fn handle(&mut self, request: &mut [u8], reply: &mut Vec<u8>) -> Result<Range<usize>, Failure> {
        let reply = &mut reply[self.reply_start..];
        // SAFETY: both buffers outlive the segments, are borrowed exclusively, and are not touched while they are used.
        let (from, to) = unsafe {
            let from = Segment::new(request.as_mut_ptr(), request.len());
            ([from], [Segment::new(reply.as_mut_ptr(), reply.len())])
        };
        match self.server.handle(&Readable::new(&from), &Writable::new(&to)) {
            Outcome::Reply(length) => Ok(self.reply_start..self.reply_start + length),
            Outcome::Dropped => Err(Failure::wrong(CoreChannel::NAME, "a request was dropped")),
        }
    }
}

/// [`p9::Server`].
pub(crate) struct P9Core(p9::Server);

impl P9Channel {
    /// Name in reports.
    pub(crate) const NAME: &'static str = "crate p9";

    /// A server of `folder`.
    pub(crate) fn p9(folder: &Path) -> Result<Self, Failure> {
        let server = p9::Server::new(folder, Default::default(), Default::default())
            .map_err(|cause| Failure::system("start the server of the crate p9", cause))?;
        Ok(Self { core: P9Core(server), slots: Slots::new(Self::NAME), reply: Vec::with_capacity(ROOM) })
    }
}

impl Core for P9Core {
    fn handle(&mut self, request: &mut [u8], reply: &mut Vec<u8>) -> Result<Range<usize>, Failure> {
        reply.clear();
        self.0
            .handle_message(&mut &*request, reply)
            .map_err(|cause| Failure::wrong(P9Channel::NAME, cause.to_string()))?;
        Ok(0..reply.len())
    }
}
