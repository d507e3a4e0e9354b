//! The devices as QEMU's `vhost-user-test-device` (QEMU 10.2 or later) or `vfio-user-pci` (QEMU 10.1 or later).

use super::args::{QemuArgs, json_string, qemu_escaped};
use super::check::{AttachError, MAX_SOCKET_PATH_BYTES};
use super::devices::{IOMMU_QUEUE_SIZE, IOMMU_QUEUES, NINEP_QUEUES, QemuAttachment, ninep_queue_size};
use super::machine::QemuMachine;
use crate::{
    TransportKind, iommu,
    pci::Bdf,
    virtio::{DEVICE_ID_9P, DEVICE_ID_IOMMU},
};
use std::path::Path;

const MEMORY_ID: &str = "mem";
const VFIO_USER_DEVICE: &str = "vfio-user-pci";

impl QemuAttachment {
    /// The options that attach the devices.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn args(&self) -> Result<QemuArgs, AttachError> {
        self.check()?;
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
                queue_size: ninep_queue_size(share.iommu),
                config_size: share.tag.config_size(),
            };
            let place = Place { socket: &share.socket, at: share.at, transport: share.transport };
            attach(&mut args, self.machine, &format!("share{index}"), &place, share.iommu, &shape)?;
        }
        Ok(args)
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
    use super::super::devices::tests::{both, share};
    use super::*;

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
            "vhost-user-test-device-pci,chardev=viommu,virtio-id=23,num_vqs=2,vq_size=512,config_size=40,addr=05.0",
            "-chardev",
            "socket,id=share0,path=/run/share.sock",
            "-device",
            "vhost-user-test-device-pci,chardev=share0,virtio-id=9,num_vqs=1,vq_size=512,config_size=7,addr=06.0,\
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

    #[test]
    fn machines_without_pci_have_virtio_mmio_devices() {
        let line = |machine| QemuAttachment { machine, ..both() }.args().unwrap().to_vec().join(" ");
        let microvm = line(QemuMachine::Microvm);
        for part in [
            "-M microvm,acpi=on,memory-backend=mem",
            "-global virtio-mmio.force-legacy=false",
            "-device loader,file=viot.bin,addr=0x10000000,force-raw=on",
            "vhost-user-test-device,chardev=viommu,virtio-id=23,num_vqs=2,vq_size=512,config_size=40,bus=virtio-mmio-bus.5",
            "config_size=7,bus=virtio-mmio-bus.6,iommu_platform=on",
        ] {
            assert!(microvm.contains(part), "{part} is missing in {microvm}");
        }
        assert!(line(QemuMachine::VirtAarch64).contains("-dtb viot.bin -chardev"));
        assert!(line(QemuMachine::VirtAarch64Pci).contains("vhost-user-test-device-pci,chardev=share0"));
        let arguments = QemuAttachment { machine: QemuMachine::Microvm, ..both() }.kernel_arguments();
        assert_eq!(arguments.as_deref(), Some("memmap=16K#0x10000000 acpi_rsdp=0x10000000"));
        assert_eq!(both().kernel_arguments(), None);
    }
}
