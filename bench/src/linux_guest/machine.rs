//! A guest with one share behind an IOMMU and one outside it.

use std::path::Path;
use std::time::Duration;

use calgary_tests::vm::{Machine, MachineBuilder};
use calgaryd::attachment;
use calgaryd::config::{IommuConfig, ServeConfig, ShareConfig};
use iommu_calgary::TableSize;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;

use super::load::{self, GUEST_COMMAND, Work};
use crate::failure::Failure;
use crate::measure::{Cores, CpuClock, Sample};
use crate::peers::{Daemon, DaemonOptions};
use crate::scene::Scene;

/// Guest RAM in MiB.
const MEMORY_MIB: u64 = 512;
/// The IOVA window on the daemon's command line; it lies inside RAM.
const WINDOW: &str = "256M";
/// A bound, not an expectation.
const PATIENCE: Duration = Duration::from_secs(120);
/// This program's name in the guest.
const PROGRAM: &str = "calgary-bench";

/// How Linux drives the IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// One identity domain.
    Passthrough,
    /// UNMAPs are put off and batched.
    Lazy,
    /// UNMAPs at once.
    Strict,
}

impl Mode {
    /// Its name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Lazy => "lazy",
            Self::Strict => "strict",
        }
    }

    const fn kernel_arg(self) -> &'static str {
        match self {
            Self::Passthrough => "iommu.passthrough=1",
            Self::Lazy => "iommu.strict=0",
            Self::Strict => "iommu.strict=1",
        }
    }

    const fn domain(self) -> &'static str {
        match self {
            Self::Passthrough => "identity",
            Self::Lazy => "DMA-FQ",
            Self::Strict => "DMA",
        }
    }
}

/// Further arguments for every guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments<'a> {
    /// The kernel's, after those that the guest needs.
    pub(crate) kernel: &'a [String],
    /// QEMU's, after all others.
    pub(crate) qemu: &'a [String],
}

/// The two shares.
pub(crate) const DIRECT: &str = "direct";
pub(crate) const TRANSLATED: &str = "translated";

/// Whose processor time counts.
enum Clock {
    /// The daemon's.
    Daemon(Daemon),
    /// QEMU's without its guest's processor.
    Qemu { process: CpuClock, processor: String },
}

/// A guest that waits for work.
pub(crate) struct Guest {
    name: &'static str,
    machine: Machine,
    clock: Clock,
}

impl Guest {
    /// One on this project's daemon.
    pub(crate) fn on_daemon(
        scene: &Scene<'_>,
        name: &'static str,
        mode: Mode,
        daemon_args: &[String],
        arguments: Arguments<'_>,
    ) -> Result<Self, Failure> {
        let more = [scene.daemon_args, daemon_args].concat();
        let options = DaemonOptions { folder: scene.folder, window: WINDOW, more: &more };
        let daemon = Daemon::start(&options, scene.cores, &scene.place(name)?)?;
        let attachment = attachment::qemu(&attached(&daemon, scene.folder), MEMORY_MIB)
            .map_err(|cause| Failure::wrong(name, cause.to_string()))?;
        let machine = boot(scene, name, mode, arguments, |machine| machine.attachment(attachment))?;
        Ok(Self { name, machine, clock: Clock::Daemon(daemon) })
    }

    /// One on QEMU's own virtio-9p and virtio-iommu.
    pub(crate) fn on_qemu(
        scene: &Scene<'_>,
        name: &'static str,
        mode: Mode,
        arguments: Arguments<'_>,
    ) -> Result<Self, Failure> {
        let devices = |machine: MachineBuilder| machine.own_devices(scene.folder, "passthrough");
        let machine = boot(scene, name, mode, arguments, devices)?;
        let (processor, _) = processor(name, &machine)?;
        let process = CpuClock::of_process(machine.pid().unsigned_abs())?;
        Ok(Self { name, machine, clock: Clock::Qemu { process, processor } })
    }

    /// Does the work once on one of the shares, freshly mounted.
    pub(crate) fn sample(&self, work: Work, share: &str) -> Result<Sample, Failure> {
        let run =
            |command: &str| self.machine.check(command).map_err(|cause| Failure::wrong(self.name, cause.to_string()));
        let folder = format!("/mnt/{share}");
        run(&format!("mount_tag {share} {folder} cache={}", work.cache()))?;
        let before = self.cpu()?;
        let said = run(&format!("{PROGRAM} {GUEST_COMMAND} {} {folder}", work.name()))?;
        let cpu = self.cpu()?.saturating_sub(before);
        run(&format!("umount {folder}"))?;
        let (operations, wall) =
            load::parse(&said).ok_or_else(|| Failure::wrong(self.name, format!("the load said {said:?}")))?;
        Ok(Sample { operations, wall, cpu })
    }

