//! The machine's configuration and the QEMU command line made from it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use frontend_spec::attach::{AttachError, QemuAttachment, QemuMachine};

use super::bundle::Bundle;
use super::failure::MachineError;
use super::initramfs::Initramfs;
use super::machine::Machine;
use super::program;
use super::scenario::Scenario;
use super::tsc;

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accel {
    /// Emulation: needs nothing, and is tens of times slower than the processor.
    #[default]
    Tcg,
    /// `/dev/kvm`.
    Kvm,
}

/// Where a machine's own files are.
#[derive(Debug, Clone)]
pub(super) struct MachineFiles {
    pub(super) initramfs: PathBuf,
    pub(super) qmp: PathBuf,
    pub(super) topology: Option<PathBuf>,
}

/// Describes a [`Machine`].
#[derive(Debug, Clone)]
#[must_use]
pub struct MachineBuilder {
    pub(super) bundle: Bundle,
    pub(super) scenario: Scenario,
    pub(super) then_commands: bool,
    pub(super) modules: Option<Vec<String>>,
    pub(super) guest_files: Vec<(String, u32, Vec<u8>)>,
    programs: Vec<(String, PathBuf)>,
    pub(super) attachment: Option<QemuAttachment>,
    pub(super) patience: Duration,
    accel: Accel,
    memory_mib: u32,
    cpus: u8,
    reboot: bool,
    tags: Vec<String>,
    kernel_args: Vec<String>,
    extra_args: Vec<OsString>,
}

impl MachineBuilder {
    pub(super) fn new(bundle: &Bundle) -> Self {
        Self {
            bundle: bundle.clone(),
            scenario: Scenario::default(),
            then_commands: false,
            modules: None,
            guest_files: Vec::new(),
            programs: Vec::new(),
            attachment: None,
            patience: Duration::from_secs(120),
            accel: Accel::default(),
            memory_mib: 512,
            cpus: 1,
            reboot: false,
            tags: Vec::new(),
            kernel_args: Vec::new(),
            extra_args: Vec::new(),
        }
    }

    /// What the guest does after it has booted; [`Scenario::Commands`] if not set. After any other scenario the guest
    /// powers off, unless [`Self::then_commands`] is set.
    pub fn scenario(mut self, scenario: Scenario) -> Self {
        self.scenario = scenario;
        self
    }

    /// After the scenario the guest waits for commands instead of powering off.
    pub fn then_commands(mut self) -> Self {
        self.then_commands = true;
        self
    }

    /// A 9P mount tag that the guest waits for before its scenario, and that the scenario uses.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The devices of a daemon, and the memory that it shares; the daemon must listen before [`Self::spawn`]. The guest
    /// gets the topology as a VIOT and waits for the tags before its scenario. The options are those that
    /// `calgaryd attach qemu` prints.
    pub fn attachment(mut self, attachment: QemuAttachment) -> Self {
        self.tags.extend(attachment.shares.iter().map(|share| share.tag.to_string()));
        self.attachment = Some(attachment);
        self
    }

    /// An argument of the kernel; comes after ours, so that it can override them.
    pub fn kernel_arg(mut self, arg: impl Into<String>) -> Self {
        self.kernel_args.push(arg.into());
        self
    }

    /// The modules to load, in this order, instead of [`DEFAULT_MODULES`](super::DEFAULT_MODULES).
    pub fn modules<S: Into<String>>(mut self, modules: impl IntoIterator<Item = S>) -> Self {
        self.modules = Some(modules.into_iter().map(Into::into).collect());
        self
    }

    /// A file in the guest's root.
    pub fn guest_file(mut self, path: impl Into<String>, permissions: u32, data: impl Into<Vec<u8>>) -> Self {
        self.guest_files.push((path.into(), permissions, data.into()));
        self
    }

    /// A program of the host, in the guest's `PATH` as `name`. It comes with the loader and the libraries that the host
    /// would run it with, so that it need not be static; it finds none of its other files.
    pub fn guest_program(mut self, name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.programs.push((name.into(), path.into()));
        self
    }

