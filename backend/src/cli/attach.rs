//! `calgaryd attach`.

use std::path::{Path, PathBuf};

use super::Failure;
use super::serve::DeviceArgs;
use crate::attachment;

/// Print the VMM's command line for the same devices that `serve` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    vmm: Vmm,
}

#[derive(Debug, clap::Subcommand)]
enum Vmm {
    /// QEMU 10.2 or later.
    Qemu(QemuArgs),
}

/// Print the QEMU options that attach the devices; add your kernel or disk.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
struct QemuArgs {
    #[command(flatten)]
    devices: DeviceArgs,

    /// Guest RAM in MiB; the window must fit below it.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u64,

    /// File that `calgaryd viot` wrote; needed behind the IOMMU.
    #[arg(long, value_name = "FILE", default_value = "viot.bin")]
    viot: PathBuf,
}

impl Args {
    /// The VMM's name, as the command line has it.
    pub(super) fn vmm(&self) -> &'static str {
        match &self.vmm {
            Vmm::Qemu(_) => "qemu",
        }
    }

    /// The file that says more.
    pub(super) fn config_file(&self) -> Option<&Path> {
        let Vmm::Qemu(qemu) = &self.vmm;
        qemu.devices.config.as_deref()
    }
}

/// Prints the command line.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let Vmm::Qemu(qemu) = &args.vmm;
    let config = qemu.devices.config();
    config.validate().map_err(|cause| Failure::Usage(cause.to_string()))?;
    let mut attachment = attachment::qemu(&config, qemu.memory).map_err(|cause| Failure::Usage(cause.to_string()))?;
    attachment.viot_file = attachment.viot().is_some().then(|| qemu.viot.clone());
    let line = attachment.args().map_err(|cause| Failure::Usage(cause.to_string()))?;
    println!("qemu-system-x86_64 {line}");
    Ok(())
}
