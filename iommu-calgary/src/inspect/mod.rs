//! Looking at tables from outside: the meaning of an entry, and what a whole table maps.
//!
//! Input is bytes in the chip's own order, from the descriptor that [`TceTable`](crate::TceTable) exports or from a raw
//! image of table memory, such as a dump of a real machine's. Nothing is trusted: an image may be anything.
//!
//! ```
//! use iommu_calgary::{Permissions, RealAddr, TableSize, Tce, inspect};
//!
//! let mut image = vec![0; TableSize::MiB32.table_bytes()];
//! let entry = Tce::new(RealAddr(0x1234_5000), Permissions::READ_WRITE);
//! image[16..24].copy_from_slice(&entry.to_bytes());
//! let dump = inspect::dump(&image)?;
//! assert_eq!(dump.ranges[0].to_string(), "0x00002000..=0x00002fff  ->  0x000012345000  RW        1");
//! println!("{dump}");
//! # Ok::<(), inspect::InspectError>(())
//! ```

mod dump;
mod entry;
mod image;

pub use dump::{Dump, MappedRange, Totals, dump};
pub use entry::{Decoded, Oddity};
pub use image::{InspectError, read_image};
