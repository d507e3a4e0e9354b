//! What a VMM has to be told of a configuration.

use frontend_spec::ByteSize;
use frontend_spec::attach::{IommuDevice, QemuAttachment, QemuMachine, ShareDevice};
use frontend_spec::pci::Bdf;

use crate::config::ServeConfig;
use crate::transport::socket;

/// First slot given to shares that name none.
const FIRST_FREE_SLOT: u8 = 6;
/// PCI devices on one bus.
const SLOTS: u8 = 32;

/// Why a VMM cannot be told of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum AttachmentError {
    /// There are more shares than PCI slots.
    #[error("no PCI slot is left on bus 0 for share {0}; serve fewer shares from one daemon")]
    NoSlot(String),
    /// No device has a socket.
    #[error("there is nothing to attach; give --iommu SOCKET or a share with socket=SOCKET")]
    Nothing,
    /// A socket has no path by which a VMM could connect.
    #[error("the socket {0} has no path that a VMM could connect to; name the path that it listens on instead")]
    NoPath(String),
    /// Drivers may place rings below the guest's RAM.
    #[error("RAM of a {machine} machine begins at {start:#x}; add --reserve 0-{:#x}, so that no ring is placed below", .start - 1)]
    BelowRam {
        /// The machine.
        machine: QemuMachine,
        /// Where its RAM begins.
        start: u64,
    },
}

/// QEMU's view of `config`, for a q35 guest with `memory_mib` MiB of RAM; see [`qemu_machine`].
///
/// # Errors
/// [`AttachmentError`]
pub fn qemu(config: &ServeConfig, memory_mib: u64) -> Result<QemuAttachment, AttachmentError> {
    qemu_machine(config, QemuMachine::Q35, memory_mib)
}

/// QEMU's view of `config`, for a guest on `machine` with `memory_mib` MiB of RAM. Shares without an endpoint get free
/// slots; those without a socket are no devices.
///
/// # Errors
/// [`AttachmentError`]
pub fn qemu_machine(
    config: &ServeConfig,
    machine: QemuMachine,
    memory_mib: u64,
) -> Result<QemuAttachment, AttachmentError> {
    let iommu = config.iommu.iter().map(|iommu| &iommu.socket);
    let sockets = iommu.chain(config.shares.iter().filter_map(|share| share.socket.as_ref()));
    if let Some(socket) = sockets.into_iter().find(|socket| !socket::is_path(socket)) {
        return Err(AttachmentError::NoPath(socket.display().to_string()));
    }
    if config.iommu.is_none() && config.shares.iter().all(|share| share.socket.is_none()) {
        return Err(AttachmentError::Nothing);
    }
    let start = machine.ram_start();
    let behind = config.shares.iter().any(|share| share.iommu && share.socket.is_some());
    if let Some(iommu) = config.iommu.as_ref().filter(|_| behind && start > 0)
        && !iommu.reserved.iter().any(|range| range.first == 0 && range.last >= start - 1)
    {
        return Err(AttachmentError::BelowRam { machine, start });
    }
    let iommu = config.iommu.as_ref().map(|iommu| IommuDevice {
        socket: iommu.socket.clone(),
        transport: iommu.transport,
        at: iommu.at,
        window: ByteSize::from_bytes(iommu.window.window_bytes()),
    });
    let mut taken: Vec<Bdf> = config.shares.iter().filter_map(|share| share.endpoint).collect();
    taken.extend(config.iommu.iter().map(|iommu| iommu.at));
    let mut shares = Vec::new();
    for share in &config.shares {
        let Some(socket) = share.socket.clone() else { continue };
        let free =
            || (FIRST_FREE_SLOT..SLOTS).filter_map(|slot| Bdf::new(0, slot, 0).ok()).find(|slot| !taken.contains(slot));
        let at = share.endpoint.or_else(free).ok_or_else(|| AttachmentError::NoSlot(share.tag.to_string()))?;
        taken.push(at);
        shares.push(ShareDevice {
            socket,
            transport: share.transport.unwrap_or_default(),
            tag: share.tag.clone(),
            at,
            iommu: share.iommu,
        });
    }
    Ok(QemuAttachment { machine, iommu, shares, memory_mib, ..QemuAttachment::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{IommuConfig, parse_share, parse_window};
    use crate::transport::TransportKind;

    #[test]
    fn shares_without_an_address_get_free_slots() {
        let share = |text: &str| parse_share(text).unwrap();
        let shares = vec![
            share("tag=a,path=/,socket=/a"),
            share("tag=b,path=/,socket=/b,endpoint=00:06.0,iommu=off"),
            share("tag=c,path=/,listen=unix:/c"),
            share("tag=d,path=/,socket=/d"),
        ];
        let attachment = qemu(&ServeConfig { iommu: None, shares, ..ServeConfig::default() }, 512).unwrap();
        let slots: Vec<u8> = attachment.shares.iter().map(|share| share.at.device()).collect();
        assert_eq!(slots, [7, 6, 8]);
        assert!(attachment.args().is_ok());
    }

    #[test]
    fn a_range_may_be_reserved_to_the_last_address() {
        let iommu = IommuConfig {
            socket: "/i".into(),
            transport: TransportKind::default(),
            at: "00:05.0".parse().unwrap(),
            window: parse_window("4G").unwrap(),
            boot_bypass: false,
            reserved: vec!["0-0xffffffffffffffff".parse().unwrap()],
        };
        let shares = vec![parse_share("tag=a,path=/,socket=/a,endpoint=00:06.0").unwrap()];
        let mut config = ServeConfig { iommu: Some(iommu), shares, ..ServeConfig::default() };
        assert!(qemu_machine(&config, QemuMachine::VirtAarch64, 3072).is_ok());
        config.iommu.as_mut().unwrap().reserved.clear();
        let refused = qemu_machine(&config, QemuMachine::VirtAarch64, 3072).unwrap_err().to_string();
        assert!(refused.contains("--reserve 0-0x3fffffff"), "{refused}");
    }
}
