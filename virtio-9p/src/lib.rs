//! A file server core for 9P2000.L, 9P2000.u and 9P2000 over scatter lists.
//!
//! It knows bytes, sessions, fids and the file system; it does not know where the bytes come from.
//!
//! ```text
//!  Readable ──► wire ──► server ──► FileSystem ──► passthrough (a folder of the host)
//!  Writable ◄── wire ◄── session (fids, msize)
//! ```
//!
//! The types to know:
//! - [`Segment`], [`Readable`], [`Writable`]: the seam. A request is a list of memory pieces to read, a reply a list of
//!   pieces to write. File data goes straight between those pieces and the file.
//! - [`Server`]: one session. [`Server::handle`] answers one request.
//! - [`FileSystem`]: what a server serves. [`Passthrough`] is the one for a folder, [`synthetic::Synthetic`] the one
//!   for files made of closures.
//! - [`wire`]: the messages, in both directions, so that a client can be built on them.
//!
//! ```
//! use virtio_9p::wire::{Message, NOTAG, Rversion, Tversion};
//! use virtio_9p::{Options, Outcome, Passthrough, PassthroughOptions, Readable, Segment, Server, Writable};
//!
//! let folder = tempfile::tempdir()?;
//! let files = Passthrough::new(folder.path(), PassthroughOptions::default())?;
//! let server = Server::new(files, Options::default());
//!
//! let mut request = [0; 64];
//! let len = Tversion { msize: 8192, version: b"9P2000.L" }.emit(NOTAG, &mut request)?;
//! let mut reply = [0; 64];
//! // SAFETY: both buffers outlive the segments and are not touched while they are used.
//! let (from, to) = unsafe {
//!     ([Segment::new(request.as_mut_ptr(), len)], [Segment::new(reply.as_mut_ptr(), 64)])
//! };
//! let Outcome::Reply(size) = server.handle(&Readable::new(&from), &Writable::new(&to)) else {
//!     panic!("the request was dropped");
//! };
//! assert_eq!(Rversion::parse(&reply[..size])?.1.msize, 8192);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod errno;
mod fs;
mod name;
mod passthrough;
mod segment;
mod server;
mod session;
mod stats;

pub mod limits;
pub mod synthetic;
pub mod wire;

pub use errno::Errno;
pub use fs::{
    Attach, Created, Entry, FileSystem, Hindrance, LockConflict, LockOwner, LockRange, LockRequest, Opened, Owner,
    Patience, SetAttr, SetTime, Work,
};
pub use name::Name;
pub use passthrough::{IdRange, Passthrough, PassthroughError, PassthroughOptions, Security};
pub use segment::{IoVectors, Readable, Segment, View, Writable};
pub use server::{Completed, Ended, FidUse, Options, Outcome, Server, Started};
pub use stats::Stats;
