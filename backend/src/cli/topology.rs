//! `calgaryd viot`, `calgaryd dtb` and `calgaryd acpi`: telling a guest which devices are behind the IOMMU.

use std::path::{Path, PathBuf};

use frontend_spec::acpi::MicrovmTables;
use frontend_spec::devicetree::Topology;
use frontend_spec::place::Place;
use frontend_spec::viot::Viot;

use super::{Failure, READABLE, WRITABLE, print_line};

/// Where the devices are. A place is a PCI address, 00:06.0; without PCI it is an endpoint id written as one, and the
/// address of the device's registers: 00:06.0@0xfeb00c00.
#[derive(Debug, clap::Args)]
struct Places {
    /// Place of the virtio-iommu device.
    #[arg(long, value_name = "BB:DD.F[@ADDRESS]", default_value = "00:05.0")]
    iommu_at: Place,

    /// Place of a device behind it. May repeat.
    #[arg(long = "endpoint", value_name = "BB:DD.F[@ADDRESS]", required = true)]
    endpoints: Vec<Place>,
}

impl Places {
    fn viot(&self) -> Viot {
        Viot::new(self.iommu_at).endpoints(self.endpoints.iter().copied())
    }
}

/// Write the ACPI table (VIOT) that tells a guest which devices are behind the IOMMU.
///
/// QEMU writes one only for its own IOMMU; give it ours with -acpitable file=FILE.
#[derive(Debug, clap::Args)]
pub(super) struct ViotArgs {
    #[command(flatten)]
    places: Places,

    /// File to write.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// Put into a device tree which devices are behind the IOMMU.
///
/// QEMU writes its tree with -M virt,dumpdtb=FILE and takes the edited one with -dtb FILE. Devices on the PCI bus get
/// into iommu-map, virtio-mmio devices name their IOMMU in iommus.
#[derive(Debug, clap::Args)]
pub(super) struct DtbArgs {
    #[command(flatten)]
    places: Places,

    /// The VMM's tree.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,

    /// File to write.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// Write ACPI tables, a VIOT among them, for QEMU's machine microvm, and print what its kernel must be told.
///
/// The VIOT tells a guest which devices are behind the IOMMU. The machine takes no tables; load these into its RAM with
/// -device loader,file=FILE,addr=ADDRESS,force-raw=on, and put what is printed on the kernel's command line.
#[derive(Debug, clap::Args)]
pub(super) struct AcpiArgs {
    #[command(flatten)]
    places: Places,

    /// Guest-physical address that they will be loaded at, a multiple of 4 KiB; such as 0x10000000.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    address: u32,

    /// Processors of the guest.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    cpus: u8,

    /// File to write.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// Writes a VIOT.
pub(super) fn viot(args: &ViotArgs) -> Result<(), Failure> {
    write(&args.output, &args.places.viot().encode().map_err(usage)?)
}

/// Edits a device tree.
pub(super) fn dtb(args: &DtbArgs) -> Result<(), Failure> {
    let topology = Topology { iommu: args.places.iommu_at, endpoints: args.places.endpoints.clone() };
    let tree = std::fs::read(&args.input)
        .map_err(|cause| Failure::Runtime(format!("cannot read {}: {cause}; {READABLE}", args.input.display())))?;
    write(&args.output, &topology.edit(&tree).map_err(usage)?)
}

/// Writes a set of tables.
pub(super) fn acpi(args: &AcpiArgs) -> Result<(), Failure> {
    let tables = MicrovmTables { address: args.address, cpus: args.cpus, viot: args.places.viot() };
    write(&args.output, &tables.encode().map_err(usage)?)?;
    print_line(tables.kernel_arguments())
}

fn usage(cause: impl std::fmt::Display) -> Failure {
    Failure::Usage(cause.to_string())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes)
        .map_err(|cause| Failure::Runtime(format!("cannot write {}: {cause}; {WRITABLE}", path.display())))
}

fn parse_address(text: &str) -> Result<u32, String> {
    text.strip_prefix("0x")
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .filter(|address| address % 4096 == 0)
        .ok_or_else(|| format!("{text} is no address of a page below 4 GiB; write it as 0x10000000"))
}
