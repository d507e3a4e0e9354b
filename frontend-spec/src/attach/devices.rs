//! The devices of a guest, and the topology that it must be told.

use super::machine::QemuMachine;
use crate::{
    ByteSize, TransportKind, acpi::MicrovmTables, devicetree::Topology, ninep::MountTag, pci::Bdf, viot::Viot,
};
use std::path::{Path, PathBuf};

/// Queues of the virtio-iommu: requests and events.
pub const IOMMU_QUEUES: u16 = 2;
/// Entries of each queue of the virtio-iommu; a request takes two.
pub const IOMMU_QUEUE_SIZE: u16 = 512;
/// Queues of the virtio-9p.
pub const NINEP_QUEUES: u16 = 1;
/// Entries of the queue of a virtio-9p outside the IOMMU; Linux puts up to 128 scatter entries into a request, in a table of its
/// own if there are more than one.
pub const NINEP_QUEUE_SIZE: u16 = 128;
/// The same of one behind the IOMMU, where a request takes an entry for each scatter entry: four of the largest.
pub const TRANSLATED_NINEP_QUEUE_SIZE: u16 = 512;

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

/// Entries of the queue of a virtio-9p, which is behind the IOMMU or not.
#[must_use]
pub fn ninep_queue_size(iommu: bool) -> u16 {
    if iommu { TRANSLATED_NINEP_QUEUE_SIZE } else { NINEP_QUEUE_SIZE }
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

    /// The shares behind the IOMMU.
    pub(super) fn translated(&self) -> impl Iterator<Item = &ShareDevice> {
        self.shares.iter().filter(|share| share.iommu)
    }

    /// Every device's socket and address.
    pub(super) fn places(&self) -> impl Iterator<Item = (&Path, Bdf)> {
        let iommu = self.iommu.iter().map(|device| (device.socket.as_path(), device.at));
        iommu.chain(self.shares.iter().map(|share| (share.socket.as_path(), share.at)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn bdf(text: &str) -> Bdf {
        text.parse().unwrap()
    }

    pub(crate) fn share(tag: &str, at: &str, iommu: bool) -> ShareDevice {
        let socket = format!("/run/{tag}.sock").into();
        ShareDevice { socket, transport: TransportKind::VhostUser, tag: tag.parse().unwrap(), at: bdf(at), iommu }
    }

    pub(crate) fn both() -> QemuAttachment {
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
    fn the_topology_holds_the_translated_shares() {
        assert_eq!(both().viot(), Some(Viot::new(bdf("00:05.0")).endpoint(bdf("00:06.0"))));
    }
}
