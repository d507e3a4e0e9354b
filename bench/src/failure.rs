//! What can go wrong, and what to do about it.

use std::io;
use std::path::PathBuf;

use calgary_tests::guest::dma::DmaError;
use calgary_tests::guest::iommu::IommuError;
use calgary_tests::guest::memory::MemoryError;
use calgary_tests::guest::queue::QueueError;
use calgary_tests::guest::{NinepError, SessionError, TransportError};
use calgary_tests::vm::BundleError;

/// Why a benchmark has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// There is no second processor.
    #[error("client and server need a processor each, and only one may be used; give this process two")]
    OneProcessor,
    /// The system refuses something.
    #[error("cannot {what}: {cause}")]
    System {
        /// What was tried.
        what: String,
        /// The answer.
        cause: io::Error,
    },
    /// A peer did not start.
    #[error("{peer} did not start: {cause}; its own words are:\n{said}")]
    Start {
        /// The peer.
        peer: &'static str,
        /// Why.
        cause: String,
        /// The end of its log.
        said: String,
    },
    /// A peer's program is not in the bundle.
    #[error("{peer} is not in the bundle ({} is missing); remove the bundle from the cache folder to have it fetched again", path.display())]
    NoProgram {
        /// The peer.
        peer: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A server did its work badly: a figure for it would mean nothing.
    #[error("{peer}: {what}")]
    Wrong {
        /// The server.
        peer: &'static str,
        /// What it answered, and what was due.
        what: String,
    },
    /// The peers could not be fetched.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The user-space guest did not come up.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A device could not be set up.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The IOMMU did not do as it should.
    #[error(transparent)]
    Iommu(#[from] IommuError),
    /// A file server did not do as it should.
    #[error(transparent)]
    Ninep(#[from] NinepError),
    /// A mapping failed.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// A queue failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Guest memory is short.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl Failure {
    /// The system refused `what`.
    pub(crate) fn system(what: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), cause: cause.into() }
    }

    /// `peer` answered wrongly.
    pub(crate) fn wrong(peer: &'static str, what: impl Into<String>) -> Self {
        Self::Wrong { peer, what: what.into() }
    }
}
