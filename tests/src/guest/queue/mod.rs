//! The driver side of a split virtqueue (virtio 1.2 §2.7).

mod layout;
mod raw;
mod ring;
mod virtqueue;

pub use layout::{RingBytes, RingPart, RingPlacement};
pub use raw::{Descriptor, RawExchange, RawReply};
pub use ring::{IndirectTable, QueueError, Segment, SplitQueue, Used};
pub use virtqueue::{VirtQueue, Waiting};
