//! The command `calgary-bench`.
//!
//! ```text
//!   cli ── compare, iommu, files, price-of-safety
//!    ├── measure   processors, clocks, figures
//!    ├── peers     the servers, as processes
//!    ├── iommu     MAP and UNMAP
//!    ├── files     file operations
//!    ├── linux_guest  a Linux guest as the client
//!    └── report    tables, JSON, HTML
//! ```

mod cli;
mod failure;
mod files;
mod iommu;
mod linux_guest;
mod measure;
mod peers;
mod progress;
mod report;
mod scene;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(std::env::args_os())
}
