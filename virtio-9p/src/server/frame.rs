//! Requests and replies in plain buffers, as a socket has them.

use super::{Outcome, Server};
use crate::fs::FileSystem;
use crate::segment::{Readable, Segment, Writable};

impl<F: FileSystem> Server<F> {
    /// As [`Server::handle`], for a caller that has each message in one buffer of its own.
    pub fn handle_bytes(&self, request: &mut [u8], reply: &mut [u8]) -> Outcome {
        // SAFETY: both buffers are borrowed for the whole call and by nobody else; the segments do not outlive it.
        let (from, to) = unsafe {
            ([Segment::new(request.as_mut_ptr(), request.len())], [Segment::new(reply.as_mut_ptr(), reply.len())])
        };
        self.handle(&Readable::new(&from), &Writable::new(&to))
    }
}
