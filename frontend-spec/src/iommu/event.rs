//! Fault events, device to driver (virtio 1.2 §5.13.6.9).

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

/// Why an access failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FaultReason {
    /// Another cause, or one that must not be told.
    Unknown = 0,
    /// The endpoint is attached to no domain.
    Domain = 1,
    /// The domain has no mapping there, or one without the permission.
    Mapping = 2,
}

/// Flags of a fault event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultFlags(pub u32);

impl FaultFlags {
    /// The failed access was a read.
    pub const READ: Self = Self(1 << 0);
    /// The failed access was a write.
    pub const WRITE: Self = Self(1 << 1);
    /// [`FaultEvent::address`] is valid.
    pub const ADDRESS: Self = Self(1 << 8);

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One event, 24 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FaultEvent {
    /// A [`FaultReason`].
    pub reason: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// Bits of [`FaultFlags`].
    pub flags: U32,
    /// Endpoint id.
    pub endpoint: U32,
    /// Zero.
    pub reserved1: U32,
    /// The IOVA of the failed access.
    pub address: U64,
}

impl FaultEvent {
    /// Size in bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// The event for a failed access of `endpoint` at the IOVA `address`; `access` is `READ` or `WRITE`.
    #[must_use]
    pub fn new(reason: FaultReason, endpoint: u32, access: FaultFlags, address: u64) -> Self {
        Self {
            reason: reason as u8,
            reserved: [0; 3],
            flags: (access.0 | FaultFlags::ADDRESS.0).into(),
            endpoint: endpoint.into(),
            reserved1: 0.into(),
            address: address.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn layout_is_the_specified_one() {
        assert_eq!(FaultEvent::SIZE, 24);
        assert_eq!(offset_of!(FaultEvent, reason), 0);
        assert_eq!(offset_of!(FaultEvent, reserved), 1);
        assert_eq!(offset_of!(FaultEvent, flags), 4);
        assert_eq!(offset_of!(FaultEvent, endpoint), 8);
        assert_eq!(offset_of!(FaultEvent, reserved1), 12);
        assert_eq!(offset_of!(FaultEvent, address), 16);
    }

    #[test]
    fn bytes_of_a_write_fault() {
        #[rustfmt::skip]
        let bytes = [
            2, 0, 0, 0, 2, 1, 0, 0,
            0x30, 0, 0, 0, 0, 0, 0, 0,
            0x34, 0x12, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(FaultEvent::new(FaultReason::Mapping, 0x30, FaultFlags::WRITE, 0x1234).as_bytes(), bytes);
    }

    #[test]
    fn values_are_the_specified_ones() {
        assert_eq!((FaultReason::Unknown as u8, FaultReason::Domain as u8), (0, 1));
        assert_eq!((FaultFlags::READ.0, FaultFlags::WRITE.0, FaultFlags::ADDRESS.0), (1, 2, 0x100));
        assert!(FaultFlags(0x101).contains(FaultFlags::READ));
        assert!(!FaultFlags(0x101).contains(FaultFlags::WRITE));
    }
}
