//! The devices as QEMU's `vhost-user-test-device-pci` (QEMU 10.2 or later) or `vfio-user-pci` (QEMU 10.1 or later) on a
//! q35 machine.

use super::args::{QemuArgs, json_string, qemu_escaped};
use crate::{
    ByteSize, TransportKind, iommu,
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

/// Slots of a q35 machine's root bus that the machine itself occupies: host bridge and ICH9.
const Q35_OWN_SLOTS: [u8; 2] = [0x00, 0x1f];
/// From this size on a q35 machine puts only [`Q35_SPLIT_LOW_RAM`] below 4 GiB.
const Q35_SPLIT_FROM: u64 = 0xb000_0000;
const Q35_SPLIT_LOW_RAM: u64 = 0x8000_0000;
/// `sockaddr_un.sun_path` without its terminator.
const MAX_SOCKET_PATH_BYTES: usize = 107;
const MEMORY_ID: &str = "mem";
const DEVICE: &str = "vhost-user-test-device-pci";
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

/// The devices of one guest on a q35 machine, all on the root bus.
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
///     viot_file: None,
/// };
/// println!("qemu-system-x86_64 \\\n{}", attachment.args().unwrap());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuAttachment {
    /// The virtio-iommu, if there is one.
    pub iommu: Option<IommuDevice>,
    /// The shares.
    pub shares: Vec<ShareDevice>,
    /// Guest RAM in MiB.
    pub memory_mib: u64,
    /// File with the table of [`QemuAttachment::viot`]; needed if a share is translated.
    pub viot_file: Option<PathBuf>,
}

