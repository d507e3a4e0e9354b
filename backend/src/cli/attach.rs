//! `calgaryd attach`.

use std::path::PathBuf;

use frontend_spec::ByteSize;
use frontend_spec::attach::{IommuDevice, QemuAttachment, ShareDevice};
use frontend_spec::pci::Bdf;

use super::Failure;
use super::serve::DeviceArgs;
use crate::config::ServeConfig;

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

/// First slot given to shares that name none.
const FIRST_FREE_SLOT: u8 = 6;
/// PCI devices on one bus.
const SLOTS: u8 = 32;

/// Prints the command line.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let Vmm::Qemu(qemu) = &args.vmm;
    let config = qemu.devices.config();
    config.validate().map_err(|cause| Failure::Usage(cause.to_string()))?;
    let attachment = qemu_attachment(&config, qemu.memory, &qemu.viot).map_err(Failure::Usage)?;
    let line = attachment.args().map_err(|cause| Failure::Usage(cause.to_string()))?;
    println!("qemu-system-x86_64 {line}");
    Ok(())
}

/// What QEMU needs to know of `config`.
///
/// # Errors
/// A line saying why the devices do not fit the machine.
pub(super) fn qemu_attachment(
    config: &ServeConfig,
    memory_mib: u64,
    viot: &std::path::Path,
) -> Result<QemuAttachment, String> {
    let iommu = config.iommu.as_ref().map(|iommu| IommuDevice {
        socket: iommu.socket.clone(),
        at: iommu.at,
        window: ByteSize::from_bytes(iommu.window.window_bytes()),
    });
    let mut taken: Vec<Bdf> = config.shares.iter().filter_map(|share| share.endpoint).collect();
    taken.extend(config.iommu.iter().map(|iommu| iommu.at));
    let mut shares = Vec::new();
    for share in &config.shares {
        let at = match share.endpoint {
            Some(at) => at,
            None => {
                let free = (FIRST_FREE_SLOT..SLOTS)
                    .filter_map(|slot| Bdf::new(0, slot, 0).ok())
                    .find(|slot| !taken.contains(slot))
                    .ok_or("no PCI slot is left on bus 0; serve fewer shares")?;
                taken.push(free);
                free
            }
        };
        shares.push(ShareDevice { socket: share.socket.clone(), tag: share.tag.clone(), at, iommu: share.iommu });
    }
    let viot_file = shares.iter().any(|share| share.iommu).then(|| viot.to_owned());
    Ok(QemuAttachment { iommu, shares, memory_mib, viot_file })
}
