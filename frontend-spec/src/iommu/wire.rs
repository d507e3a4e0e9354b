//! The readable part of each request, as bytes (virtio 1.2 §5.13.6).
//!
//! A driver builds these with `new`; a device decodes them with [`Request::parse`](super::Request::parse).

use super::{AttachFlags, MapFlags};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

/// Type of ATTACH.
pub const T_ATTACH: u8 = 1;
/// Type of DETACH.
pub const T_DETACH: u8 = 2;
/// Type of MAP.
pub const T_MAP: u8 = 3;
/// Type of UNMAP.
pub const T_UNMAP: u8 = 4;
/// Type of PROBE.
pub const T_PROBE: u8 = 5;

/// The first four bytes of every request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Head {
    /// One of the `T_` constants.
    pub kind: u8,
    /// Zero from a driver; ignored by a device.
    pub reserved: [u8; 3],
}

impl Head {
    /// A head of type `kind`.
    #[must_use]
    pub const fn new(kind: u8) -> Self {
        Self { kind, reserved: [0; 3] }
    }
}

/// ATTACH, 20 bytes (virtio 1.2 §5.13.6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AttachRequest {
    /// Type [`T_ATTACH`].
    pub head: Head,
    /// Domain id; an unknown one is created.
    pub domain: U32,
    /// Endpoint id.
    pub endpoint: U32,
    /// Bits of [`AttachFlags`].
    pub flags: U32,
    /// Zero; anything else is `INVAL`.
    pub reserved: [u8; 4],
}

impl AttachRequest {
    /// A request to attach `endpoint` to `domain`.
    #[must_use]
    pub fn new(domain: u32, endpoint: u32, flags: AttachFlags) -> Self {
        Self {
            head: Head::new(T_ATTACH),
            domain: domain.into(),
            endpoint: endpoint.into(),
            flags: flags.0.into(),
            reserved: [0; 4],
        }
    }
}

/// DETACH, 20 bytes (virtio 1.2 §5.13.6.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DetachRequest {
    /// Type [`T_DETACH`].
    pub head: Head,
    /// Domain id.
    pub domain: U32,
    /// Endpoint id.
    pub endpoint: U32,
    /// Zero from a driver; ignored by a device.
    pub reserved: [u8; 8],
}

impl DetachRequest {
    /// A request to detach `endpoint` from `domain`.
    #[must_use]
    pub fn new(domain: u32, endpoint: u32) -> Self {
        Self { head: Head::new(T_DETACH), domain: domain.into(), endpoint: endpoint.into(), reserved: [0; 8] }
    }
}

/// MAP, 36 bytes (virtio 1.2 §5.13.6.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct MapRequest {
    /// Type [`T_MAP`].
    pub head: Head,
    /// Domain id.
    pub domain: U32,
    /// First IOVA of the mapping.
    pub virt_start: U64,
    /// Last IOVA of the mapping (inclusive).
    pub virt_end: U64,
    /// Guest-physical address that `virt_start` leads to.
    pub phys_start: U64,
    /// Bits of [`MapFlags`].
    pub flags: U32,
}

impl MapRequest {
    /// A request to map the IOVAs from `virt_start` to `virt_end` (inclusive) to `phys_start` and on.
    #[must_use]
    pub fn new(domain: u32, virt_start: u64, virt_end: u64, phys_start: u64, flags: MapFlags) -> Self {
        Self {
            head: Head::new(T_MAP),
            domain: domain.into(),
            virt_start: virt_start.into(),
            virt_end: virt_end.into(),
            phys_start: phys_start.into(),
            flags: flags.0.into(),
        }
    }
}

/// UNMAP, 28 bytes (virtio 1.2 §5.13.6.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct UnmapRequest {
    /// Type [`T_UNMAP`].
    pub head: Head,
    /// Domain id.
    pub domain: U32,
    /// First IOVA to unmap.
    pub virt_start: U64,
    /// Last IOVA to unmap (inclusive).
    pub virt_end: U64,
    /// Zero from a driver; this device ignores it.
    pub reserved: [u8; 4],
}

impl UnmapRequest {
    /// A request to unmap the IOVAs from `virt_start` to `virt_end` (inclusive).
    #[must_use]
    pub fn new(domain: u32, virt_start: u64, virt_end: u64) -> Self {
        Self {
            head: Head::new(T_UNMAP),
            domain: domain.into(),
            virt_start: virt_start.into(),
            virt_end: virt_end.into(),
            reserved: [0; 4],
        }
    }
}

