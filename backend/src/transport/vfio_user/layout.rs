//! Where things are in the function's BARs.
//!
//! BAR 0 has the virtio registers, a page for each kind, BAR 1 has MSI-X. A client maps neither: every access is a message.

use super::registers::REGISTERS_SIZE;

/// Bytes of BARs 0 and 1, powers of two.
pub(super) const BAR_SIZES: [u64; 2] = [0x4000, 0x1000];
/// BAR with the virtio registers.
pub(super) const VIRTIO_BAR: u32 = 0;
/// BAR with the MSI-X table and its pending bits.
pub(super) const MSIX_BAR: u32 = 1;
/// Where the MSI-X table is in its BAR.
pub(super) const MSIX_TABLE: u32 = 0;
/// Where the pending bits are.
pub(super) const MSIX_PBA: u32 = 0x800;
/// Bytes of an entry of the MSI-X table.
pub(super) const MSIX_ENTRY: usize = 16;
/// Bytes from one queue's doorbell to the next one's.
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;

/// Bytes of each place in BAR 0.
const PAGE: u32 = 0x1000;

/// A place in BAR 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Common configuration.
    Common,
    /// Interrupt status.
    Isr,
    /// Configuration of the device type.
    Device,
    /// Doorbells.
    Notify,
}

impl Place {
    /// In ascending order.
    pub(super) const ALL: [Self; 4] = [Self::Common, Self::Isr, Self::Device, Self::Notify];

    /// Type of its virtio capability.
    pub(super) fn kind(self) -> u8 {
        match self {
            Self::Common => 1,
            Self::Notify => 2,
            Self::Isr => 3,
            Self::Device => 4,
        }
    }

    /// Where it begins.
    pub(super) fn offset(self) -> u32 {
        match self {
            Self::Common => 0,
            Self::Isr => PAGE,
            Self::Device => 2 * PAGE,
            Self::Notify => 3 * PAGE,
        }
    }

    /// Bytes that mean something, for a device with `queues` queues.
    pub(super) fn len(self, queues: u16) -> u32 {
        match self {
            Self::Common => u32::try_from(REGISTERS_SIZE).unwrap_or(0),
            Self::Isr => 1,
            Self::Device => PAGE,
            Self::Notify => NOTIFY_MULTIPLIER * u32::from(queues),
        }
    }

    /// The place at `offset` of BAR 0, and the offset in it.
    pub(super) fn at(offset: u64) -> Option<(Self, u64)> {
        let place = Self::ALL.into_iter().rev().find(|place| u64::from(place.offset()) <= offset)?;
        Some((place, offset - u64::from(place.offset())))
    }
}
