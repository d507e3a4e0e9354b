//! What a VMM has to be told of a configuration.

use frontend_spec::ByteSize;
use frontend_spec::attach::{IommuDevice, QemuAttachment, ShareDevice};
use frontend_spec::pci::Bdf;

use crate::config::ServeConfig;

/// First slot given to shares that name none.
const FIRST_FREE_SLOT: u8 = 6;
/// PCI devices on one bus.
const SLOTS: u8 = 32;

/// A configuration has more shares than PCI slots.
#[derive(Debug, thiserror::Error)]
#[error("no PCI slot is left on bus 0 for share {0}; serve fewer shares from one daemon")]
pub struct NoSlot(String);

/// QEMU's view of `config`, for a guest with `memory_mib` MiB of RAM. Shares without an endpoint get free slots; those
/// without a socket are no devices.
///
/// # Errors
/// [`NoSlot`]
pub fn qemu(config: &ServeConfig, memory_mib: u64) -> Result<QemuAttachment, NoSlot> {
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
        let at = share.endpoint.or_else(free).ok_or_else(|| NoSlot(share.tag.to_string()))?;
        taken.push(at);
        shares.push(ShareDevice {
            socket,
            transport: share.transport.unwrap_or_default(),
            tag: share.tag.clone(),
            at,
            iommu: share.iommu,
        });
    }
    Ok(QemuAttachment { iommu, shares, memory_mib, viot_file: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_share;
    use crate::device::PollPolicy;

    #[test]
    fn shares_without_an_address_get_free_slots() {
        let share = |text: &str| parse_share(text).unwrap();
        let shares = vec![
            share("tag=a,path=/,socket=/a"),
            share("tag=b,path=/,socket=/b,endpoint=00:06.0,iommu=off"),
            share("tag=c,path=/,listen=unix:/c"),
            share("tag=d,path=/,socket=/d"),
        ];
        let attachment = qemu(&ServeConfig { iommu: None, shares, poll: PollPolicy::default() }, 512).unwrap();
        let slots: Vec<u8> = attachment.shares.iter().map(|share| share.at.device()).collect();
        assert_eq!(slots, [7, 6, 8]);
        assert!(attachment.args().is_ok());
    }
}
