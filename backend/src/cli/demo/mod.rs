//! `calgaryd demo`: the main job in one command.

mod folder;
mod linux;
mod progress;
mod report;
mod user_space;

use std::path::PathBuf;

use frontend_spec::attach::QemuMachine;
use frontend_spec::pci::Bdf;
use iommu_calgary::TableSize;

use self::folder::DemoFolder;
use self::progress::Steps;
use self::report::Report;
use super::{Failure, print, print_line};
use crate::config::{AddressRange, IommuConfig, ServeConfig, ShareConfig};
use crate::daemon::{Daemon, Signals};
use crate::transport::TransportKind;

/// Boot Linux with one folder shared twice, behind the IOMMU and outside it, verify what it reads and writes, and report
/// what isolation costs.
///
/// Needs no root and no KVM: it fetches a private QEMU and a guest kernel as Debian packages into the user's cache folder
/// ($CALGARY_CACHE, or calgaryd under $XDG_CACHE_HOME or ~/.cache). Exit status 0 means that everything verified.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Use the project's user-space guest instead of Linux: no download, no QEMU, a few seconds.
    #[arg(long)]
    no_vm: bool,

    /// Print one JSON object instead of text. Throughputs are in 10^6 bytes per second; price_of_safety is mbps_iommu
    /// divided by mbps_direct, so 1 means that isolation is free.
    #[arg(long)]
    json: bool,

    /// MiB to write and to read through each share.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=256))]
    size: u32,

    /// What the guest's side speaks on the sockets: vhost-user or vfio-user.
    #[arg(long, value_name = "PROTOCOL", default_value_t)]
    transport: TransportKind,

    /// What QEMU emulates: q35, microvm (virtio-mmio devices, no PCI), virt-aarch64 (the same with a device tree) or
    /// virt-aarch64-pci. The last two fetch another QEMU and kernel.
    #[arg(long, value_name = "MACHINE", default_value_t, conflicts_with = "no_vm")]
    machine: QemuMachine,

    /// Guest kernel image, to be booted with the QEMU (10.2 or later) in PATH instead of fetched packages; needs
    /// --modules.
    #[arg(long, value_name = "FILE", requires = "modules", conflicts_with = "no_vm")]
    kernel: Option<PathBuf>,

    /// The folder /lib/modules/VERSION of that kernel.
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,

    /// Let the guest use KVM instead of emulation.
    #[arg(long, conflicts_with = "no_vm")]
    kvm: bool,
}

/// Tag of the share behind the IOMMU.
const TRANSLATED: &str = "translated";
/// Tag of the share outside it.
const DIRECT: &str = "direct";

/// What the daemon and the guest must agree on so that every IOVA is an address of the guest's RAM.
struct Layout {
    /// IOVA space of each domain.
    window: TableSize,
    /// Where there is no RAM.
    reserved: Vec<AddressRange>,
    /// Guest RAM in MiB.
    memory_mib: u64,
}

impl Layout {
    fn of(machine: QemuMachine) -> Self {
        match machine.ram_start() {
            0 => Self { window: TableSize::MiB256, reserved: Vec::new(), memory_mib: 512 },
            // RAM up to the end of the largest window; what the guest does not touch costs nothing.
            start => Self {
                window: TableSize::GiB4,
                reserved: vec![AddressRange { first: 0, last: start - 1 }],
                memory_mib: ((4 << 30) - start) >> 20,
            },
        }
    }
}

/// What both guests need: a folder, and a daemon that serves it twice.
struct Stage {
    folder: DemoFolder,
    daemon: Daemon,
    config: ServeConfig,
    size_mib: u32,
}

impl Stage {
    fn set(args: &Args, iommu_at: Bdf, slots: [Bdf; 2]) -> Result<Self, Failure> {
        let (size_mib, transport) = (args.size, args.transport);
        let Layout { window, reserved, .. } = Layout::of(args.machine);
        let folder = DemoFolder::new(size_mib).map_err(|cause| Failure::Runtime(format!("cannot set up: {cause}")))?;
        let share = |tag: &str, at: Bdf, iommu: bool| {
            let name = tag.parse().map_err(|cause| Failure::Runtime(format!("tag {tag}: {cause}")))?;
            let share = ShareConfig::new(name, folder.shared(), folder.socket(tag)).over(transport);
            Ok::<_, Failure>(share.at(at, iommu))
        };
        let socket = folder.socket("iommu");
        let iommu = IommuConfig { socket, transport, at: iommu_at, window, boot_bypass: false, reserved };
        let shares = vec![share(TRANSLATED, slots[0], true)?, share(DIRECT, slots[1], false)?];
        let config = ServeConfig { iommu: Some(iommu), shares, ..ServeConfig::default() };
        let daemon = Daemon::start(&config, Signals::Leave).map_err(|cause| Failure::Runtime(cause.to_string()))?;
        Ok(Self { folder, daemon, config, size_mib })
    }
}

/// Runs the demo.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let steps = Steps::new();
    let slot = |device| Bdf::new(0, device, 0).map_err(|cause| Failure::Runtime(cause.to_string()));
    let stage = Stage::set(args, slot(5)?, [slot(6)?, slot(7)?])?;
    let outcome = if args.no_vm { user_space::run(&stage, &steps) } else { linux::run(&stage, args, &steps) };
    steps.finish();
    let report = outcome.map_err(Failure::Runtime)?;
    if args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|cause| Failure::Runtime(cause.to_string()))?;
        print_line(text)?;
    } else {
        print(&report)?;
    }
    if report.verified { Ok(()) } else { Err(Failure::Runtime(report.problems.join("; "))) }
}

/// Adds what the daemon counted to a guest's report.
fn finish(mut report: Report, stage: &Stage, ring_mappings: u64) -> Report {
    if let Some(iommu) = stage.daemon.iommu() {
        let stats = iommu.stats().snapshot();
        report.maps = stats.maps;
        report.unmaps = stats.unmaps;
        report.iommu_requests_per_batch = report::ratio(stats.ok + stats.refused, stats.batches);
        report.faults = iommu.faults().recorded();
        report.live_mappings = iommu.live_mappings();
    }
    if let Some(share) = stage.daemon.share(TRANSLATED) {
        let stats = share.stats();
        report.ninep_requests_per_kick = report::ratio(stats.requests, stats.kicks);
    }
    report.ring_mappings = ring_mappings;
    report.judge();
    report
}