/// Why devices cannot be attached as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// A device is on another bus than the root bus.
    #[error("{0} is not on bus 00, the root bus of a q35 machine; choose 00:01.0 to 00:1e.0, such as 00:06.0")]
    OtherBus(Bdf),
    /// A device is at a slot of the machine's own.
    #[error("slot {0} belongs to the q35 machine itself; choose 00:01.0 to 00:1e.0, such as 00:06.0")]
    OwnSlot(Bdf),
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
    #[error("share {0} is to be translated but there is no VIOT file; write the table to a file and name it")]
    NoViot(MountTag),
    /// The IOVA window is not all guest RAM.
    #[error(
        "the IOVA window of {window} exceeds the guest's RAM below 4 GiB, {low_ram}; choose a window of at most that \
         size, change the guest's RAM (a q35 machine puts all of it there up to 2815M, and 2G if it has more), or use \
         vfio-user for the shares behind the IOMMU"
    )]
    Window {
        /// The window.
        window: ByteSize,
        /// Guest RAM below 4 GiB.
        low_ram: ByteSize,
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

/// RAM from address 0 upwards without a gap on a q35 machine with `ram` in all.
///
/// QEMU puts 2 GiB below 4 GiB if there are 2.75 GiB or more, else all of it.
#[must_use]
pub const fn q35_low_ram(ram: ByteSize) -> ByteSize {
    if ram.bytes() >= Q35_SPLIT_FROM { ByteSize::from_bytes(Q35_SPLIT_LOW_RAM) } else { ram }
}

impl QemuAttachment {
    /// The topology that the guest must be told: the IOMMU and the shares that it translates. `None` without an IOMMU.
    #[must_use]
    pub fn viot(&self) -> Option<Viot> {
        let iommu = self.iommu.as_ref()?;
        Some(Viot::new(iommu.at).endpoints(self.translated().map(|share| share.at)))
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
        args.push("-M", format!("q35,memory-backend={MEMORY_ID}"));
        args.push("-m", format!("{memory}M"));
        if let Some(file) = &self.viot_file {
            args.push("-acpitable", format!("file={}", escaped_path(file)?));
        }
        if let Some(device) = &self.iommu {
            let shape = Shape {
                id: DEVICE_ID_IOMMU,
                queues: IOMMU_QUEUES,
                queue_size: IOMMU_QUEUE_SIZE,
                config_size: iommu::Config::SIZE,
            };
            let place = Place { socket: &device.socket, at: device.at, transport: device.transport };
            attach(&mut args, "viommu", &place, false, &shape)?;
        }
        for (index, share) in self.shares.iter().enumerate() {
            let shape = Shape {
                id: DEVICE_ID_9P,
                queues: NINEP_QUEUES,
                queue_size: NINEP_QUEUE_SIZE,
                config_size: share.tag.config_size(),
            };
            let place = Place { socket: &share.socket, at: share.at, transport: share.transport };
            attach(&mut args, &format!("share{index}"), &place, share.iommu, &shape)?;
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
            if at.bus() != 0 {
                return Err(AttachError::OtherBus(at));
            }
            if Q35_OWN_SLOTS.contains(&at.device()) {
                return Err(AttachError::OwnSlot(at));
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
        let Some(share) = self.translated().next() else { return Ok(()) };
        let device = self.iommu.as_ref().ok_or_else(|| AttachError::NoIommu(share.tag.clone()))?;
        if self.viot_file.is_none() {
            return Err(AttachError::NoViot(share.tag.clone()));
        }
        // With vhost-user QEMU takes a translated device's ring addresses for guest RAM, so every IOVA must be an address of
        // RAM too.
        let low_ram = q35_low_ram(ram);
        let vhost_user = self.translated().any(|share| share.transport == TransportKind::VhostUser);
        if vhost_user && device.window > low_ram {
            return Err(AttachError::Window { window: device.window, low_ram });
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
    let (slot, function) = (place.at.device(), place.at.function());
    match place.transport {
        TransportKind::VhostUser => {
            let platform = if translated { ",iommu_platform=on" } else { "" };
            args.push("-chardev", format!("socket,id={chardev},path={}", qemu_escaped(path)));
            args.push(
                "-device",
                format!(
                    "{DEVICE},chardev={chardev},virtio-id={id},num_vqs={queues},vq_size={queue_size},\
                     config_size={config_size},addr={slot:02x}.{function}{platform}"
                ),
            );
        }
        // All else is in the function that the daemon shows.
        TransportKind::VfioUser => args.push(
            "-device",
            format!(
                r#"{{"driver":"{VFIO_USER_DEVICE}","socket":{{"type":"unix","path":{}}},"addr":"{slot:02x}.{function}"}}"#,
                json_string(path)
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
            viot_file: Some("viot.bin".into()),
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
        assert_eq!(args[12..14], ["-device", device]);
        assert!(args[11].contains("chardev=viommu"), "{args:?}");
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
            QemuAttachment { iommu: None, shares: vec![share("a", "00:06.0", false)], viot_file: None, ..both() };
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
        attachment.viot_file = Some("my,table".into());
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
        assert_eq!(refused(|a| a.shares[0].at = bdf("01:06.0")), AttachError::OtherBus(bdf("01:06.0")));
        assert_eq!(refused(|a| a.shares[0].at = bdf("00:00.0")), AttachError::OwnSlot(bdf("00:00.0")));
        assert_eq!(refused(|a| a.shares[0].at = bdf("00:1f.0")), AttachError::OwnSlot(bdf("00:1f.0")));
        assert_eq!(refused(|a| a.shares[0].at = bdf("00:06.1")), AttachError::NotFunctionZero(bdf("00:06.1")));
        assert_eq!(refused(|a| a.shares[0].at = bdf("00:05.0")), AttachError::SameAddress(bdf("00:05.0")));
        assert!(AttachError::OtherBus(bdf("01:06.0")).to_string().contains("00:01.0 to 00:1e.0"));
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
        assert_eq!(refused(|a| a.viot_file = None), AttachError::NoViot(tag.clone()));
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
        assert_eq!(with("1G", 512), Err(AttachError::Window { window: window("1G"), low_ram: window("512M") }));
        assert_eq!(with("2G", 2048), Ok(()));
        assert_eq!(with("2G", 8192), Ok(()));
        assert_eq!(with("4G", 8192), Err(AttachError::Window { window: window("4G"), low_ram: window("2G") }));
    }

    #[test]
    fn low_ram_shrinks_where_the_machine_splits_its_memory() {
        let mib = |mib: u64| ByteSize::from_bytes(mib << 20);
        assert_eq!(q35_low_ram(mib(2815)), mib(2815));
        assert_eq!(q35_low_ram(mib(2816)), mib(2048));
    }

    #[test]
    fn an_untranslated_guest_may_have_any_window() {
        let mut attachment = both();
        attachment.shares[0].iommu = false;
        attachment.viot_file = None;
        attachment.iommu.as_mut().unwrap().window = "4G".parse().unwrap();
        assert!(attachment.args().is_ok());
    }

    #[test]
    fn values_without_a_command_line_are_refused() {
        assert_eq!(refused(|a| a.memory_mib = 0), AttachError::Memory(0));
        assert_eq!(refused(|a| a.memory_mib = 1 << 44), AttachError::Memory(1 << 44));
        assert_eq!(refused(|a| a.viot_file = Some("".into())), AttachError::Path("".into()));
        assert_eq!(refused(|a| a.shares[0].socket = "a\0b".into()), AttachError::Path("a\0b".into()));
        let long = PathBuf::from("x".repeat(108));
        assert_eq!(refused(|a| a.shares[0].socket = long.clone()), AttachError::SocketPath(long.clone()));
    }
}
