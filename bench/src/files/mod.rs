//! File operations: the same work on every server, over whatever carries it.
//!
//! ```text
//!   run ── Subject ─┬─ ninep  (QEMU, diod, calgaryd, and two server cores in process)
//!                   ├─ fuse   (virtiofsd)
//!                   └─ plain  (system calls, the limit)
//! ```

mod contender;
mod fuse;
mod ninep;
mod plain;
mod room;
mod roster;
mod run;
mod safety;
mod subject;
mod tree;
mod work;

pub(crate) use roster::Roster;
pub(crate) use run::{FilePoint, FilesPlan, FilesReport, PERCENTILES, run};
pub(crate) use safety::{MECHANISMS, Safety};
pub(crate) use work::{LARGE, SMALL, Work};
