//! `calgaryd attach`.

use std::path::{Path, PathBuf};

use frontend_spec::attach::{QemuAttachment, QemuMachine, shell_word};

use super::serve::DeviceArgs;
use super::{Failure, print_line};
use crate::attachment;

/// Print the VMM's command line for the same devices that `serve` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    vmm: Vmm,
}

#[derive(Debug, clap::Subcommand)]
enum Vmm {
    /// QEMU 10.2 or later: the commands that write the topology and start it; paste them into a shell.
    ///
    /// QEMU's serial port is the terminal.
    Qemu(QemuArgs),
    /// crosvm; shares outside the IOMMU. SPEC.md section 15 says what works with which VMM.
    Crosvm(VmmArgs),
    /// cloud-hypervisor; shares over vfio-user, outside the IOMMU. SPEC.md section 15 says what works with which VMM.
    CloudHypervisor(VmmArgs),
    /// A libvirt domain with QEMU 10.2 or later. SPEC.md section 15 says what works with which VMM.
    Libvirt(VmmArgs),
}

/// What the VMMs other than QEMU are told.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
struct VmmArgs {
    #[command(flatten)]
    devices: DeviceArgs,

    /// Guest RAM in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u64,

    /// Processors of the guest.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    cpus: u8,

    /// Absolute path of the file that `calgaryd viot` wrote; needed by libvirt behind the IOMMU.
    #[arg(long, value_name = "FILE", default_value = "/etc/calgaryd/viot.bin")]
    topology: PathBuf,

    /// Guest kernel.
    #[arg(long, value_name = "FILE", default_value = "vmlinux")]
    kernel: PathBuf,
}

/// What QEMU is told.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
struct QemuArgs {
    #[command(flatten)]
    devices: DeviceArgs,

    /// What QEMU emulates: q35, microvm (virtio-mmio devices, no PCI), virt-aarch64 (the same with a device tree) or
    /// virt-aarch64-pci.
    #[arg(long, value_name = "MACHINE", default_value_t)]
    machine: QemuMachine,

    /// What executes the guest's instructions: kvm, tcg (emulation), or auto, which is KVM where /dev/kvm can be opened.
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Accel::Auto)]
    accel: Accel,

    /// Guest RAM in MiB; with vhost-user the window must fit below its end.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u64,

    /// Processors of the guest.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    cpus: u8,

    /// File for the topology, written by the commands printed: a VIOT, or what the machine takes instead.
    #[arg(long, visible_alias = "viot", value_name = "FILE", default_value = "viot.bin")]
    topology: PathBuf,

    /// Guest kernel; without it QEMU starts what a disk of yours has.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Initial RAM disk of that kernel.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,

    /// More for that kernel's command line.
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    append: Option<String>,
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Accel {
    Auto,
    Kvm,
    Tcg,
}

impl Accel {
    const fn options(self) -> &'static str {
        match self {
            Self::Auto => "-accel kvm -accel tcg",
            Self::Kvm => "-accel kvm",
            Self::Tcg => "-accel tcg",
        }
    }
}

impl Args {
    /// The VMM's name, as the command line has it.
    pub(super) fn vmm(&self) -> &'static str {
        match &self.vmm {
            Vmm::Qemu(_) => "qemu",
            Vmm::Crosvm(_) => "crosvm",
            Vmm::CloudHypervisor(_) => "cloud-hypervisor",
            Vmm::Libvirt(_) => "libvirt",
        }
    }

    /// The file that says more.
    pub(super) fn config_file(&self) -> Option<&Path> {
        let devices = match &self.vmm {
            Vmm::Qemu(qemu) => &qemu.devices,
            Vmm::Crosvm(vmm) | Vmm::CloudHypervisor(vmm) | Vmm::Libvirt(vmm) => &vmm.devices,
        };
        devices.config.as_deref()
    }
}

/// Prints the commands.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let text = match &args.vmm {
        Vmm::Qemu(qemu) => commands(qemu),
        Vmm::Crosvm(vmm) => crosvm(vmm),
        Vmm::CloudHypervisor(vmm) => cloud_hypervisor(vmm),
        Vmm::Libvirt(vmm) => libvirt(vmm),
    };
    print_line(text.map_err(Failure::Usage)?)
}

