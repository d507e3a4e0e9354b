//! A Linux guest under emulation as the client: what isolation costs there.
//!
//! ```text
//!   run ── one guest on this project's daemon, one on QEMU's own devices; samples turn about
//!    ├── machine   a guest with a share behind an IOMMU and one outside, and its server's processor clock
//!    ├── load      the program inside the guest
//!    └── report    the table
//! ```

mod load;
mod machine;
mod report;
mod run;

pub(crate) use load::{GUEST_COMMAND, main as guest_main};
pub(crate) use machine::{Arguments, Mode};
pub(crate) use report::text;
pub(crate) use run::{mechanisms, run};
