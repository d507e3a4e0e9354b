//! Translation tables as the chip reads them.

mod backing;
pub(crate) mod fill;
mod flat;
mod size;
mod tce;

pub use flat::TceTable;
pub use size::TableSize;
pub use tce::Tce;

pub(crate) use flat::entries_of;
