//! The devices as crosvm, cloud-hypervisor and libvirt take them (SPEC.md 15.2 to 15.4).

use std::path::Path;

use super::args::QemuArgs;
use super::check::AttachError;
use super::devices::{IOMMU_QUEUE_SIZE, QemuAttachment, ninep_queue_size};
use crate::{TransportKind, ninep::MountTag, pci::Bdf};

/// Why a VMM cannot have the devices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OtherError {
    /// What no VMM could have.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The guest would not see that its device is translated.
    #[error(
        "share {0} cannot be behind the IOMMU with crosvm, which offers ACCESS_PLATFORM to guests of protected VMs only; \
         say iommu=off"
    )]
    CrosvmTranslated(MountTag),
    /// The guest could not learn the topology.
    #[error(
        "share {0} cannot be behind the IOMMU with cloud-hypervisor, which gives its guest no VIOT for it; say iommu=off, or \
         use QEMU"
    )]
    CloudHypervisorTranslated(MountTag),
    /// The VMM hides feature bits of vhost-user devices.
    #[error(
        "cloud-hypervisor hides the feature bits 0 to 23 of vhost-user devices, without which {0} cannot be used; serve it \
         with transport=vfio-user"
    )]
    CloudHypervisorVhostUser(String),
    /// crosvm has no vfio-user.
    #[error("crosvm does not speak vfio-user; serve {0} with transport=vhost-user")]
    CrosvmVfioUser(String),
    /// The path would end an option.
    #[error("the path {0} holds a comma or a quotation mark, which this VMM's options cannot; rename it")]
    Separator(String),
}

impl QemuAttachment {
    /// The options of `crosvm run`. Only what is outside the IOMMU works there.
    ///
    /// # Errors
    /// See [`OtherError`].
    pub fn crosvm_args(&self) -> Result<QemuArgs, OtherError> {
        self.args()?;
        if let Some(share) = self.shares.iter().find(|share| share.iommu) {
            return Err(OtherError::CrosvmTranslated(share.tag.clone()));
        }
        let mut args = QemuArgs::default();
        args.push("--mem", format!("size={}", self.memory_mib));
        args.push("--cpus", format!("num-cores={}", self.cpus.max(1)));
        let mut device = |kind: &str, name: &str, socket: &Path, transport: TransportKind, size: u16, at: Bdf| {
            if transport != TransportKind::VhostUser {
                return Err(OtherError::CrosvmVfioUser(name.to_owned()));
            }
            let socket = plain(socket)?;
            // Without a bound crosvm asks for 32,768 entries.
            args.push("--vhost-user", format!("type={kind},socket={socket},max-queue-size={size},pci-address={at}"));
            Ok(())
        };
        if let Some(iommu) = &self.iommu {
            device("iommu", "the IOMMU", &iommu.socket, iommu.transport, IOMMU_QUEUE_SIZE, iommu.at)?;
        }
        for share in &self.shares {
            let name = format!("share {}", share.tag);
            device("9p", &name, &share.socket, share.transport, ninep_queue_size(share.iommu), share.at)?;
        }
        Ok(args)
    }

    /// The options of `cloud-hypervisor`. Only shares over vfio-user outside the IOMMU work there.
    ///
    /// # Errors
    /// See [`OtherError`].
    pub fn cloud_hypervisor_args(&self) -> Result<QemuArgs, OtherError> {
        self.args()?;
        if let Some(share) = self.shares.iter().find(|share| share.iommu) {
            return Err(OtherError::CloudHypervisorTranslated(share.tag.clone()));
        }
        let mut args = QemuArgs::default();
        args.push("--memory", format!("size={}M,shared=on", self.memory_mib));
        args.push("--cpus", format!("boot={}", self.cpus.max(1)));
        for (index, share) in self.shares.iter().enumerate() {
            if share.transport != TransportKind::VfioUser {
                return Err(OtherError::CloudHypervisorVhostUser(format!("share {}", share.tag)));
            }
            args.push("--user-device", format!("socket={},id=share{index}", plain(&share.socket)?));
        }
        Ok(args)
    }

