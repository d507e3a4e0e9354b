//! From the ring to a request: where its bytes are while the server works on it.
//!
//! A device outside the IOMMU hands the guest's own pages to the server: nobody can take them away while a request is in
//! hand. Behind the IOMMU a guest may unmap at any moment, and an UNMAP must not wait for what waits itself. So there pages
//! are pinned for a call that cannot wait, and only an UNMAP of these very pages waits for it: for every request where the
//! file system keeps all in memory, else for a read or write of much data. Any other request is copied, with room for its
//! reply, and holds nothing.

use iommu_calgary::Access;
use virtio_9p::limits::MAX_HEAD;
use virtio_9p::wire::MessageType;
use virtio_9p::{FileSystem, Patience, Segment, Work};

use super::claims::{Claims, HEAD};
use super::{ShareDevice, Worker};
use crate::dma::{DmaFault, Window};
use crate::memory::host_len;
use crate::ring::{Buffer, Chain, ChainError, RingError};

/// Most bytes of a request, and of the room for its reply, that are rather copied than pinned where files are on a disk: all
/// requests of Linux but those that move data, with their room, and reads and writes of a page.
pub(super) const SHORT: u64 = 8192;
/// Most memory pieces of one direction of a request: what one `preadv2` takes.
const MAX_SEGMENTS: usize = 1024;
/// Bytes of each direction of a pinned request that are looked at, beyond the largest message.
const SLACK: u64 = 64 * 1024;

/// A request that was taken from the ring.
pub(super) struct Taken {
    pub(super) head: u16,
    pub(super) place: Result<Place, ChainError>,
}

/// Where the bytes of a request are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the guest's pages, listed in `readable` and `writable`.
    Guest,
    /// The request in `request`, and room for the reply in `reply`.
    Copy,
}

/// Where the request in hand is, reused from one to the next.
#[derive(Default)]
pub(super) struct Hand {
    pub(super) chain: Chain,
    pub(super) readable: Vec<Segment>,
    pub(super) writable: Vec<Segment>,
    pub(super) request: Vec<u8>,
    /// Grows and never shrinks; `reply_len` of it belong to the request.
    reply: Vec<u8>,
    reply_len: usize,
    head: Vec<u8>,
}

impl Hand {
    /// The copied request and the room for its reply.
    pub(super) fn copy(&mut self) -> (&mut [u8], &mut [u8]) {
        (&mut self.request, &mut self.reply[..self.reply_len])
    }

    /// The first `len` bytes of the reply.
    pub(super) fn reply(&self, len: usize) -> &[u8] {
        &self.reply[..len.min(self.reply_len)]
    }

    /// The copied request and room for its reply, apart from what is reused.
    pub(super) fn detach(&self) -> (Vec<u8>, Vec<u8>) {
        (self.request.clone(), vec![0; self.reply_len])
    }

    /// Copies the request and makes room for its reply, which must be reachable now.
    fn copy_in(&mut self, window: &Window<'_>, limit: u64) -> Result<(), DmaFault> {
        self.request.resize(host_len(self.chain.readable_len().min(limit)), 0);
        self.chain.copy_in(window, &mut self.request)?;
        let room = host_len(self.chain.writable_len().min(limit));
        if self.reply.len() < room {
            self.reply.resize(room, 0);
        }
        self.reply_len = room;
        let mut left = limit;
        for buffer in &self.chain.writable {
            let len = u64::from(buffer.len).min(left);
            window.check(buffer.address, len, Access::Write)?;
            left -= len;
        }
        Ok(())
    }

    /// What the request claims.
    fn claims(&mut self, window: &Window<'_>, place: Place) -> Result<Claims, DmaFault> {
        if place == Place::Copy {
            return Ok(Claims::of(&self.request));
        }
        self.head.resize(HEAD, 0);
        let len = self.chain.copy_in(window, &mut self.head)?;
        Ok(Claims::of(&self.head[..len]))
    }
}

