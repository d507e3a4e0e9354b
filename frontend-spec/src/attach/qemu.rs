//! The devices as QEMU's `vhost-user-test-device` (QEMU 10.2 or later) or `vfio-user-pci` (QEMU 10.1 or later).

use super::args::{QemuArgs, json_string, qemu_escaped};
use super::machine::QemuMachine;
use crate::{
    ByteSize, TransportKind,
    acpi::MicrovmTables,
    devicetree::Topology,
    iommu,
    ninep::MountTag,
    pci::Bdf,
    viot::Viot,
    virtio::{DEVICE_ID_9P, DEVICE_ID_IOMMU},
};
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

/// Queues of the virtio-iommu: requests and events.
pub const IOMMU_QUEUES: u16 = 2;
/// Entries of each queue of the virtio-iommu. With indirect descriptors it is also the number of requests in flight.
pub const IOMMU_QUEUE_SIZE: u16 = 256;
/// Queues of the virtio-9p.
pub const NINEP_QUEUES: u16 = 1;
/// Entries of the virtio-9p's queue; Linux puts up to 128 scatter entries into a request.
pub const NINEP_QUEUE_SIZE: u16 = 128;

/// `sockaddr_un.sun_path` without its terminator.
const MAX_SOCKET_PATH_BYTES: usize = 107;
const MEMORY_ID: &str = "mem";
const VFIO_USER_DEVICE: &str = "vfio-user-pci";

/// The virtio-iommu of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IommuDevice {
    /// Socket on which the daemon serves it.
    pub socket: PathBuf,
    /// What the daemon speaks there.
    pub transport: TransportKind,
    /// Where the guest finds it.
    pub at: Bdf,
    /// Size of the IOVA window, which starts at 0.
    pub window: ByteSize,
}

/// A virtio-9p of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareDevice {
    /// Socket on which the daemon serves it.
    pub socket: PathBuf,
    /// What the daemon speaks there.
    pub transport: TransportKind,
    /// Name under which the guest mounts it.
    pub tag: MountTag,
    /// Where the guest finds it.
    pub at: Bdf,
    /// Whether the virtio-iommu translates it.
    pub iommu: bool,
}

/// The devices of one guest, all on bus 0 or without a bus.
///
/// Addresses are those of a machine started with `-nodefaults`; otherwise QEMU takes slots for devices of its own.
///
/// # Example
/// ```
/// use frontend_spec::attach::{QemuAttachment, ShareDevice};
/// let attachment = QemuAttachment {
///     iommu: None,
///     shares: vec![ShareDevice {
///         socket: "/run/home.sock".into(),
///         transport: Default::default(),
///         tag: "home".parse().unwrap(),
///         at: "00:06.0".parse().unwrap(),
///         iommu: false,
///     }],
///     memory_mib: 512,
///     ..QemuAttachment::default()
/// };
/// println!("qemu-system-x86_64 \\\n{}", attachment.args().unwrap());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QemuAttachment {
    /// What QEMU emulates.
    pub machine: QemuMachine,
    /// The virtio-iommu, if there is one.
    pub iommu: Option<IommuDevice>,
    /// The shares.
    pub shares: Vec<ShareDevice>,
    /// Guest RAM in MiB.
    pub memory_mib: u64,
    /// Processors of the guest; 0 counts as 1.
    pub cpus: u8,
    /// File that tells the guest the topology: a VIOT, for `microvm` the image of [`QemuAttachment::microvm_tables`], for
    /// aarch64 an edited device tree. Needed if a share is translated.
    pub topology_file: Option<PathBuf>,
}