    /// Size of the guest's memory in MiB; 512 if not set. An [attachment](Self::attachment) has its own.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Number of the guest's processors; 1 if not set.
    pub fn cpus(mut self, cpus: u8) -> Self {
        self.cpus = cpus;
        self
    }

    /// [`Accel::Tcg`] if not set.
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = accel;
        self
    }

    /// Lets a guest that reboots (or panics) start again; otherwise QEMU exits.
    pub fn allow_reboot(mut self) -> Self {
        self.reboot = true;
        self
    }

    /// How long to wait for the guest before something is taken for broken; 120 s if not set. A bound, not an
    /// expectation: emulation on a busy machine is slow.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Further arguments of QEMU, as they are.
    pub fn extra_args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.extra_args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Starts the machine and returns once QEMU answers on QMP; the guest is booting then.
    ///
    /// # Errors
    /// [`MachineError`]; if QEMU exits, with what it said.
    pub fn spawn(self) -> Result<Machine, MachineError> {
        Machine::start(self)
    }

    pub(super) fn initramfs(&self) -> Result<Initramfs, MachineError> {
        let mut initramfs = match &self.modules {
            None => Initramfs::new(&self.bundle)?,
            Some(modules) => {
                Initramfs::with_modules(&self.bundle, &modules.iter().map(String::as_str).collect::<Vec<_>>())?
            }
        };
        initramfs.scenario(&self.scenario);
        for (path, permissions, data) in &self.guest_files {
            initramfs.file(path, *permissions, data);
        }
        for (name, path) in &self.programs {
            let files = program::files(name, path).map_err(|cause| {
                MachineError::Configuration(format!("{} cannot run in the guest: {cause}", path.display()))
            })?;
            for file in files {
                initramfs.file(&file.path, 0o755, &file.data);
            }
        }
        Ok(initramfs)
    }

    /// The kernel's command line.
    pub(super) fn kernel_command_line(&self) -> String {
        let machine = self.machine();
        let mut args: Vec<String> = vec![format!("console={}", machine.console())];
        args.extend(
            ["quiet", "loglevel=1", "panic=-1", "mitigations=off", "nokaslr", "tsc=reliable"].map(str::to_owned),
        );
        if machine == QemuMachine::Microvm {
            // There is no other clock, and a busy host spoils the calibration against the interval timer.
            args.push(format!("tsc_early_khz={}", tsc::kilohertz()));
        }
        if !self.tags.is_empty() {
            args.push(format!("calgary.tags={}", self.tags.join(",")));
        }
        if self.then_commands {
            args.push("calgary.then=commands".to_owned());
        }
        args.extend(self.kernel_args.iter().cloned());
        args.join(" ")
    }

    /// QEMU's arguments, without those of [`QemuCommand`](super::QemuCommand).
    ///
    /// # Errors
    /// The attachment does not fit the machine.
    pub(super) fn command_line(&self, files: &MachineFiles) -> Result<Vec<OsString>, AttachError> {
        let mut args = Arguments::default();
        args.pair(
            "-accel",
            match self.accel {
                Accel::Tcg => "tcg,thread=multi",
                Accel::Kvm => "kvm",
            },
        );
        args.cpu(self.machine(), self.accel);
        args.flag("-nodefaults").flag("-no-user-config").pair("-display", "none");
        if !self.reboot {
            args.flag("-no-reboot");
        }
        let attachment = match &self.attachment {
            Some(attachment) => QemuAttachment { topology_file: files.topology.clone(), ..attachment.clone() },
            None => QemuAttachment { memory_mib: u64::from(self.memory_mib), ..QemuAttachment::default() },
        };
        let attachment = QemuAttachment { cpus: self.cpus, ..attachment };
        args.0.extend(attachment.args()?.to_vec().into_iter().map(OsString::from));
        args.pair("-chardev", "stdio,id=console,signal=off").pair("-serial", "chardev:console");
        args.path("-qmp", "unix:", &files.qmp, ",server=on,wait=off");
        args.pair("-kernel", &self.bundle.kernel).pair("-initrd", &files.initramfs);
        let own = attachment.kernel_arguments().unwrap_or_default();
        args.pair("-append", format!("{} {own}", self.kernel_command_line()).trim_end());
        args.0.extend(self.extra_args.iter().cloned());
        Ok(args.0)
    }

    pub(super) fn cpu_count(&self) -> u8 {
        self.cpus
    }

    /// What QEMU emulates.
    pub(super) fn machine(&self) -> QemuMachine {
        self.attachment.as_ref().map(|attachment| attachment.machine).unwrap_or_default()
    }

    /// Arguments that make QEMU write the device tree of this machine to `file` and exit.
    pub(super) fn dump_tree_args(&self, file: &Path) -> Vec<OsString> {
        let mut args = Arguments::default();
        args.pair("-accel", "tcg").flag("-nodefaults").pair("-display", "none").cpu(self.machine(), self.accel);
        let memory = self.attachment.as_ref().map_or(u64::from(self.memory_mib), |attachment| attachment.memory_mib);
        args.pair("-m", format!("{memory}M")).pair("-smp", self.cpus.to_string());
        args.path("-M", &format!("{},dumpdtb=", self.machine().option()), file, "");
        args.0
    }

    /// What QEMU or the guest's scripts would misunderstand.
    pub(super) fn check(&self) -> Result<(), MachineError> {
        let plain =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if let Some(tag) = self.tags.iter().find(|tag| !plain(tag)) {
            return Err(MachineError::Configuration(format!(
                "the mount tag {tag:?} must be letters, digits, '-', '_', '.'"
            )));
        }
        if let Some(arg) = self.kernel_args.iter().find(|arg| arg.contains(['\n', '\0'])) {
            return Err(MachineError::Configuration(format!("the kernel argument {arg:?} must be one line")));
        }
        Ok(())
    }
}