/// What the devices of `vmm` look like on a q35 machine, which those of other VMMs resemble.
fn attachment_of(vmm: &VmmArgs) -> Result<QemuAttachment, String> {
    let config = vmm.devices.config()?;
    config.validate().map_err(|cause| cause.to_string())?;
    let mut attachment = attachment::qemu(&config, vmm.memory).map_err(|cause| cause.to_string())?;
    attachment.cpus = vmm.cpus;
    let behind = attachment.topology().is_some_and(|topology| !topology.endpoints.is_empty());
    attachment.topology_file = behind.then(|| vmm.topology.clone());
    Ok(attachment)
}

fn crosvm(vmm: &VmmArgs) -> Result<String, String> {
    let args = attachment_of(vmm)?.crosvm_args().map_err(|cause| cause.to_string())?;
    Ok(format!("crosvm run \\\n{args} \\\n{}", shell_word(&plain(&vmm.kernel)?)))
}

fn cloud_hypervisor(vmm: &VmmArgs) -> Result<String, String> {
    let mut args = attachment_of(vmm)?.cloud_hypervisor_args().map_err(|cause| cause.to_string())?;
    args.push("--kernel", plain(&vmm.kernel)?);
    args.push("--cmdline", "console=hvc0".to_owned());
    Ok(format!("cloud-hypervisor \\\n{args}"))
}

fn libvirt(vmm: &VmmArgs) -> Result<String, String> {
    let kernel = plain(&vmm.kernel)?;
    attachment_of(vmm)?.libvirt_domain(Some(&kernel)).map_err(|cause| cause.to_string())
}

fn commands(qemu: &QemuArgs) -> Result<String, String> {
    let config = qemu.devices.config()?;
    config.validate().map_err(|cause| cause.to_string())?;
    let mut attachment =
        attachment::qemu_machine(&config, qemu.machine, qemu.memory).map_err(|cause| cause.to_string())?;
    attachment.cpus = qemu.cpus;
    let behind = attachment.topology().is_some_and(|topology| !topology.endpoints.is_empty());
    attachment.topology_file = behind.then(|| qemu.topology.clone());
    let mut options = attachment.args().map_err(|cause| cause.to_string())?;
    let mut lines = topology_commands(&attachment, qemu.accel)?;
    let arguments = attachment.kernel_arguments();
    match &qemu.kernel {
        Some(kernel) => {
            options.push("-kernel", plain(kernel)?);
            if let Some(initrd) = &qemu.initrd {
                options.push("-initrd", plain(initrd)?);
            }
            let console = format!("console={}", qemu.machine.console());
            let words = [Some(console), arguments, qemu.append.clone()];
            options.push("-append", words.into_iter().flatten().collect::<Vec<_>>().join(" "));
        }
        None => {
            if let Some(arguments) = arguments {
                lines.insert(0, format!("# The guest kernel's command line must hold: {arguments}"));
            }
        }
    }
    let (program, accel) = (qemu.machine.program(), qemu.accel.options());
    lines.push(format!("{program} -nodefaults -display none -serial stdio {accel} -cpu max \\\n{options}"));
    Ok(lines.join("\n"))
}

/// What must be run before QEMU.
fn topology_commands(attachment: &QemuAttachment, accel: Accel) -> Result<Vec<String>, String> {
    let (Some(topology), Some(file)) = (attachment.topology(), &attachment.topology_file) else {
        return Ok(Vec::new());
    };
    let file = plain(file)?;
    let output = shell_word(&file);
    let mut places = format!("--iommu-at {}", topology.iommu);
    for endpoint in topology.endpoints {
        places += &format!(" --endpoint {endpoint}");
    }
    let machine = attachment.machine;
    Ok(match (machine, attachment.microvm_tables()) {
        (QemuMachine::Microvm, Some(tables)) => vec![format!(
            "calgaryd acpi {places} --cpus {} --address {:#x} --output {output} &&",
            tables.cpus, tables.address
        )],
        (QemuMachine::Q35 | QemuMachine::Microvm, _) => vec![format!("calgaryd viot {places} --output {output} &&")],
        (QemuMachine::VirtAarch64 | QemuMachine::VirtAarch64Pci, _) => {
            let base = format!("{file}.base");
            let dump = format!("{},dumpdtb={}", machine.option(), base.replace(',', ",,"));
            vec![
                format!(
                    "{} -nodefaults -display none {} -cpu max -m {}M -smp {} -M {} &&",
                    machine.program(),
                    accel.options(),
                    attachment.memory_mib,
                    attachment.cpus,
                    shell_word(&dump)
                ),
                format!("calgaryd dtb {places} --input {} --output {output} &&", shell_word(&base)),
            ]
        }
    })
}

fn plain(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        format!("the path {} is not UTF-8 and cannot be written on a command line; rename it", path.display())
    })
}
