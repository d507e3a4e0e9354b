//! What cannot be attached, and why.

use super::devices::QemuAttachment;
use super::machine::QemuMachine;
use crate::{ByteSize, TransportKind, ninep::MountTag, pci::Bdf};
use std::{collections::HashSet, path::PathBuf};

/// `sockaddr_un.sun_path` without its terminator.
pub(super) const MAX_SOCKET_PATH_BYTES: usize = 107;

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
    /// Whether a guest can have these devices at these places.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub(super) fn check(&self) -> Result<(), AttachError> {
        self.check_addresses()?;
        self.check_names()?;
        self.check_translation()
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

#[cfg(test)]
mod tests {
    use super::super::devices::tests::{bdf, both};
    use super::*;

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
    fn a_machine_without_pci_has_fewer_places_and_no_vfio_user() {
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
