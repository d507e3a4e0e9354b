//! Server cores called as functions: no transport, no second processor.
//!
//! Their processor time is the time inside the call. Requests are put together before the clock runs and replies are taken
//! apart after it; both cores get the same bytes in the same buffers, where file data begins on a page, as a Linux guest's
//! does.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use calgary_tests::guest::ninep::Reply;
use virtio_9p::{Options, Outcome, Passthrough, PassthroughOptions, Readable, Segment, Server, Writable};

use super::super::room::Room;
use super::channel::{Channel, parse};
use super::message::Op;
use crate::failure::Failure;

/// Bytes of a reply besides its data.
const REPLY_HEAD: usize = 4096;

/// Bytes of a write request before its data, and of a read's reply.
const WRITE_HEAD: usize = 23;
const READ_HEAD: usize = 11;

/// One request, its reply, and the file data of both.
#[derive(Debug, Default)]
struct Slot {
    kind: u8,
    tag: u16,
    request: Room,
    request_length: usize,
    reply: Room,
    /// Length of the reply, once it is there.
    answered: Option<usize>,
    data: Vec<u8>,
}

impl Slot {
    /// At least so many bytes of file data.
    fn data(&mut self, length: usize) -> &mut [u8] {
        if self.data.len() < length {
            self.data.resize(length, 0);
        }
        &mut self.data
    }
}

/// A core that answers one request at a time.
pub(crate) trait Core {
    /// Its name in reports.
    const NAME: &'static str;

    /// Answers `request` at the start of `reply`; returns the length of the reply.
    fn handle(&mut self, request: &mut [u8], reply: &mut [u8]) -> Result<usize, Failure>;
}

/// A channel to a core.
#[derive(Debug)]
pub(crate) struct InProcess<C> {
    core: C,
    slots: Vec<Slot>,
    /// What was submitted and not shown to the core yet.
    waiting: Range<usize>,
    encoded: Vec<u8>,
    busy: Duration,
}

/// This project's server core.
pub(crate) type CoreChannel = InProcess<OwnCore>;
/// crosvm's server, the crate `p9`.
pub(crate) type P9Channel = InProcess<P9Core>;

impl<C: Core> InProcess<C> {
    fn of(core: C) -> Self {
        Self { core, slots: Vec::new(), waiting: 0..0, encoded: Vec::new(), busy: Duration::ZERO }
    }

    fn slot(&mut self, slot: usize) -> &mut Slot {
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, Slot::default);
        }
        &mut self.slots[slot]
    }
}

impl<C: Core> Channel for InProcess<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn removes_by_name(&self) -> bool {
        true
    }

    fn is_process(&self) -> bool {
        false
    }

    /// Slots come in order until they are shown to the core.
    fn submit(&mut self, slot: usize, op: &Op<'_>) -> Result<(), Failure> {
        let mut encoded = std::mem::take(&mut self.encoded);
        encoded.clear();
        let to = self.slot(slot);
        op.encode(op.tag(slot), &to.data(op.sent())[..op.sent()], &mut encoded);
        to.request.make(WRITE_HEAD, encoded.len());
        to.request.bytes()[..encoded.len()].copy_from_slice(&encoded);
        to.reply.make(READ_HEAD, op.received() + REPLY_HEAD);
        (to.kind, to.tag, to.request_length, to.answered) = (op.kind(), op.tag(slot), encoded.len(), None);
        self.encoded = encoded;
        self.waiting = if self.waiting.is_empty() { slot..slot + 1 } else { self.waiting.start..slot + 1 };
        Ok(())
    }

    /// Has all that was submitted answered, by one look at the clock before and one after.
    fn kick(&mut self) -> Result<(), Failure> {
        let waiting = std::mem::take(&mut self.waiting);
        let start = Instant::now();
        for slot in &mut self.slots[waiting] {
            let request = &mut slot.request.bytes()[..slot.request_length];
            slot.answered = Some(self.core.handle(request, slot.reply.bytes())?);
        }
        self.busy += start.elapsed();
        Ok(())
    }

    fn is_done(&mut self, slot: usize) -> Result<bool, Failure> {
        Ok(self.slot(slot).answered.is_some())
    }

    fn collect(&mut self, slot: usize) -> Result<Reply, Failure> {
        let from = self.slot(slot);
        let length = from.answered.take().ok_or_else(|| Failure::wrong(C::NAME, "no request is out"))?;
        let reply = &from.reply.bytes()[..length];
        if from.data.len() < length {
            from.data.resize(length, 0);
        }
        parse(C::NAME, reply, from.kind, from.tag, &mut from.data)
    }

    fn fill(&mut self, slot: usize, at: usize, bytes: &[u8]) -> Result<(), Failure> {
        let end = at + bytes.len();
        self.slot(slot).data(end)[at..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, slot: usize, at: usize, bytes: &mut [u8]) -> Result<(), Failure> {
        bytes.copy_from_slice(&self.slots[slot].data[at..at + bytes.len()]);
        Ok(())
    }

    fn cpu(&self) -> Result<Duration, Failure> {
        Ok(self.busy)
    }
}

/// [`virtio_9p::Server`].
pub(crate) struct OwnCore(Server<Passthrough>);

impl CoreChannel {
    /// A server of `folder`.
    pub(crate) fn own(folder: &Path) -> Result<Self, Failure> {
        let files = Passthrough::new(folder, PassthroughOptions::default())
            .map_err(|cause| Failure::wrong(OwnCore::NAME, cause.to_string()))?;
        Ok(Self::of(OwnCore(Server::new(files, Options::default()))))
    }
}

impl Core for OwnCore {
    const NAME: &'static str = "our core";

    fn handle(&mut self, request: &mut [u8], reply: &mut [u8]) -> Result<usize, Failure> {
        // SAFETY: both buffers outlive the segments, are borrowed exclusively, and are not touched while they are used.
        let (from, to) = unsafe {
            let from = Segment::new(request.as_mut_ptr(), request.len());
            ([from], [Segment::new(reply.as_mut_ptr(), reply.len())])
        };
        match self.0.handle(&Readable::new(&from), &Writable::new(&to)) {
            Outcome::Reply(length) => Ok(length),
            Outcome::Dropped => Err(Failure::wrong(Self::NAME, "a request was dropped")),
        }
    }
}

/// [`p9::Server`].
pub(crate) struct P9Core(p9::Server);

impl P9Channel {
    /// A server of `folder`.
    pub(crate) fn p9(folder: &Path) -> Result<Self, Failure> {
        let server = p9::Server::new(folder, Default::default(), Default::default())
            .map_err(|cause| Failure::system("start the server of the crate p9", cause))?;
        Ok(Self::of(P9Core(server)))
    }
}

impl Core for P9Core {
    const NAME: &'static str = "crate p9";

    fn handle(&mut self, request: &mut [u8], reply: &mut [u8]) -> Result<usize, Failure> {
        let mut rest = &mut *reply;
        self.0
            .handle_message(&mut &*request, &mut rest)
            .map_err(|cause| Failure::wrong(Self::NAME, cause.to_string()))?;
        let left = rest.len();
        Ok(reply.len() - left)
    }
}