/// Why devices cannot be attached as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// A device is on another bus than the root bus, or at a slot that the machine lacks or has a device of its own in.
    #[error(
        "{at} is no place for a device on a {machine} machine; choose 00:{:02x}.0 to 00:{:02x}.0, such as 00:06.0",
        .machine.slots().0, .machine.slots().1
    )]
    NoPlace {
        /// The address.
        at: Bdf,
        /// The machine.
        machine: QemuMachine,
    },
    /// vfio-user devices are PCI functions.
    #[error("a {0} machine has no PCI, which vfio-user needs; use vhost-user or another machine")]
    NoPci(QemuMachine),
    /// A device is not function 0.
    #[error("{0} is not function 0 of its slot; give every device a slot of its own, such as 00:06.0 and 00:07.0")]
    NotFunctionZero(Bdf),
    /// Two devices are at one address.
    #[error("two devices are at {0}; give each its own PCI address")]
    SameAddress(Bdf),
    /// Two devices use one socket.
    #[error("two devices use the socket {0:?}; give each its own")]
    SameSocket(PathBuf),
    /// Two shares have one tag.
    #[error("two shares have the mount tag {0}; a guest could mount only one of them, so give each its own")]
    SameTag(MountTag),
    /// A share is to be translated and nothing is there to do so.
    #[error("share {0} is to be translated but there is no virtio-iommu; add one or make the share untranslated")]
    NoIommu(MountTag),
    /// A share is to be translated and the guest is not told.
    #[error("share {0} is to be translated but there is no file with the topology; write it and name it")]
    NoTopology(MountTag),
    /// The IOVA window is not all guest RAM.
    #[error(
        "the IOVA window of {window} exceeds the guest's RAM, which ends at {ram_end} or has a gap there; choose a window of \
         at most that size, change the guest's RAM (a PC puts all of it below 4 GiB up to 2815M, and 2G if it has more; \
         that of an aarch64 machine begins at 1G), or use vfio-user for the shares behind the IOMMU"
    )]
    Window {
        /// The window.
        window: ByteSize,
        /// The end of the guest's RAM.
        ram_end: ByteSize,
    },
    /// The amount of RAM is zero or has no number of bytes.
    #[error("{0} MiB is no amount of guest RAM; give at least 1 and fewer than 2^44")]
    Memory(u64),
    /// A path has no place in a command line.
    #[error("the path {0:?} is empty, holds a NUL or is not UTF-8 and cannot be written on a command line; rename it")]
    Path(PathBuf),
    /// A socket's path exceeds what the system allows.
    #[error(
        "the socket path {0:?} has more than {MAX_SOCKET_PATH_BYTES} bytes, the limit of a UNIX socket; use a shorter one"
    )]
    SocketPath(PathBuf),
}

impl QemuAttachment {
    /// The topology that the guest must be told: the IOMMU and the shares that it translates. `None` without an IOMMU.
    #[must_use]
    pub fn topology(&self) -> Option<Topology> {
        let iommu = self.machine.place(self.iommu.as_ref()?.at);
        Some(Topology { iommu, endpoints: self.translated().map(|share| self.machine.place(share.at)).collect() })
    }

    /// The topology as an ACPI table.
    #[must_use]
    pub fn viot(&self) -> Option<Viot> {
        self.topology().map(|topology| Viot::new(topology.iommu).endpoints(topology.endpoints))
    }

    /// The topology as a `microvm` machine takes it. It lies in the middle of RAM, out of the way of kernel and initial RAM
    /// disk, if that is smaller than half of it.
    #[must_use]
    pub fn microvm_tables(&self) -> Option<MicrovmTables> {
        let ram = self.machine.ram_end(ByteSize::from_bytes(self.memory_mib.saturating_mul(1 << 20)));
        let address = u32::try_from(ram.bytes() / 2).unwrap_or(u32::MAX) & !0xfff;
        self.viot().map(|viot| MicrovmTables { address, cpus: self.cpus.max(1), viot })
    }

    /// What the guest kernel's command line must hold besides what is the user's.
    #[must_use]
    pub fn kernel_arguments(&self) -> Option<String> {
        let tables = self.microvm_tables().filter(|_| self.machine == QemuMachine::Microvm)?;
        self.topology_file.as_ref().map(|_| tables.kernel_arguments())
    }

    /// The options that attach the devices.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn args(&self) -> Result<QemuArgs, AttachError> {
        self.check_addresses()?;
        self.check_names()?;
        self.check_translation()?;