/// A list of arguments.
#[derive(Default)]
pub(super) struct Arguments(pub(super) Vec<OsString>);

impl Arguments {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.into());
        self
    }

    pub(super) fn pair(&mut self, flag: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.0.extend([OsStr::new(flag), value.as_ref()].map(OsStr::to_owned));
        self
    }

    fn cpu(&mut self, machine: QemuMachine, accel: Accel) -> &mut Self {
        match (accel, machine.is_aarch64()) {
            (Accel::Kvm, _) => self.pair("-cpu", "host"),
            // The plainest one is the quickest to emulate.
            (Accel::Tcg, true) => self.pair("-cpu", "cortex-a53"),
            (Accel::Tcg, false) => self,
        }
    }

    /// Options around a path, in which QEMU wants every comma doubled.
    pub(super) fn path(&mut self, flag: &str, before: &str, path: &Path, after: &str) -> &mut Self {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        let mut value = before.as_bytes().to_vec();
        for byte in path.as_os_str().as_bytes() {
            value.extend(std::iter::repeat_n(*byte, if *byte == b',' { 2 } else { 1 }));
        }
        value.extend_from_slice(after.as_bytes());
        self.pair(flag, OsString::from_vec(value))
    }
}

#[cfg(test)]
mod tests {
    use frontend_spec::TransportKind;
    use frontend_spec::attach::{IommuDevice, ShareDevice};

    use super::super::qemu::{QemuCommand, QemuVersion};
    use super::*;

    fn builder() -> MachineBuilder {
        let qemu =
            QemuCommand { program: "qemu".into(), leading_args: vec![], env: vec![], version: QemuVersion::OLDEST };
        let path = |name: &str| PathBuf::from(name);
        MachineBuilder::new(&Bundle {
            qemu,
            kernel: path("/b/vmlinuz"),
            modules: path("/b/modules"),
            guest_root: path("/b/root"),
            cache: None,
        })
    }

