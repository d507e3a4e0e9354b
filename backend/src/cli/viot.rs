//! `calgaryd viot`.

use std::path::PathBuf;

use frontend_spec::pci::Bdf;
use frontend_spec::viot::Viot;

use super::Failure;

/// Write the ACPI table (VIOT) that tells a guest which devices are behind the IOMMU.
///
/// QEMU writes one only for its own IOMMU; give it ours with -acpitable file=FILE.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// PCI address of the virtio-iommu device.
    #[arg(long, value_name = "BB:DD.F", default_value = "00:05.0")]
    iommu_at: Bdf,

    /// PCI address of a device behind it. May repeat.
    #[arg(long = "endpoint", value_name = "BB:DD.F", required = true)]
    endpoints: Vec<Bdf>,

    /// File to write.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// Writes the table.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let table = Viot::new(args.iommu_at)
        .endpoints(args.endpoints.iter().copied())
        .encode()
        .map_err(|cause| Failure::Usage(cause.to_string()))?;
    std::fs::write(&args.output, table)
        .map_err(|cause| Failure::Runtime(format!("cannot write {}: {cause}", args.output.display())))
}