        let memory = self.memory_mib;
        let mut args = QemuArgs::default();
        args.push("-object", format!("memory-backend-memfd,id={MEMORY_ID},size={memory}M,share=on"));
        args.push("-M", format!("{},memory-backend={MEMORY_ID}", self.machine.option()));
        args.push("-m", format!("{memory}M"));
        args.push("-smp", self.cpus.max(1).to_string());
        if !self.machine.has_pci() {
            // Virtio 1 on virtio-mmio, without which the driver could not say that it goes through an IOMMU.
            args.push("-global", "virtio-mmio.force-legacy=false".to_owned());
        }
        if let Some(file) = &self.topology_file {
            match (self.machine, self.microvm_tables()) {
                (QemuMachine::Microvm, Some(tables)) => args.push(
                    "-device",
                    format!("loader,file={},addr={:#x},force-raw=on", escaped_path(file)?, tables.address),
                ),
                (QemuMachine::Q35 | QemuMachine::Microvm, _) => {
                    args.push("-acpitable", format!("file={}", escaped_path(file)?));
                }
                (QemuMachine::VirtAarch64 | QemuMachine::VirtAarch64Pci, _) => {
                    args.push("-dtb", plain_path(file)?.to_owned());
                }
            }
        }
        if let Some(device) = &self.iommu {
            let shape = Shape {
                id: DEVICE_ID_IOMMU,
                queues: IOMMU_QUEUES,
                queue_size: IOMMU_QUEUE_SIZE,
                config_size: iommu::Config::SIZE,
            };
            let place = Place { socket: &device.socket, at: device.at, transport: device.transport };
            attach(&mut args, self.machine, "viommu", &place, false, &shape)?;
        }
        for (index, share) in self.shares.iter().enumerate() {
            let shape = Shape {
                id: DEVICE_ID_9P,
                queues: NINEP_QUEUES,
                queue_size: NINEP_QUEUE_SIZE,
                config_size: share.tag.config_size(),
            };
            let place = Place { socket: &share.socket, at: share.at, transport: share.transport };
            attach(&mut args, self.machine, &format!("share{index}"), &place, share.iommu, &shape)?;
        }
        Ok(args)
    }

    fn translated(&self) -> impl Iterator<Item = &ShareDevice> {
        self.shares.iter().filter(|share| share.iommu)
    }

    fn places(&self) -> impl Iterator<Item = (&Path, Bdf)> {
        let iommu = self.iommu.iter().map(|device| (device.socket.as_path(), device.at));
        iommu.chain(self.shares.iter().map(|share| (share.socket.as_path(), share.at)))
    }

    fn check_addresses(&self) -> Result<(), AttachError> {
        let mut seen = HashSet::new();
        for (_, at) in self.places() {
            let (first, last) = self.machine.slots();
            if at.bus() != 0 || !(first..=last).contains(&at.device()) {
                return Err(AttachError::NoPlace { at, machine: self.machine });
            }
            if at.function() != 0 {
                return Err(AttachError::NotFunctionZero(at));
            }
            if !seen.insert(at) {
                return Err(AttachError::SameAddress(at));
            }
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), AttachError> {
        let mut sockets = HashSet::new();
        if let Some((socket, _)) = self.places().find(|(socket, _)| !sockets.insert(*socket)) {
            return Err(AttachError::SameSocket(socket.to_owned()));
        }
        let mut tags = HashSet::new();
        match self.shares.iter().find(|share| !tags.insert(&share.tag)) {
            Some(share) => Err(AttachError::SameTag(share.tag.clone())),
            None => Ok(()),
        }
    }

    fn check_translation(&self) -> Result<(), AttachError> {
        let ram = self
            .memory_mib
            .checked_mul(1 << 20)
            .filter(|&bytes| bytes > 0)
            .map(ByteSize::from_bytes)
            .ok_or(AttachError::Memory(self.memory_mib))?;
        let mut transports = self.iommu.iter().map(|device| device.transport);
        let vfio_user = transports.any(|transport| transport == TransportKind::VfioUser)
            || self.shares.iter().any(|share| share.transport == TransportKind::VfioUser);
        if vfio_user && !self.machine.has_pci() {
            return Err(AttachError::NoPci(self.machine));
        }
        let Some(share) = self.translated().next() else { return Ok(()) };
        let device = self.iommu.as_ref().ok_or_else(|| AttachError::NoIommu(share.tag.clone()))?;
        if self.topology_file.is_none() {
            return Err(AttachError::NoTopology(share.tag.clone()));
        }
        // With vhost-user QEMU takes a translated device's ring addresses for guest RAM, so every IOVA must be an address of
        // RAM too.
        let ram_end = self.machine.ram_end(ram);
        let vhost_user = self.translated().any(|share| share.transport == TransportKind::VhostUser);
        if vhost_user && device.window > ram_end {
            return Err(AttachError::Window { window: device.window, ram_end });
        }
        Ok(())
    }
}