/// PROBE, 72 bytes (virtio 1.2 §5.13.6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ProbeRequest {
    /// Type [`T_PROBE`].
    pub head: Head,
    /// Endpoint id.
    pub endpoint: U32,
    /// Zero from a driver; ignored by a device.
    pub reserved: [u8; 64],
}

impl ProbeRequest {
    /// A request for the properties of `endpoint`.
    #[must_use]
    pub fn new(endpoint: u32) -> Self {
        Self { head: Head::new(T_PROBE), endpoint: endpoint.into(), reserved: [0; 64] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn head() {
        assert_eq!(size_of::<Head>(), 4);
        assert_eq!(offset_of!(Head, kind), 0);
        assert_eq!(offset_of!(Head, reserved), 1);
    }

    #[test]
    fn attach() {
        assert_eq!(size_of::<AttachRequest>(), 20);
        assert_eq!(offset_of!(AttachRequest, head), 0);
        assert_eq!(offset_of!(AttachRequest, domain), 4);
        assert_eq!(offset_of!(AttachRequest, endpoint), 8);
        assert_eq!(offset_of!(AttachRequest, flags), 12);
        assert_eq!(offset_of!(AttachRequest, reserved), 16);
        assert_eq!(
            AttachRequest::new(7, 0x30, AttachFlags::BYPASS).as_bytes(),
            [1, 0, 0, 0, 7, 0, 0, 0, 0x30, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn detach() {
        assert_eq!(size_of::<DetachRequest>(), 20);
        assert_eq!(offset_of!(DetachRequest, head), 0);
        assert_eq!(offset_of!(DetachRequest, domain), 4);
        assert_eq!(offset_of!(DetachRequest, endpoint), 8);
        assert_eq!(offset_of!(DetachRequest, reserved), 12);
        assert_eq!(
            DetachRequest::new(0x0102_0304, 0x30).as_bytes(),
            [2, 0, 0, 0, 4, 3, 2, 1, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn map() {
        assert_eq!(size_of::<MapRequest>(), 36);
        assert_eq!(offset_of!(MapRequest, head), 0);
        assert_eq!(offset_of!(MapRequest, domain), 4);
        assert_eq!(offset_of!(MapRequest, virt_start), 8);
        assert_eq!(offset_of!(MapRequest, virt_end), 16);
        assert_eq!(offset_of!(MapRequest, phys_start), 24);
        assert_eq!(offset_of!(MapRequest, flags), 32);
        #[rustfmt::skip]
        let bytes = [
            3, 0, 0, 0, 1, 0, 0, 0,
            0, 0x10, 0, 0, 0, 0, 0, 0,
            0xff, 0x1f, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0x80, 1, 0, 0, 0,
            3, 0, 0, 0,
        ];
        assert_eq!(MapRequest::new(1, 0x1000, 0x1fff, 0x1_8000_0000, MapFlags::READ_WRITE).as_bytes(), bytes);
    }

    #[test]
    fn unmap() {
        assert_eq!(size_of::<UnmapRequest>(), 28);
        assert_eq!(offset_of!(UnmapRequest, head), 0);
        assert_eq!(offset_of!(UnmapRequest, domain), 4);
        assert_eq!(offset_of!(UnmapRequest, virt_start), 8);
        assert_eq!(offset_of!(UnmapRequest, virt_end), 16);
        assert_eq!(offset_of!(UnmapRequest, reserved), 24);
        #[rustfmt::skip]
        let bytes = [
            4, 0, 0, 0, 1, 0, 0, 0,
            0, 0x10, 0, 0, 0, 0, 0, 0,
            0xff, 0x1f, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0,
        ];
        assert_eq!(UnmapRequest::new(1, 0x1000, 0x1fff).as_bytes(), bytes);
    }

    #[test]
    fn probe() {
        assert_eq!(size_of::<ProbeRequest>(), 72);
        assert_eq!(offset_of!(ProbeRequest, head), 0);
        assert_eq!(offset_of!(ProbeRequest, endpoint), 4);
        assert_eq!(offset_of!(ProbeRequest, reserved), 8);
        let mut bytes = [0; 72];
        bytes[0] = 5;
        bytes[4] = 0x30;
        assert_eq!(ProbeRequest::new(0x30).as_bytes(), bytes);
    }
}
