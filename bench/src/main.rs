//! The command `calgary-bench`.
//!
//! ```text
//!   cli ── compare, iommu, files, price-of-safety
//!    ├── measure   processors, clocks, figures
//!    ├── peers     the servers, as processes
//!    ├── iommu     MAP and UNMAP
//!    └── report    tables, JSON, HTML
//! ```

#![expect(dead_code, unused_imports, reason = "the file servers are not driven yet")]

mod cli;
mod failure;
mod iommu;
mod measure;
mod peers;
mod progress;
mod report;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(std::env::args_os())
}
