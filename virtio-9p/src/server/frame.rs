//! Requests and replies in plain buffers, as a socket has them.

use super::{Completed, Outcome, Server, Started};
use crate::fs::{FileSystem, Patience};
use crate::segment::{Readable, Segment, Writable};

/// A buffer as the only piece of a scatter list.
///
/// # Safety
///
/// The piece and its copies must not be used after the borrow of `buffer` ends.
unsafe fn piece(buffer: &mut [u8]) -> [Segment; 1] {
    // SAFETY: the buffer is borrowed mutably, so nobody else refers to it, as long as this function's contract is kept.
    [unsafe { Segment::new(buffer.as_mut_ptr(), buffer.len()) }]
}

impl<F: FileSystem> Server<F> {
    /// As [`Server::handle`], for a caller that has each message in one buffer of its own.
    pub fn handle_bytes(&self, request: &mut [u8], reply: &mut [u8]) -> Outcome {
        // SAFETY: both buffers are borrowed for the whole call; the pieces do not outlive it.
        let (from, to) = unsafe { (piece(request), piece(reply)) };
        self.handle(&Readable::new(&from), &Writable::new(&to))
    }

    /// As [`Server::start`], for such a caller.
    pub fn start_bytes(&self, request: &mut [u8], reply: &mut [u8], ticket: u64) -> Started {
        // SAFETY: as above.
        let (from, to) = unsafe { (piece(request), piece(reply)) };
        self.start(&Readable::new(&from), &Writable::new(&to), ticket)
    }

    /// As [`Server::start_within`], for such a caller.
    ///
    /// # Errors
    /// The patience that the request needs, more than was given.
    pub fn start_bytes_within(
        &self,
        request: &mut [u8],
        reply: &mut [u8],
        ticket: u64,
        patience: Patience,
    ) -> Result<Started, Patience> {
        // SAFETY: as above.
        let (from, to) = unsafe { (piece(request), piece(reply)) };
        self.start_within(&Readable::new(&from), &Writable::new(&to), ticket, patience)
    }
}

impl Completed {
    /// As [`Completed::finish`], for such a caller.
    pub fn finish_bytes(&self, reply: &mut [u8]) -> Outcome {
        // SAFETY: as above.
        let to = unsafe { piece(reply) };
        self.finish(&Writable::new(&to))
    }
}
