//! The bytes of virtio-iommu requests, properties, events and configuration.

use crate::guest::address::GuestPhys;

/// `VIRTIO_IOMMU_F_INPUT_RANGE`.
pub const F_INPUT_RANGE: u64 = 1 << 0;
/// `VIRTIO_IOMMU_F_DOMAIN_RANGE`.
pub const F_DOMAIN_RANGE: u64 = 1 << 1;
/// `VIRTIO_IOMMU_F_MAP_UNMAP`.
pub const F_MAP_UNMAP: u64 = 1 << 2;
/// `VIRTIO_IOMMU_F_BYPASS`, superseded by bit 6.
pub const F_BYPASS: u64 = 1 << 3;
/// `VIRTIO_IOMMU_F_PROBE`.
pub const F_PROBE: u64 = 1 << 4;
/// `VIRTIO_IOMMU_F_MMIO`.
pub const F_MMIO: u64 = 1 << 5;
/// `VIRTIO_IOMMU_F_BYPASS_CONFIG`.
pub const F_BYPASS_CONFIG: u64 = 1 << 6;

/// ATTACH flag: accesses of the endpoint are not translated.
pub const ATTACH_F_BYPASS: u32 = 1;
/// MAP flag: the endpoint may read.
pub const MAP_F_READ: u32 = 1;
/// MAP flag: the endpoint may write.
pub const MAP_F_WRITE: u32 = 2;
/// MAP flag: the target is memory-mapped I/O.
pub const MAP_F_MMIO: u32 = 4;

/// Bytes of the tail: status and three reserved ones.
pub(super) const TAIL_BYTES: usize = 4;
/// Bytes of the largest readable part, that of PROBE.
pub(super) const REQUEST_BYTES: usize = 72;
/// Bytes of one event.
pub(super) const EVENT_BYTES: usize = 24;

const TYPE_ATTACH: u8 = 1;
const TYPE_DETACH: u8 = 2;
const TYPE_MAP: u8 = 3;
const TYPE_UNMAP: u8 = 4;
const TYPE_PROBE: u8 = 5;
const PROBE_T_MASK: u16 = 0xfff;
const PROBE_T_NONE: u16 = 0;
const PROBE_T_RESV_MEM: u16 = 1;
const RESV_MEM_BYTES: usize = 20;

/// A request of the driver. Ranges are inclusive, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Put an endpoint into a domain (§5.13.6.3).
    Attach {
        /// The domain.
        domain: u32,
        /// The endpoint.
        endpoint: u32,
        /// [`ATTACH_F_BYPASS`] or 0.
        flags: u32,
    },
    /// Take an endpoint out of a domain (§5.13.6.4).
    Detach {
        /// The domain.
        domain: u32,
        /// The endpoint.
        endpoint: u32,
    },
    /// Let IOVAs `first..=last` reach memory from `target` on (§5.13.6.5).
    Map {
        /// The domain.
        domain: u32,
        /// First IOVA.
        first: u64,
        /// Last IOVA.
        last: u64,
        /// Address of the memory behind `first`.
        target: GuestPhys,
        /// [`MAP_F_READ`], [`MAP_F_WRITE`], [`MAP_F_MMIO`].
        flags: u32,
    },
    /// Remove all mappings inside `first..=last` (§5.13.6.6).
    Unmap {
        /// The domain.
        domain: u32,
        /// First IOVA.
        first: u64,
        /// Last IOVA.
        last: u64,
    },
    /// Ask for an endpoint's properties (§5.13.6.7).
    Probe {
        /// The endpoint.
        endpoint: u32,
    },
}

