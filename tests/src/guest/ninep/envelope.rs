//! What every reply has in common: size, type, tag, and the ways to fail.

use super::client::Tag;
use super::wire::{Decoder, HEADER_BYTES, Malformed, message};
use crate::guest::dma::DmaError;
use crate::guest::memory::MemoryError;
use crate::guest::queue::QueueError;
use crate::guest::transport::TransportError;

/// Why a 9P operation failed.
#[derive(Debug, thiserror::Error)]
pub enum NinepError {
    /// The server answered with this Linux errno.
    #[error("the server answered errno {0}")]
    Rlerror(u32),
    /// The server returned the buffers unused, as it may after a flush.
    #[error("the server dropped the request")]
    Dropped,
    /// The server answered a flush while it still had the flushed request's buffers.
    #[error("the server answered a flush before it gave back the flushed request")]
    FlushedBeforeReturned,
    /// The reply breaks the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    /// All tags are in use.
    #[error("all {0} tags are in use: collect a reply first, or raise the depth")]
    NoTag(usize),
    /// No such request is out.
    #[error("no request with tag {0:?} is out")]
    UnknownTag(Tag),
    /// The request does not fit the ring or the protocol's size field.
    #[error("the request is too long for a message or a descriptor table")]
    TooLong,
    /// Mapping or the queue failed.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

impl NinepError {
    /// The errno, if the server sent one.
    #[must_use]
    pub fn errno(&self) -> Option<u32> {
        match self {
            Self::Rlerror(errno) => Some(*errno),
            _ => None,
        }
    }
}

impl From<QueueError> for NinepError {
    fn from(error: QueueError) -> Self {
        Self::Dma(error.into())
    }
}

impl From<MemoryError> for NinepError {
    fn from(error: MemoryError) -> Self {
        Self::Dma(error.into())
    }
}

impl From<Malformed> for NinepError {
    fn from(error: Malformed) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// A reply other than Rlerror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its type.
    pub kind: u8,
    /// What follows the header in the message's own buffer.
    pub body: Vec<u8>,
    /// Bytes that follow in the data pages.
    pub payload_bytes: u32,
}

impl Reply {
    /// Check the envelope of the reply to a message of type `kind` and tag `tag`.
    pub(super) fn parse(mut bytes: Vec<u8>, used: u32, kind: u8, tag: u16) -> Result<Reply, NinepError> {
        if used == 0 {
            return Err(NinepError::Dropped);
        }
        let mut decoder = Decoder::new(&bytes);
        let (size, reply_kind, reply_tag) = (decoder.u32()?, decoder.u8()?, decoder.u16()?);
        let protocol = |fault: String| Err(NinepError::Protocol(fault));
        if size != used {
            return protocol(format!("size {size} in a reply of {used} bytes"));
        }
        if reply_tag != tag {
            return protocol(format!("tag {reply_tag} in the reply to tag {tag}"));
        }
        if reply_kind == message::RLERROR {
            let errno = decoder.u32()?;
            decoder.finish()?;
            return match errno {
                1..=4095 => Err(NinepError::Rlerror(errno)),
                _ => protocol(format!("{errno} is no errno")),
            };
        }
        if reply_kind != kind + 1 {
            return protocol(format!("reply of type {reply_kind} to type {kind}"));
        }
        let own = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        bytes.drain(..HEADER_BYTES);
        Ok(Reply { kind: reply_kind, body: bytes, payload_bytes: used - own })
    }
}
