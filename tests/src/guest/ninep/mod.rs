//! A 9P2000.L client on a virtqueue, as Linux' `9pnet_virtio` drives one.
//!
//! Encoders and decoders are this module's own: a server that misreads the protocol is not met by a
//! client with the same mistake.

mod buffer;
mod call;
mod client;
mod envelope;
mod operations;
mod reply;
mod slot;
mod wire;

pub use buffer::PageBuffer;
pub use call::{Call, Payload};
pub use client::{ClientOptions, NinepClient, Tag};
pub use envelope::{NinepError, Reply};
pub use operations::{LockRequest, SetAttributes};
pub use reply::{Attributes, DirectoryEntry, LockRecord, StatFs, Timestamp};
pub use wire::{Decoder, Malformed, Qid, message};

/// The fid that stands for none.
pub const NOFID: u32 = u32::MAX;
/// The numeric user that stands for none.
pub const NONUNAME: u32 = u32::MAX;
/// Bytes that a Tread or Twrite needs besides its data, as clients reckon.
pub const IO_HEADER: u32 = 24;
/// The largest message of a Linux client on 4 KiB pages: 125 pages.
pub const LINUX_MAX_MSIZE: u32 = 125 * 4096;