impl Request {
    /// The readable part of the request.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [0; REQUEST_BYTES];
        let length = self.emit(&mut bytes);
        bytes[..length].to_vec()
    }

    /// Write the readable part into `bytes`, which is zero. Returns its length.
    pub(super) fn emit(&self, bytes: &mut [u8; REQUEST_BYTES]) -> usize {
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        match *self {
            Self::Attach { domain, endpoint, flags } => {
                put(0, &[TYPE_ATTACH]);
                put(4, &domain.to_le_bytes());
                put(8, &endpoint.to_le_bytes());
                put(12, &flags.to_le_bytes());
                20
            }
            Self::Detach { domain, endpoint } => {
                put(0, &[TYPE_DETACH]);
                put(4, &domain.to_le_bytes());
                put(8, &endpoint.to_le_bytes());
                20
            }
            Self::Map { domain, first, last, target, flags } => {
                put(0, &[TYPE_MAP]);
                put(4, &domain.to_le_bytes());
                put(8, &first.to_le_bytes());
                put(16, &last.to_le_bytes());
                put(24, &target.0.to_le_bytes());
                put(32, &flags.to_le_bytes());
                36
            }
            Self::Unmap { domain, first, last } => {
                put(0, &[TYPE_UNMAP]);
                put(4, &domain.to_le_bytes());
                put(8, &first.to_le_bytes());
                put(16, &last.to_le_bytes());
                28
            }
            Self::Probe { endpoint } => {
                put(0, &[TYPE_PROBE]);
                put(4, &endpoint.to_le_bytes());
                REQUEST_BYTES
            }
        }
    }
}

/// The status byte of a request's tail (§5.13.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 0: done.
    Ok,
    /// 1: virtio communication error.
    IoErr,
    /// 2: unsupported.
    Unsupported,
    /// 3: internal device error.
    DeviceError,
    /// 4: invalid parameters.
    Invalid,
    /// 5: out of range.
    Range,
    /// 6: no such domain or endpoint.
    NoEntry,
    /// 7: bad address.
    Fault,
    /// 8: out of resources.
    NoMemory,
    /// Any other number.
    Other(u8),
}

impl From<u8> for Status {
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::IoErr,
            2 => Self::Unsupported,
            3 => Self::DeviceError,
            4 => Self::Invalid,
            5 => Self::Range,
            6 => Self::NoEntry,
            7 => Self::Fault,
            8 => Self::NoMemory,
            other => Self::Other(other),
        }
    }
}

/// The device's configuration (§5.13.4). Fields whose feature is not offered are as the device left
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IommuConfig {
    /// Page sizes; the lowest set bit is the granule.
    pub page_size_mask: u64,
    /// First usable IOVA.
    pub input_first: u64,
    /// Last usable IOVA.
    pub input_last: u64,
    /// First usable domain.
    pub domain_first: u32,
    /// Last usable domain.
    pub domain_last: u32,
    /// Bytes of properties that a PROBE returns.
    pub probe_bytes: u32,
    /// Whether unattached endpoints bypass (0 or 1).
    pub bypass: u8,
}

impl IommuConfig {
    /// Bytes of the configuration space.
    pub const BYTES: usize = 40;
    /// Offset of the only byte a driver may write.
    pub const BYPASS_OFFSET: u32 = 36;

    /// Read the fields out of the configuration space.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            page_size_mask: le64(bytes, 0),
            input_first: le64(bytes, 8),
            input_last: le64(bytes, 16),
            domain_first: le32(bytes, 24),
            domain_last: le32(bytes, 28),
            probe_bytes: le32(bytes, 32),
            bypass: bytes[36],
        }
    }

    /// The smallest page the device maps, in bytes; 0 when the mask is empty.
    #[must_use]
    pub fn granule(&self) -> u64 {
        self.page_size_mask & self.page_size_mask.wrapping_neg()
    }
}

/// IOVAs that an endpoint must not map (§5.13.6.7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedRegion {
    /// Whether it is the doorbell window of message-signalled interrupts.
    pub msi: bool,
    /// First IOVA.
    pub first: u64,
    /// Last IOVA.
    pub last: u64,
}