/// What QEMU must know of a device before it meets the daemon.
struct Shape {
    id: u16,
    queues: u16,
    queue_size: u16,
    config_size: usize,
}

/// How QEMU reaches a device, and where the guest does.
struct Place<'a> {
    socket: &'a Path,
    at: Bdf,
    transport: TransportKind,
}

fn attach(
    args: &mut QemuArgs,
    machine: QemuMachine,
    chardev: &str,
    place: &Place<'_>,
    translated: bool,
    shape: &Shape,
) -> Result<(), AttachError> {
    let path = plain_path(place.socket)?;
    if place.socket.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        return Err(AttachError::SocketPath(place.socket.to_owned()));
    }
    let Shape { id, queues, queue_size, config_size } = shape;
    let placement = machine.placement(place.at);
    match place.transport {
        TransportKind::VhostUser => {
            let platform = if translated { ",iommu_platform=on" } else { "" };
            args.push("-chardev", format!("socket,id={chardev},path={}", qemu_escaped(path)));
            args.push(
                "-device",
                format!(
                    "{},chardev={chardev},virtio-id={id},num_vqs={queues},vq_size={queue_size},\
                     config_size={config_size},{placement}{platform}",
                    machine.vhost_user_device()
                ),
            );
        }
        // All else is in the function that the daemon shows.
        TransportKind::VfioUser => args.push(
            "-device",
            format!(
                r#"{{"driver":"{VFIO_USER_DEVICE}","socket":{{"type":"unix","path":{}}},"addr":"{:02x}.{}"}}"#,
                json_string(path),
                place.at.device(),
                place.at.function()
            ),
        ),
    }
    Ok(())
}

fn escaped_path(path: &Path) -> Result<String, AttachError> {
    plain_path(path).map(qemu_escaped)
}

