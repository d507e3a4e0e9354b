//! One session, whatever file system it is over.

use virtio_9p::wire::Fid;
use virtio_9p::{Completed, FidUse, FileSystem, Options, Server, Started, Stats};

/// Most fids of one connection: with the usual number of connections as many as eight guests may have.
const MAX_FIDS: usize = 1 << 15;
/// Most bytes of extended attributes on their way on one connection: 64 of the largest.
const MAX_XATTR_BYTES: usize = 4 << 20;

/// The terms of a connection to a share that serves a guest on the terms `options`: anybody can open many connections, so
/// each gets less.
#[must_use]
pub fn session_options(mut options: Options) -> Options {
    options.max_fids = options.max_fids.min(MAX_FIDS);
    options.max_xattr_bytes = options.max_xattr_bytes.min(MAX_XATTR_BYTES);
    options
}

/// What a connection needs of a [`Server`].
pub trait Session: Send + Sync {
    /// [`Server::start_bytes`]
    fn start(&self, request: &mut [u8], reply: &mut [u8], ticket: u64) -> Started;
    /// [`Server::next_completed`]
    fn next_completed(&self) -> Option<Completed>;
    /// [`Server::retry_parked`]
    fn retry_parked(&self);
    /// [`Server::parked_count`]
    fn parked_count(&self) -> usize;
    /// [`Server::msize`]
    fn msize(&self) -> Option<u32>;
    /// [`Server::fid_count`]
    fn fid_count(&self) -> usize;
    /// [`Server::fids`]
    fn fids(&self, limit: usize) -> Vec<(Fid, FidUse)>;
    /// [`Server::stats`]
    fn stats(&self) -> Stats;
    /// [`Server::reset`]
    fn reset(&self);
}

impl<F: FileSystem> Session for Server<F> {
    fn start(&self, request: &mut [u8], reply: &mut [u8], ticket: u64) -> Started {
        self.start_bytes(request, reply, ticket)
    }

    fn next_completed(&self) -> Option<Completed> {
        Server::next_completed(self)
    }

    fn retry_parked(&self) {
        Server::retry_parked(self);
    }

    fn parked_count(&self) -> usize {
        Server::parked_count(self)
    }

    fn msize(&self) -> Option<u32> {
        Server::msize(self)
    }

    fn fid_count(&self) -> usize {
        Server::fid_count(self)
    }

    fn fids(&self, limit: usize) -> Vec<(Fid, FidUse)> {
        Server::fids(self, limit)
    }

    fn stats(&self) -> Stats {
        Server::stats(self)
    }

    fn reset(&self) {
        Server::reset(self);
    }
}