impl ReservedRegion {
    /// The reserved regions among the properties that a PROBE returned, or why they are malformed.
    pub(super) fn parse_all(properties: &[u8]) -> Result<Vec<Self>, &'static str> {
        let mut regions = Vec::new();
        let mut at = 0;
        while let Some(header) = properties.get(at..at + 4) {
            let kind = u16::from_le_bytes([header[0], header[1]]);
            let length = usize::from(u16::from_le_bytes([header[2], header[3]]));
            if kind & !PROBE_T_MASK != 0 {
                return Err("the reserved bits of a property's type are set");
            }
            if kind == PROBE_T_NONE {
                break;
            }
            let value = properties.get(at + 4..at + 4 + length).ok_or("a property is longer than the room for it")?;
            if kind == PROBE_T_RESV_MEM {
                if length != RESV_MEM_BYTES {
                    return Err("a RESV_MEM property is not 20 bytes long");
                }
                let (first, last) = (le64(value, 4), le64(value, 12));
                if value[0] > 1 || value[1..4] != [0; 3] || last < first {
                    return Err("a RESV_MEM property has a bad subtype or an inverted range");
                }
                regions.push(Self { msi: value[0] == 1, first, last });
            }
            at += 4 + length;
        }
        Ok(regions)
    }
}

/// A fault that the device reported (§5.13.6.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultEvent {
    /// 0 unknown, 1 not attached, 2 no mapping with that permission.
    pub reason: u8,
    /// 1 read, 2 write, 0x100 the address is valid.
    pub flags: u32,
    /// The endpoint.
    pub endpoint: u32,
    /// The IOVA.
    pub address: u64,
}

impl FaultEvent {
    /// Read an event, or say which rule it breaks.
    pub(super) fn parse(bytes: &[u8; EVENT_BYTES]) -> Result<Self, &'static str> {
        if bytes[1..4] != [0; 3] || le32(bytes, 12) != 0 {
            return Err("the reserved bytes of an event are set");
        }
        Ok(Self { reason: bytes[0], flags: le32(bytes, 4), endpoint: le32(bytes, 8), address: le64(bytes, 16) })
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_request_is_laid_out_as_specified() {
        let bytes = Request::Map {
            domain: 0x0102_0304,
            first: 0x1000,
            last: 0x1fff,
            target: GuestPhys(0xabc_d000),
            flags: MAP_F_READ | MAP_F_WRITE,
        }
        .to_bytes();
        assert_eq!(bytes.len(), 36);
        assert_eq!(bytes[..8], [3, 0, 0, 0, 4, 3, 2, 1]);
        assert_eq!(bytes[8..10], [0x00, 0x10]);
        assert_eq!(bytes[16..18], [0xff, 0x1f]);
        assert_eq!(bytes[24..28], [0x00, 0xd0, 0xbc, 0x0a]);
        assert_eq!(bytes[32..], [3, 0, 0, 0]);
        let lengths = [
            (20, Request::Detach { domain: 1, endpoint: 2 }),
            (28, Request::Unmap { domain: 1, first: 0, last: 4095 }),
            (72, Request::Probe { endpoint: 9 }),
        ];
        for (length, request) in lengths {
            assert_eq!(request.to_bytes().len(), length);
        }
    }

    #[test]
    fn properties_end_at_none_and_unknown_ones_are_skipped() {
        let mut properties = vec![0x02, 0, 4, 0, 1, 2, 3, 4];
        properties.extend([1, 0, 20, 0, 1, 0, 0, 0]);
        properties.extend(0xfee0_0000_u64.to_le_bytes());
        properties.extend(0xfeef_ffff_u64.to_le_bytes());
        properties.extend([0; 12]);
        let region = ReservedRegion { msi: true, first: 0xfee0_0000, last: 0xfeef_ffff };
        assert_eq!(ReservedRegion::parse_all(&properties), Ok(vec![region]));
        assert!(ReservedRegion::parse_all(&properties[..30]).is_err());
        properties[1] = 0x10;
        assert!(ReservedRegion::parse_all(&properties).is_err());
    }
}
