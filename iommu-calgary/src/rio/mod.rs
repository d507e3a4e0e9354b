//! Finding the chips: the BIOS's RIO table, and which bus lies below which PHB.
//!
//! ```text
//!   low memory 0x40E ── segment ──> EBDA, block "RG" ──> RioTable ──> BBAR of each Calgary
//!                                                                       │ four STUFF registers each
//!                                                                       v
//!                                                                    BusMap: bus number -> BBAR, PHB
//! ```
//!
//! All input is an image, a slice of bytes: nothing here reads `/dev/mem`. Layouts are those of Linux's
//! `asm/bios_ebda.h` and `asm/rio.h`.

mod buses;
mod ebda;
mod records;

pub use buses::{Bus, BusMap};
pub use ebda::{find_block, from_low_memory};
pub use records::{RioDevice, RioKind, RioTable, ScalabilityDevice};

use thiserror::Error;

/// Why no chip was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RioError {
    /// The image ends before the structure does.
    #[error("the image ends inside {0}; give a longer one")]
    Truncated(&'static str),
    /// No block of the EBDA is a RIO table: the machine has no such chip.
    #[error("the EBDA holds no RIO table; this machine has no Calgary that its BIOS tells of")]
    NoTable,
    /// A version of the table that nobody has described.
    #[error("RIO table version {0} is unknown; 2 and 3 are known")]
    Version(u8),
}

/// `N` bytes of `image` at `offset`.
fn bytes<const N: usize>(image: &[u8], offset: usize, what: &'static str) -> Result<[u8; N], RioError> {
    image.get(offset..).and_then(<[u8]>::first_chunk).copied().ok_or(RioError::Truncated(what))
}