impl<F: FileSystem> ShareDevice<F> {
    /// Takes the next request, if there is one. `pending` is how many are known to be there.
    pub(super) fn take(&self, worker: &mut Worker, pending: &mut u16) -> Result<Option<Taken>, RingError> {
        let Worker { dma, queue: Some(queue), hand, ahead, .. } = worker else { return Ok(None) };
        let window = dma.enter();
        let head = if *pending == 0 {
            *pending = queue.ring.pending(&window)?;
            if *pending == 0 {
                return Ok(None);
            }
            // Before the head is known, since that takes as long as the rest.
            queue.ring.fetch_ahead(&window, 1)?;
            let likely = queue.ring.last_head();
            ahead.fetch(likely);
            let head = queue.ring.take(&window)?;
            if head != likely {
                ahead.fetch(head);
            }
            head
        } else {
            // It was upcoming when the one before it was taken.
            queue.ring.take(&window)?
        };
        *pending -= 1;
        if *pending > 0 {
            queue.ring.upcoming(&window).into_iter().for_each(|next| ahead.fetch(next));
        }
        let loaded = queue.ring.load_chain(&window, head, &mut hand.chain);
        let place = loaded.and_then(|()| Ok(self.place(&window, hand)?));
        if place.is_ok() {
            ahead.note(head, hand);
        }
        Ok(Some(Taken { head, place }))
    }

    /// Finds out where the request in hand can be worked on, and puts it there.
    fn place(&self, window: &Window<'_>, hand: &mut Hand) -> Result<Place, DmaFault> {
        if !self.zero_copy || self.is_translated() && !self.never_waits() && !moves_much(window, &hand.chain)? {
            hand.copy_in(window, self.copy_limit())?;
            return Ok(Place::Copy);
        }
        let limit = self.max_message + SLACK;
        pin(window, &hand.chain.readable, limit, Access::Read, &mut hand.readable)?;
        pin(window, &hand.chain.writable, limit, Access::Write, &mut hand.writable)?;
        Ok(Place::Guest)
    }

    /// Whether the request in hand is done in some microseconds.
    pub(super) fn is_brief(&self, chain: &Chain) -> bool {
        self.never_waits() && chain.readable_len() <= SHORT && chain.writable_len() <= SHORT
    }

    /// Whether the file system waits for nothing but memory and processors.
    fn never_waits(&self) -> bool {
        self.core.server.file_system().needs(Work::Names) == Patience::None
    }

    /// Lets go of the guest's pages, and copies the request.
    pub(super) fn place_copy(&self, worker: &mut Worker) -> Result<(), DmaFault> {
        worker.let_go();
        worker.hand.copy_in(&worker.dma.enter(), self.copy_limit())
    }

    /// What the request in hand claims.
    pub(super) fn claims(&self, worker: &mut Worker, place: Place) -> Result<Claims, DmaFault> {
        worker.hand.claims(&worker.dma.enter(), place)
    }

    /// No longer message is accepted, with or without a session.
    fn copy_limit(&self) -> u64 {
        self.max_message.max(MAX_HEAD as u64)
    }
}

impl Worker {
    /// Lets go of the guest's pages.
    pub(super) fn let_go(&mut self) {
        self.hand.readable.clear();
        self.hand.writable.clear();
        self.dma.unpin();
    }
}

/// Whether a request is a read or write of more than a page or two.
fn moves_much(window: &Window<'_>, chain: &Chain) -> Result<bool, DmaFault> {
    if chain.readable_len() <= SHORT && chain.writable_len() <= SHORT {
        return Ok(false);
    }
    let mut start = [0; 5];
    chain.copy_in(window, &mut start)?;
    Ok(matches!(MessageType(start[4]), MessageType::TREAD | MessageType::TWRITE))
}

/// Pins the first `limit` bytes of `buffers`.
fn pin(
    window: &Window<'_>,
    buffers: &[Buffer],
    limit: u64,
    access: Access,
    segments: &mut Vec<Segment>,
) -> Result<(), DmaFault> {
    let mut left = limit;
    for buffer in buffers {
        let len = u64::from(buffer.len).min(left);
        window.pin_segments(buffer.address, len, access, MAX_SEGMENTS, segments)?;
        left -= len;
    }
    Ok(())
}