    /// The server's name in reports.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Mounts the share behind the IOMMU, to be left alone.
    pub(crate) fn mount_for_idling(&self) -> Result<(), Failure> {
        let mounted = self.machine.check(&format!("mount_tag {TRANSLATED} /mnt/{TRANSLATED} cache=none"));
        mounted.map(|_| ()).map_err(|cause| Failure::wrong(self.name, cause.to_string()))
    }

    /// Processor time of the server.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        match &self.clock {
            Clock::Daemon(daemon) => daemon.server.cpu(),
            Clock::Qemu { process, processor } => {
                let all = process.read()?;
                let text = std::fs::read_to_string(processor)
                    .map_err(|cause| Failure::system("read the time of the guest's processor", cause))?;
                let guest = text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
                Ok(all.saturating_sub(Duration::from_nanos(guest)))
            }
        }
    }
}

/// The daemon's shares as its command line has them.
fn attached(daemon: &Daemon, folder: &Path) -> ServeConfig {
    let place = |text: &str| text.parse().expect("a PCI address");
    let share = |tag: &str, socket: &Path, at: &str, iommu| {
        let share = ShareConfig::new(tag.parse().expect("a mount tag"), folder, socket);
        share.over(daemon.transport).at(place(at), iommu)
    };
    ServeConfig {
        iommu: Some(IommuConfig {
            socket: daemon.iommu.clone(),
            transport: daemon.transport,
            at: place("00:05.0"),
            window: TableSize::MiB256,
            boot_bypass: false,
            reserved: Vec::new(),
        }),
        shares: vec![
            share(TRANSLATED, &daemon.translated, "00:06.0", true),
            share(DIRECT, &daemon.direct, "00:07.0", false),
        ],
        ..ServeConfig::default()
    }
}

/// Boots a guest whose processor runs where clients do, and the rest of whose QEMU runs where servers do.
fn boot(
    scene: &Scene<'_>,
    name: &'static str,
    mode: Mode,
    arguments: Arguments<'_>,
    devices: impl FnOnce(MachineBuilder) -> MachineBuilder,
) -> Result<Machine, Failure> {
    let programs = scene.programs.ok_or_else(|| Failure::wrong(name, "a guest needs QEMU; leave --no-peers out"))?;
    let wrong = |cause: &dyn std::fmt::Display| Failure::wrong(name, cause.to_string());
    let own = std::env::current_exe().map_err(|cause| Failure::system("find this program", cause))?;
    let builder = Machine::builder(programs.bundle())
        .memory_mib(512)
        .kernel_arg(mode.kernel_arg())
        .guest_program(PROGRAM, own)
        .patience(PATIENCE);
    let builder = arguments.kernel.iter().fold(builder, MachineBuilder::kernel_arg);
    scene.cores.enter_server()?;
    let machine = devices(builder).extra_args(arguments.qemu).spawn();
    scene.cores.enter_client()?;
    let machine = machine.map_err(|cause| wrong(&cause))?;
    let (_, thread) = processor(name, &machine)?;
    pin(thread, scene.cores)?;
    machine.wait_ready().map_err(|cause| wrong(&cause))?;
    machine.check(". /guest/lib.sh").map_err(|cause| wrong(&cause))?;
    // A guest whose IOMMU is not driven as it was told to would measure something else.
    let command = "device=$(device_of translated); echo $(translated $device) $(domain_of $device)";
    let found = machine.check(command).map_err(|cause| wrong(&cause))?;
    let expected = format!("yes {}", mode.domain());
    if found == expected {
        Ok(machine)
    } else {
        Err(wrong(&format!("the guest's IOMMU is {found:?}, not {expected:?}")))
    }
}

/// Where the time of the guest's processor is told, and its thread.
fn processor(name: &'static str, machine: &Machine) -> Result<(String, Pid), Failure> {
    let answer = machine.qmp("query-cpus-fast", &serde_json::Value::Null);
    let answer = answer.map_err(|cause| Failure::wrong(name, cause.to_string()))?;
    let thread = answer[0]["thread-id"].as_i64().and_then(|thread| i32::try_from(thread).ok());
    let thread = thread.and_then(Pid::from_raw).ok_or_else(|| Failure::wrong(name, "QEMU names no processor"))?;
    Ok((format!("/proc/{}/task/{thread}/schedstat", machine.pid()), thread))
}

fn pin(thread: Pid, cores: Cores) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    set.set(cores.client);
    sched_setaffinity(Some(thread), &set).map_err(|cause| Failure::system("place the guest's processor", cause))
}
