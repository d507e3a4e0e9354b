//! How the three parts of a ring lie in memory, and the addresses the device is told.

use crate::guest::address::{DeviceAddr, GuestPhys, PAGE_BYTES};

/// Bytes of one descriptor.
pub(super) const DESCRIPTOR_BYTES: u64 = 16;
/// Bytes of one entry of the used ring.
pub(super) const USED_ENTRY_BYTES: u64 = 8;

/// Bytes of each part of a split ring (virtio 1.2 §2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingBytes {
    /// The descriptor table.
    pub descriptors: usize,
    /// The available ring with its `used_event`.
    pub available: usize,
    /// The used ring with its `avail_event`.
    pub used: usize,
}

impl RingBytes {
    /// The parts of a ring of `size` entries.
    #[must_use]
    pub fn of(size: u16) -> Self {
        let size = usize::from(size);
        Self { descriptors: 16 * size, available: 6 + 2 * size, used: 6 + 8 * size }
    }

    /// Bytes from the start of a ring laid out as Linux does it to its used part: descriptors,
    /// available entries, then the used entries on a page of their own.
    #[must_use]
    pub fn used_offset(self) -> usize {
        (self.descriptors + self.available).next_multiple_of(PAGE_BYTES)
    }

    /// Bytes of the whole ring laid out in one piece.
    #[must_use]
    pub fn total(self) -> usize {
        self.used_offset() + self.used
    }
}

/// Where one part of a ring is, and what the device is told about it. The two differ behind an
/// IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingPart {
    /// Where the driver reads and writes it.
    pub memory: GuestPhys,
    /// The address the driver gives the device.
    pub device: DeviceAddr,
}

/// Where the three parts of a ring are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingPlacement {
    /// The descriptor table; 16-byte aligned.
    pub descriptors: RingPart,
    /// The available ring; 2-byte aligned.
    pub available: RingPart,
    /// The used ring; 4-byte aligned.
    pub used: RingPart,
}

impl RingPlacement {
    /// A ring of `size` entries in one piece of [`RingBytes::total`] bytes at `memory`, which the
    /// device sees at `device`. Both are page-aligned.
    #[must_use]
    pub fn contiguous(memory: GuestPhys, device: DeviceAddr, size: u16) -> Self {
        let bytes = RingBytes::of(size);
        let part = |offset: usize| RingPart { memory: memory + offset as u64, device: device + offset as u64 };
        Self { descriptors: part(0), available: part(bytes.descriptors), used: part(bytes.used_offset()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_specification() {
        let bytes = RingBytes::of(128);
        assert_eq!((bytes.descriptors, bytes.available, bytes.used), (2048, 262, 1030));
        assert_eq!(bytes.total(), 4096 + 1030);
        let ring = RingPlacement::contiguous(GuestPhys(0x5000), DeviceAddr(0x9000), 128);
        assert_eq!(ring.available.memory, GuestPhys(0x5800));
        assert_eq!(ring.used.device, DeviceAddr(0xa000));
    }
}