fn plain_path(path: &Path) -> Result<&str, AttachError> {
    path.to_str()
        .filter(|text| !text.is_empty() && !text.contains('\0'))
        .ok_or_else(|| AttachError::Path(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bdf(text: &str) -> Bdf {
        text.parse().unwrap()
    }

    fn share(tag: &str, at: &str, iommu: bool) -> ShareDevice {
        let socket = format!("/run/{tag}.sock").into();
        ShareDevice { socket, transport: TransportKind::VhostUser, tag: tag.parse().unwrap(), at: bdf(at), iommu }
    }

    fn both() -> QemuAttachment {
        QemuAttachment {
            iommu: Some(IommuDevice {
                socket: "/run/iommu.sock".into(),
                transport: TransportKind::VhostUser,
                at: bdf("00:05.0"),
                window: "256M".parse().unwrap(),
            }),
            shares: vec![share("share", "00:06.0", true), share("raw", "00:10.0", false)],
            memory_mib: 512,
            topology_file: Some("viot.bin".into()),
            ..QemuAttachment::default()
        }
    }

    #[test]
    fn every_device_gets_its_chardev_and_shape() {
        let expected = [
            "-object",
            "memory-backend-memfd,id=mem,size=512M,share=on",
            "-M",
            "q35,memory-backend=mem",
            "-m",
            "512M",
            "-smp",
            "1",
            "-acpitable",
            "file=viot.bin",
            "-chardev",
            "socket,id=viommu,path=/run/iommu.sock",
            "-device",
            "vhost-user-test-device-pci,chardev=viommu,virtio-id=23,num_vqs=2,vq_size=256,config_size=40,addr=05.0",
            "-chardev",
            "socket,id=share0,path=/run/share.sock",
            "-device",
            "vhost-user-test-device-pci,chardev=share0,virtio-id=9,num_vqs=1,vq_size=128,config_size=7,addr=06.0,\
             iommu_platform=on",
            "-chardev",
            "socket,id=share1,path=/run/raw.sock",
            "-device",
            "vhost-user-test-device-pci,chardev=share1,virtio-id=9,num_vqs=1,vq_size=128,config_size=5,addr=10.0",
        ];
        assert_eq!(both().args().unwrap().to_vec(), expected);
    }

    #[test]
    fn a_device_over_vfio_user_needs_its_socket_and_place_only() {
        let mut attachment = both();
        attachment.shares[0].transport = TransportKind::VfioUser;
        attachment.shares[0].socket = r#"/run/a,"b".sock"#.into();
        attachment.iommu.as_mut().unwrap().window = "4G".parse().unwrap();
        let args = attachment.args().unwrap().to_vec();
        let device = r#"{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/run/a,\"b\".sock"},"addr":"06.0"}"#;
        assert_eq!(args[14..16], ["-device", device]);
        assert!(args[13].contains("chardev=viommu"), "{args:?}");
    }

    #[test]
    fn the_contract_shows_this_command_line() {
        let mut attachment = both();
        attachment.shares.truncate(1);
        attachment.iommu.as_mut().unwrap().socket = "iommu.sock".into();
        attachment.shares[0].socket = "share.sock".into();
        let shown: String = attachment.args().unwrap().to_string().lines().map(|line| format!("  {line}\n")).collect();
        assert!(include_str!("../../SPEC.md").contains(&shown), "{shown}");
    }

    #[test]
    fn a_guest_without_an_iommu_gets_no_table() {
        let attachment =
            QemuAttachment { iommu: None, shares: vec![share("a", "00:06.0", false)], topology_file: None, ..both() };
        let args = attachment.args().unwrap();
        assert!(args.pairs().all(|(option, _)| option != "-acpitable"));
        assert_eq!(attachment.viot(), None);
    }

    #[test]
    fn the_topology_holds_the_translated_shares() {
        assert_eq!(both().viot(), Some(Viot::new(bdf("00:05.0")).endpoint(bdf("00:06.0"))));
    }

    #[test]
    fn commas_and_blanks_in_paths_survive_qemu_and_shell() {
        let mut attachment = both();
        attachment.shares[0].socket = "/run/a,b c.sock".into();
        attachment.topology_file = Some("my,table".into());
        let args = attachment.args().unwrap();
        assert!(args.to_vec().contains(&"socket,id=share0,path=/run/a,,b c.sock".to_owned()));
        let text = args.to_string();
        assert!(text.contains("-acpitable file=my,,table \\\n"));
        assert!(text.contains("-chardev 'socket,id=share0,path=/run/a,,b c.sock' \\\n"));
    }

    fn refused(change: impl FnOnce(&mut QemuAttachment)) -> AttachError {
        let mut attachment = both();
        change(&mut attachment);
        attachment.args().unwrap_err()
    }

    #[test]
    fn addresses_that_a_q35_root_bus_lacks_are_refused() {
        assert_eq!(
            refused(|a| a.shares[0].at = bdf("01:06.0")),
            AttachError::NoPlace { at: bdf("01:06.0"), machine: QemuMachine::Q35 }
        );
        assert_eq!(
            refused(|a| a.shares[0].at = bdf("00:00.0")),
            AttachError::NoPlace { at: bdf("00:00.0"), machine: QemuMachine::Q35 }
        );
        assert_eq!(
            refused(|a| a.shares[0].at = bdf("00:1f.0")),
            AttachError::NoPlace { at: bdf("00:1f.0"), machine: QemuMachine::Q35 }
        );
        assert_eq!(refused(|a| a.shares[0].at = bdf("00:06.1")), AttachError::NotFunctionZero(bdf("00:06.1")));
        assert_eq!(refused(|a| a.shares[0].at = bdf("00:05.0")), AttachError::SameAddress(bdf("00:05.0")));
        assert!(
            AttachError::NoPlace { at: bdf("01:06.0"), machine: QemuMachine::Q35 }
                .to_string()
                .contains("00:01.0 to 00:1e.0")
        );
    }

    #[test]
    fn machines_without_pci_have_virtio_mmio_devices() {
        let line = |machine| QemuAttachment { machine, ..both() }.args().unwrap().to_vec().join(" ");
        let microvm = line(QemuMachine::Microvm);
        for part in [
            "-M microvm,acpi=on,memory-backend=mem",
            "-global virtio-mmio.force-legacy=false",
            "-device loader,file=viot.bin,addr=0x10000000,force-raw=on",
            "vhost-user-test-device,chardev=viommu,virtio-id=23,num_vqs=2,vq_size=256,config_size=40,bus=virtio-mmio-bus.5",
            "config_size=7,bus=virtio-mmio-bus.6,iommu_platform=on",
        ] {
            assert!(microvm.contains(part), "{part} is missing in {microvm}");
        }
        assert!(line(QemuMachine::VirtAarch64).contains("-dtb viot.bin -chardev"));
        assert!(line(QemuMachine::VirtAarch64Pci).contains("vhost-user-test-device-pci,chardev=share0"));
        let arguments = QemuAttachment { machine: QemuMachine::Microvm, ..both() }.kernel_arguments();
        assert_eq!(arguments.as_deref(), Some("memmap=16K#0x10000000 acpi_rsdp=0x10000000"));
        assert_eq!(both().kernel_arguments(), None);
        assert_eq!(
            refused(|a| (a.machine, a.shares[0].at) = (QemuMachine::Microvm, bdf("00:18.0"))),
            AttachError::NoPlace { at: bdf("00:18.0"), machine: QemuMachine::Microvm }
        );
        assert_eq!(
            refused(|a| (a.machine, a.shares[1].transport) = (QemuMachine::Microvm, TransportKind::VfioUser)),
            AttachError::NoPci(QemuMachine::Microvm)
        );
    }

    #[test]
    fn names_used_twice_are_refused() {
        let socket = PathBuf::from("/run/iommu.sock");
        assert_eq!(refused(|a| a.shares[1].socket = socket.clone()), AttachError::SameSocket(socket.clone()));
        let tag: MountTag = "share".parse().unwrap();
        assert_eq!(refused(|a| a.shares[1].tag = tag.clone()), AttachError::SameTag(tag.clone()));
    }

    #[test]
    fn translation_needs_an_iommu_and_a_table() {
        let tag: MountTag = "share".parse().unwrap();
        assert_eq!(refused(|a| a.iommu = None), AttachError::NoIommu(tag.clone()));
        assert_eq!(refused(|a| a.topology_file = None), AttachError::NoTopology(tag.clone()));
    }

    #[test]
    fn the_window_must_lie_in_low_ram() {
        let window = |text: &str| text.parse::<ByteSize>().unwrap();
        let with = |text: &'static str, memory_mib| {
            let mut attachment = both();
            attachment.iommu.as_mut().unwrap().window = window(text);
            attachment.memory_mib = memory_mib;
            attachment.args().map(|_| ())
        };
        assert_eq!(with("512M", 512), Ok(()));
        assert_eq!(with("1G", 512), Err(AttachError::Window { window: window("1G"), ram_end: window("512M") }));
        assert_eq!(with("2G", 2048), Ok(()));
        assert_eq!(with("2G", 8192), Ok(()));
        assert_eq!(with("4G", 8192), Err(AttachError::Window { window: window("4G"), ram_end: window("2G") }));
    }

    #[test]
    fn an_untranslated_guest_may_have_any_window() {
        let mut attachment = both();
        attachment.shares[0].iommu = false;
        attachment.topology_file = None;
        attachment.iommu.as_mut().unwrap().window = "4G".parse().unwrap();
        assert!(attachment.args().is_ok());
    }

    #[test]
    fn values_without_a_command_line_are_refused() {
        assert_eq!(refused(|a| a.memory_mib = 0), AttachError::Memory(0));
        assert_eq!(refused(|a| a.memory_mib = 1 << 44), AttachError::Memory(1 << 44));
        assert_eq!(refused(|a| a.topology_file = Some("".into())), AttachError::Path("".into()));
        assert_eq!(refused(|a| a.shares[0].socket = "a\0b".into()), AttachError::Path("a\0b".into()));
        let long = PathBuf::from("x".repeat(108));
        assert_eq!(refused(|a| a.shares[0].socket = long.clone()), AttachError::SocketPath(long.clone()));
    }
}
