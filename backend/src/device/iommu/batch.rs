//! A batch of requests between the available and the used ring.

use frontend_spec::iommu::{ParseError, Status, Tail};
use zerocopy::IntoBytes;

use super::PROBE_SIZE;
use crate::dma::{DmaFault, Window};
use crate::prefetch::Hint;
use crate::ring::{Chain, Pair, Place};

/// Longest answer: the properties of a PROBE and its tail.
pub(super) const MAX_ANSWER: usize = PROBE_SIZE as usize + Tail::SIZE;

/// One request and its answer.
#[derive(Debug)]
pub(super) struct Slot<'w> {
    pub(super) head: u16,
    /// May have taken something away: must not be called done if the commit fails.
    pub(super) removes: bool,
    pub(super) answer: Answer,
    pub(super) shape: Shape<'w>,
}

/// Where a request's bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape<'w> {
    /// In buffers whose descriptors are being fetched.
    Placed(Place<'w>),
    /// In one buffer, with one for the answer.
    Pair(Pair<'w>),
    /// In the chain of this number.
    Chain(u16),
    /// Not known yet, or nowhere.
    Malformed,
}

/// What is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// Nothing; the used length is 0.
    Silent,
    /// Only a tail.
    Tail(Status),
    /// The probe answer of this number.
    Probe(Status, u16),
    /// A tail of `INVAL` in the last four bytes of a writable part too short for the properties: so many bytes, at least 4.
    ShortProbe(u16),
}

/// Why a request goes back without an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error("its bytes at {0:#x} are not guest RAM")]
    Unreachable(u64),
    #[error("{0} writable bytes have no room for a tail")]
    NoRoom(u64),
    #[error("its feature was not negotiated")]
    NotNegotiated,
}

impl Answer {
    /// The answer of a request that was carried out and is not to be called done.
    pub(super) fn but_failed(self) -> Self {
        match self {
            Self::Tail(Status::Ok) => Self::Tail(Status::DevErr),
            answer => answer,
        }
    }
}

impl Slot<'_> {
    pub(super) fn new(head: u16) -> Self {
        Self { head, removes: false, answer: Answer::Silent, shape: Shape::Malformed }
    }
}

/// Used length of a tail alone.
#[expect(clippy::cast_possible_truncation, reason = "4 bytes")]
pub(super) const TAIL_BYTES: u32 = Tail::SIZE as u32;

/// Requests that a new one is compared with, a power of two: a driver that maps and unmaps in turn has a place for each.
const RECENT: usize = 4;

/// Where the last requests were. A driver's allocator hands out first what came back last, so the next request is likely to
/// lie in the same places, and they can all be on their way before the ring says where the first of them is. That matters
/// when the guest waits for a single request.
#[derive(Debug, Default)]
pub(super) struct Recent {
    hints: [Lines; RECENT],
    next: usize,
}

/// What one request takes.
#[derive(Clone, Copy, Debug, Default)]
struct Lines {
    /// Its descriptors.
    place: Hint,
    readable: Hint,
    writable: Hint,
}

impl Recent {
    /// Whether `pending` requests are too few to hide each other's latency.
    #[inline]
    pub(super) fn matter_for(pending: u16) -> bool {
        usize::from(pending) <= RECENT / 2
    }

    /// Fetches the likely lines of the next request.
    #[inline]
    pub(super) fn fetch(&self) {
        for lines in &self.hints {
            lines.place.fetch();
            // First, since the answer often follows the request on the same line, which is fetched once then.
            lines.writable.fetch_to_write();
            lines.readable.fetch();
        }
    }

    #[inline]
    pub(super) fn note(&mut self, place: Place<'_>, pair: Pair<'_>) {
        self.hints[self.next] =
            Lines { place: place.hint(), readable: pair.readable.hint(), writable: pair.writable.hint() };
        self.next = (self.next + 1) % RECENT;
    }
}

/// Memory that one batch after the other uses, and what the one in hand has come to.
#[derive(Default)]
pub(super) struct Batch {
    slots: Vec<Slot<'static>>,
    pub(super) chains: Vec<Chain>,
    chains_used: usize,
    pub(super) probes: Vec<[u8; MAX_ANSWER]>,
    pub(super) recent: Recent,
    pub(super) event_chain: Chain,
}

impl Batch {
    /// Forgets the batch before.
    pub(super) fn start(&mut self) {
        self.chains_used = 0;
        self.probes.clear();
    }

    /// An empty list for slots of a window.
    pub(super) fn take_slots<'w>(&mut self) -> Vec<Slot<'w>> {
        std::mem::take(&mut self.slots)
    }

    /// Keeps the memory of such a list.
    pub(super) fn keep_slots(&mut self, mut slots: Vec<Slot<'_>>) {
        slots.clear();
        // An empty list of the same layout: the standard library collects it in place.
        self.slots = slots.into_iter().map(|_| Slot::new(0)).collect();
    }

    /// A chain to fill, and its number.
    pub(super) fn next_chain(&mut self) -> (u16, &mut Chain) {
        let number = self.chains_used;
        if number == self.chains.len() {
            self.chains.push(Chain::default());
        }
        self.chains_used += 1;
        (number_of(number), &mut self.chains[number])
    }

    /// An answer to a PROBE to fill, and its number.
    pub(super) fn next_probe(&mut self) -> (u16, &mut [u8; MAX_ANSWER]) {
        let number = self.probes.len();
        self.probes.push([0; MAX_ANSWER]);
        (number_of(number), &mut self.probes[number])
    }

    /// Copies `bytes` to the start of a request's writable part; returns how many fitted.
    pub(super) fn copy_out(&self, window: &Window<'_>, shape: Shape<'_>, bytes: &[u8]) -> Result<usize, DmaFault> {
        match shape {
            Shape::Pair(pair) => Ok(pair.writable.copy_out(bytes)),
            Shape::Chain(number) => self.chains[usize::from(number)].copy_out(window, bytes),
            Shape::Placed(_) | Shape::Malformed => Ok(0),
        }
    }
}

/// The bytes of a tail with `status`.
#[inline]
pub(super) fn tail_bytes(status: Status) -> [u8; Tail::SIZE] {
    let mut bytes = [0; Tail::SIZE];
    bytes.copy_from_slice(Tail::new(status).as_bytes());
    bytes
}

/// A batch is no longer than its ring.
#[expect(clippy::cast_possible_truncation, reason = "a ring has at most 32768 entries")]
fn number_of(index: usize) -> u16 {
    index as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_slots_is_kept_from_batch_to_batch() {
        let mut batch = Batch::default();
        let mut slots = batch.take_slots();
        slots.extend((0..100).map(Slot::new));
        let (place, room) = (slots.as_ptr().addr(), slots.capacity());
        batch.keep_slots(slots);
        let slots = batch.take_slots();
        assert!(slots.is_empty());
        assert_eq!((slots.as_ptr().addr(), slots.capacity()), (place, room));
    }
}
