//! Why a request was refused. Each leaves everything as it was.

use std::io;

use thiserror::Error;

use crate::addr::EndpointId;

/// Why the control plane could not be set up. The cause lies in the configuration or in the machine, not in a guest.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Table memory cannot be had.
    #[error("cannot allocate a TCE table: {0}; raise the limits on memory, address space or open files")]
    Table(#[source] io::Error),
    /// The endpoint was added before.
    #[error("endpoint {0} is there already; give each endpoint its own id")]
    DuplicateEndpoint(EndpointId),
    /// The chip has no such PHB, or it is in use.
    #[error("PHB {0} is in use; each endpoint of a chip needs a PHB of its own")]
    PhbInUse(usize),
    /// The register window does not behave like a chip's.
    #[error(
        "TAR {phb} reads {read:#x} after {written:#x} was written; is the window that of a Calgary, and is no other driver \
         using it?"
    )]
    NotACalgary {
        /// The PHB.
        phb: usize,
        /// What was written.
        written: u64,
        /// What was read back.
        read: u64,
    },
    /// A limit is zero, so nothing could ever be attached.
    #[error("the limit of domains is 0; allow at least one")]
    NoDomains,
}

/// Why an endpoint was not attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// There is no such endpoint.
    #[error("no such endpoint")]
    NoEndpoint,
    /// The domain exists and is of the other kind.
    #[error("the domain exists with the other bypass setting; detach its endpoints first")]
    KindMismatch,
    /// The limit of domains is reached.
    #[error("too many domains; detach the endpoints of another domain first")]
    TooManyDomains,
    /// Memory for the domain's table cannot be had.
    #[error("cannot allocate the domain's TCE table: {0}")]
    OutOfMemory(#[source] io::Error),
}

/// Why an endpoint was not detached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DetachError {
    /// There is no such endpoint.
    #[error("no such endpoint")]
    NoEndpoint,
    /// The endpoint is not attached to this domain; it stays in the one it is attached to, if any.
    #[error("the endpoint is not attached to this domain")]
    NotAttached,
}

/// Why a mapping was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum MapError {
    /// There is no such domain.
    #[error("no such domain; attach an endpoint to it first")]
    NoDomain,
    /// The domain passes addresses untranslated.
    #[error("a bypass domain holds no mappings")]
    Bypass,
    /// The range, or the real address, does not consist of whole pages.
    #[error("the range is not made of whole 4 KiB pages")]
    Unaligned,
    /// The last address lies below the first.
    #[error("the range ends before it starts")]
    Inverted,
    /// The range reaches beyond the table.
    #[error("the range reaches beyond the IOVA window")]
    OutsideWindow,
    /// The range touches a reserved region.
    #[error("the range overlaps a reserved region")]
    Reserved,
    /// The range touches an existing mapping.
    #[error("the range overlaps a mapping; unmap it first")]
    Overlap,
    /// The real addresses do not fit the 48 bits of a TCE, or the chip cannot reach them.
    #[error("the real address is beyond the 48 bits that a TCE holds, or no memory of the chip's")]
    BadAddress,
}

/// Why nothing was unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum UnmapError {
    /// There is no such domain.
    #[error("no such domain")]
    NoDomain,
    /// The domain passes addresses untranslated.
    #[error("a bypass domain holds no mappings")]
    Bypass,
    /// The last address lies below the first.
    #[error("the range ends before it starts")]
    Inverted,
    /// A mapping lies partly inside the range.
    #[error("the range would split a mapping; unmap whole mappings")]
    Split,
}
