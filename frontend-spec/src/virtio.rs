//! What both devices share: device ids, generic feature bits and the split ring's structures (virtio 1.2 §2.6, §2.7, §6).

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// Device id of virtio-9p (virtio 1.2 §5).
pub const DEVICE_ID_9P: u16 = 9;
/// Device id of virtio-iommu (virtio 1.2 §5).
pub const DEVICE_ID_IOMMU: u16 = 23;

/// Generic feature bits, as masks of the 64-bit feature word.
pub mod feature {
    /// Descriptors may point to tables of descriptors (bit 28, virtio 1.2 §2.7.5.3).
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `used_event` and `avail_event` steer notifications (bit 29, virtio 1.2 §2.7.7).
    pub const EVENT_IDX: u64 = 1 << 29;
    /// vhost-user only, never seen by a guest: protocol features can be negotiated (bit 30, vhost-user protocol).
    pub const VHOST_USER_PROTOCOL_FEATURES: u64 = 1 << 30;
    /// The device follows virtio 1.0 or later (bit 32, virtio 1.2 §6).
    pub const VERSION_1: u64 = 1 << 32;
    /// The device's addresses pass through the platform's IOMMU (bit 33, virtio 1.2 §6).
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
}

/// Values of [`Descriptor::flags`] (virtio 1.2 §2.7.5).
pub mod descriptor_flag {
    /// The chain continues at [`next`](super::Descriptor::next).
    pub const NEXT: u16 = 1;
    /// The device writes this buffer; without it the device reads it.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors. Excludes [`NEXT`] (virtio 1.2 §2.7.5.3.1).
    pub const INDIRECT: u16 = 4;
}

/// Flag of the available ring: the driver wants no interrupt (virtio 1.2 §2.7.6). Without meaning under `EVENT_IDX`.
pub const AVAIL_NO_INTERRUPT: u16 = 1;
/// Flag of the used ring: the device wants no kick (virtio 1.2 §2.7.8). Without meaning under `EVENT_IDX`.
pub const USED_NO_NOTIFY: u16 = 1;

/// One entry of a descriptor table, 16 bytes (virtio 1.2 §2.7.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Descriptor {
    /// Address of the buffer as the device sees it: an IOVA if the device is translated, else guest-physical.
    pub addr: U64,
    /// Length of the buffer in bytes.
    pub len: U32,
    /// Bits of [`descriptor_flag`].
    pub flags: U16,
    /// Index of the next descriptor of the chain; counts only with [`descriptor_flag::NEXT`].
    pub next: U16,
}

impl Descriptor {
    /// A descriptor with these fields.
    #[must_use]
    pub fn new(addr: u64, len: u32, flags: u16, next: u16) -> Self {
        Self { addr: addr.into(), len: len.into(), flags: flags.into(), next: next.into() }
    }
}

/// One entry of the used ring, 8 bytes (virtio 1.2 §2.7.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct UsedElem {
    /// Index of the first descriptor of the finished chain.
    pub id: U32,
    /// Bytes written to the device-writable part of the chain, counted from its start.
    pub len: U32,
}

impl UsedElem {
    /// A used entry with these fields.
    #[must_use]
    pub fn new(id: u32, len: u32) -> Self {
        Self { id: id.into(), len: len.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn ring_structures_have_the_specified_layout() {
        assert_eq!(size_of::<Descriptor>(), 16);
        assert_eq!(offset_of!(Descriptor, addr), 0);
        assert_eq!(offset_of!(Descriptor, len), 8);
        assert_eq!(offset_of!(Descriptor, flags), 12);
        assert_eq!(offset_of!(Descriptor, next), 14);
        assert_eq!(size_of::<UsedElem>(), 8);
        assert_eq!(offset_of!(UsedElem, id), 0);
        assert_eq!(offset_of!(UsedElem, len), 4);
    }

    #[test]
    fn ring_structures_are_little_endian() {
        let descriptor = Descriptor::new(0x0102_0304_0506_0708, 0x1112_1314, descriptor_flag::WRITE, 0x2122);
        assert_eq!(descriptor.as_bytes(), [8, 7, 6, 5, 4, 3, 2, 1, 0x14, 0x13, 0x12, 0x11, 2, 0, 0x22, 0x21]);
        assert_eq!(UsedElem::new(3, 76).as_bytes(), [3, 0, 0, 0, 76, 0, 0, 0]);
    }

    #[test]
    fn feature_masks_carry_the_specified_bit_numbers() {
        let bits = [
            (feature::INDIRECT_DESC, 28),
            (feature::EVENT_IDX, 29),
            (feature::VHOST_USER_PROTOCOL_FEATURES, 30),
            (feature::VERSION_1, 32),
            (feature::ACCESS_PLATFORM, 33),
        ];
        for (mask, bit) in bits {
            assert_eq!(mask.count_ones(), 1);
            assert_eq!(mask.trailing_zeros(), bit);
        }
    }
}