    /// A libvirt domain: the devices as arguments of its QEMU, the rest a minimal machine to be filled in. `kernel` and what
    /// follows it are optional.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn libvirt_domain(&self, kernel: Option<&str>) -> Result<String, AttachError> {
        // Machine, memory and processors are libvirt's own; everything behind them is passed on.
        let own = ["-object", "-M", "-m", "-smp"];
        let args = self.args()?;
        let passed: Vec<&str> = args
            .pairs()
            .filter(|(option, _)| !own.contains(option))
            .flat_map(|(option, value)| [option, value])
            .collect();
        let passed: String = passed.iter().map(|arg| format!("    <qemu:arg value='{}'/>\n", xml(arg))).collect();
        let kernel = kernel.map_or_else(String::new, |path| format!("    <kernel>{}</kernel>\n", xml(path)));
        let (memory, cpus) = (self.memory_mib, self.cpus.max(1));
        Ok(format!(
            "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n  \
             <name>calgary</name>\n  \
             <memory unit='MiB'>{memory}</memory>\n  \
             <vcpu>{cpus}</vcpu>\n  \
             <memoryBacking>\n    <source type='memfd'/>\n    <access mode='shared'/>\n  </memoryBacking>\n  \
             <os>\n    <type arch='x86_64' machine='q35'>hvm</type>\n{kernel}  </os>\n  \
             <features>\n    <acpi/>\n  </features>\n  \
             <cpu mode='host-passthrough'/>\n  \
             <devices>\n    <console type='pty'/>\n  </devices>\n  \
             <qemu:commandline>\n{passed}  </qemu:commandline>\n\
             </domain>"
        ))
    }
}

/// `path` for options in which a comma separates keys and nothing can be escaped.
fn plain(path: &Path) -> Result<&str, OtherError> {
    let text = path.to_str().ok_or_else(|| AttachError::Path(path.to_owned()))?;
    if text.contains([',', '"', '[', ']']) { Err(OtherError::Separator(text.to_owned())) } else { Ok(text) }
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}

#[cfg(test)]
mod tests {
    use super::super::{IommuDevice, ShareDevice};
    use super::*;

    fn attachment(transport: TransportKind) -> QemuAttachment {
        let share = ShareDevice {
            socket: "/run/home.sock".into(),
            transport,
            tag: "home".parse().unwrap(),
            at: "00:06.0".parse().unwrap(),
            iommu: false,
        };
        QemuAttachment { shares: vec![share], memory_mib: 512, ..QemuAttachment::default() }
    }

    fn behind(transport: TransportKind) -> QemuAttachment {
        let mut attachment = attachment(transport);
        attachment.iommu = Some(IommuDevice {
            socket: "/run/iommu.sock".into(),
            transport,
            at: "00:05.0".parse().unwrap(),
            window: "256M".parse().unwrap(),
        });
        attachment.topology_file = Some("viot.bin".into());
        attachment.shares[0].iommu = true;
        attachment
    }

    #[test]
    fn crosvm_gets_bounded_queues_and_addresses() {
        let expected = [
            "--mem",
            "size=512",
            "--cpus",
            "num-cores=1",
            "--vhost-user",
            "type=9p,socket=/run/home.sock,max-queue-size=128,pci-address=00:06.0",
        ];
        assert_eq!(attachment(TransportKind::VhostUser).crosvm_args().unwrap().to_vec(), expected);
        let refused = |attachment: QemuAttachment| attachment.crosvm_args().unwrap_err();
        assert!(matches!(refused(attachment(TransportKind::VfioUser)), OtherError::CrosvmVfioUser(_)));
        assert!(matches!(refused(behind(TransportKind::VhostUser)), OtherError::CrosvmTranslated(_)));
    }

    #[test]
    fn cloud_hypervisor_gets_user_devices_and_shared_memory() {
        let expected =
            ["--memory", "size=512M,shared=on", "--cpus", "boot=1", "--user-device", "socket=/run/home.sock,id=share0"];
        assert_eq!(attachment(TransportKind::VfioUser).cloud_hypervisor_args().unwrap().to_vec(), expected);
        let refused = |attachment: QemuAttachment| attachment.cloud_hypervisor_args().unwrap_err();
        assert!(matches!(refused(attachment(TransportKind::VhostUser)), OtherError::CloudHypervisorVhostUser(_)));
        assert!(matches!(refused(behind(TransportKind::VfioUser)), OtherError::CloudHypervisorTranslated(_)));
        let mut comma = attachment(TransportKind::VfioUser);
        comma.shares[0].socket = "/run/a,b".into();
        assert!(matches!(refused(comma), OtherError::Separator(_)));
    }

    #[test]
    fn a_libvirt_domain_passes_the_devices_on() {
        let mut attachment = behind(TransportKind::VhostUser);
        attachment.shares[0].socket = "/run/a&'b".into();
        let domain = attachment.libvirt_domain(Some("/boot/vmlinuz")).unwrap();
        for part in [
            "<memory unit='MiB'>512</memory>",
            "<access mode='shared'/>",
            "<kernel>/boot/vmlinuz</kernel>",
            "<qemu:arg value='-acpitable'/>\n    <qemu:arg value='file=viot.bin'/>",
            "<qemu:arg value='socket,id=share0,path=/run/a&amp;&apos;b'/>",
            "addr=06.0,iommu_platform=on'/>",
        ] {
            assert!(domain.contains(part), "{part} is missing in {domain}");
        }
        assert!(!domain.contains("memory-backend"), "{domain}");
    }
}
