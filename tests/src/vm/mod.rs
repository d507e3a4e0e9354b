//! Real virtual machines: QEMU, a Linux guest kernel and a guest of a few scripts, without root.
//!
//! ```text
//! Bundle (QEMU, kernel, modules, busybox)
//!    └─ Initramfs (init, modules, scenario) ─┐
//! QemuAttachment, arguments ──────────────────┴─ MachineBuilder ── Machine (console, QMP, exit)
//! ```
//!
//! A [`Bundle`] is unpacked once from Debian's packages into a cache folder, or put together from the user's own QEMU
//! and kernel. A [`MachineBuilder`] turns it into a command line, and a running [`Machine`] is driven through its
//! console (lines that begin with `@@`, see [`Record`]) and through QMP.
//!
//! ```no_run
//! use calgary_tests::vm::{Bundle, Machine, Scenario};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bundle = Bundle::obtain(&())?;
//! let machine = Machine::builder(&bundle).scenario(Scenario::Commands).spawn()?;
//! machine.wait_ready()?;
//! println!("{}", machine.check("uname -r")?);
//! # Ok(())
//! # }
//! ```

mod apt;
#[cfg(test)]
mod booted;
mod bundle;
mod cache;
mod config;
mod console;
mod cpio;
mod failure;
mod initramfs;
mod machine;
mod modules;
mod own_devices;
mod process;
mod program;
mod progress;
mod qemu;
mod qmp;
mod scenario;
mod tsc;

pub use bundle::{Bundle, BundleError, aarch64_bundle_for_tests, bundle_for_tests};
pub use config::{Accel, MachineBuilder};
pub use cpio::Cpio;
pub use failure::{Evidence, MachineError, Output};
pub use initramfs::{DEFAULT_MODULES, Initramfs};
pub use machine::Machine;
pub use modules::{ModuleError, ModuleTree};
pub use own_devices::OwnShare;
pub use progress::{PrintProgress, Progress};
pub use qemu::{QemuCommand, QemuVersion};
pub use scenario::{Record, Report, Scenario};
pub use tsc::kilohertz as tsc_kilohertz;
