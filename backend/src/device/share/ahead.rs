//! Where the lines of the next request are likely to be.
//!
//! What a driver has just written lies in another processor's cache, and each line says where the next one is: the ring leads
//! to the descriptors, these to the request and to the room for its reply. But a driver's allocators hand out first what
//! came back last, so the request at a head is likely to lie where the last one at that head did. Then all its lines are
//! fetched at once.

use super::taking::Hand;
use crate::prefetch::Hint;

/// Lines of a reply that are fetched early: all of an Rgetattr, the longest of the short ones.
const MAX_REPLY_LINES: usize = 3;
/// Bytes of a cache line, for hints only.
const CACHE_LINE: usize = 64;

/// What the last request at one head took.
#[derive(Clone, Copy, Debug, Default)]
struct Lines {
    /// Its descriptors, outside the ring.
    table: Hint,
    request: Hint,
    reply: Hint,
    /// Lines of the reply, of at most so many in its first piece.
    reply_lines: usize,
    reply_room: usize,
}

/// The same for each head, by number. Hints only: they give no access.
#[derive(Debug, Default)]
pub(super) struct Ahead(Vec<Lines>);

impl Ahead {
    /// Fetches what a request at `head` is likely to take.
    #[inline]
    pub(super) fn fetch(&self, head: u16) {
        if let Some(lines) = self.0.get(usize::from(head)) {
            lines.table.fetch();
            lines.request.fetch();
            (0..lines.reply_lines).for_each(|line| lines.reply.beyond(line * CACHE_LINE).fetch_to_write());
        }
    }

    /// Notes where the request in hand is, which the ring was asked for at `head`: so `head` is less than the ring's size.
    #[inline]
    pub(super) fn note(&mut self, head: u16, hand: &Hand) {
        let at = usize::from(head);
        if self.0.len() <= at {
            self.0.resize(at + 1, Lines::default());
        }
        let lines = &mut self.0[at];
        lines.table = hand.chain.table;
        if let ([request, ..], [reply, ..]) = (&hand.readable[..], &hand.writable[..]) {
            lines.request = Hint::at(request.as_mut_ptr());
            lines.reply = Hint::at(reply.as_mut_ptr());
            lines.reply_room = reply.len().div_ceil(CACHE_LINE).min(MAX_REPLY_LINES);
        } else {
            lines.reply_room = 0;
        }
    }

    /// Notes how long the reply was that the request at `head` got.
    #[inline]
    pub(super) fn replied(&mut self, head: u16, used: u32) {
        if let Some(lines) = self.0.get_mut(usize::from(head)) {
            lines.reply_lines = (used as usize).div_ceil(CACHE_LINE).min(lines.reply_room);
        }
    }
}