    fn attachment(at: &str) -> QemuAttachment {
        let share = ShareDevice {
            socket: "/run/9p,1.sock".into(),
            transport: TransportKind::VhostUser,
            tag: "share".parse().unwrap(),
            at: at.parse().unwrap(),
            iommu: true,
        };
        let iommu = IommuDevice {
            socket: "/run/iommu.sock".into(),
            transport: TransportKind::VhostUser,
            at: "00:05.0".parse().unwrap(),
            window: "256M".parse().unwrap(),
        };
        QemuAttachment { iommu: Some(iommu), shares: vec![share], memory_mib: 512, ..QemuAttachment::default() }
    }

    fn line(builder: &MachineBuilder) -> String {
        let files =
            MachineFiles { initramfs: "/t/initramfs".into(), qmp: "/t/q,mp".into(), topology: Some("/t/viot".into()) };
        let args: Vec<_> =
            builder.command_line(&files).unwrap().into_iter().map(|arg| arg.into_string().unwrap()).collect();
        args.join("\n")
    }

    #[test]
    fn the_command_line_is_the_one_that_a_daemon_needs() {
        let line = line(&builder().attachment(attachment("00:0c.0")).extra_args(["-device", "x"]));
        let expected = "\
-accel
tcg,thread=multi
-nodefaults
-no-user-config
-display
none
-no-reboot
-object
memory-backend-memfd,id=mem,size=512M,share=on
-M
q35,memory-backend=mem
-m
512M
-smp
1
-acpitable
file=/t/viot
-chardev
socket,id=viommu,path=/run/iommu.sock
-device
vhost-user-test-device-pci,chardev=viommu,virtio-id=23,num_vqs=2,vq_size=512,config_size=40,addr=05.0
-chardev
socket,id=share0,path=/run/9p,,1.sock
-device
vhost-user-test-device-pci,chardev=share0,virtio-id=9,num_vqs=1,vq_size=512,config_size=7,addr=0c.0,iommu_platform=on
-chardev
stdio,id=console,signal=off
-serial
chardev:console
-qmp
unix:/t/q,,mp,server=on,wait=off
-kernel
/b/vmlinuz
-initrd
/t/initramfs
-append
console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off nokaslr tsc=reliable calgary.tags=share
-device
x";
        assert_eq!(line, expected);
    }

    #[test]
    fn options_change_the_command_line() {
        let line = line(&builder().accel(Accel::Kvm).memory_mib(1024).cpus(2).allow_reboot().kernel_arg("loglevel=7"));
        for part in ["-accel\nkvm\n-cpu\nhost\n", "size=1024M", "-smp\n2\n", "tsc=reliable loglevel=7"] {
            assert!(line.contains(part), "{part:?} is missing in {line}");
        }
        assert!(!line.contains("-no-reboot"));
    }

    #[test]
    fn devices_of_qemu_are_one_iommu_and_two_shares() {
        let line = line(&builder().own_devices(Path::new("/srv/a,b"), "none"));
        for part in [
            "-device\nvirtio-iommu-pci,addr=4",
            "-fsdev\nlocal,id=direct,path=/srv/a,,b,security_model=none,multidevs=remap",
            "-device\nvirtio-9p-pci,fsdev=direct,mount_tag=direct,addr=5\n",
            "virtio-9p-pci,fsdev=translated,mount_tag=translated,addr=6,iommu_platform=on,disable-legacy=on",
            "calgary.tags=direct,translated",
        ] {
            assert!(line.contains(part), "{part:?} is missing in {line}");
        }
    }

    #[test]
    fn what_qemu_would_misread_is_refused() {
        assert!(builder().tag("calgary0").check().is_ok());
        assert!(builder().tag("a,b").check().is_err());
        assert!(builder().tag("a b").check().is_err());
        assert!(builder().kernel_arg("a\nb").check().is_err());
    }
}
