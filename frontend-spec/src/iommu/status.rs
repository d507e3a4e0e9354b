//! The answer to a request: a status in the tail (virtio 1.2 §5.13.6).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The virtio transport failed.
    IoErr = 1,
    /// The request cannot be served in this combination.
    Unsupp = 2,
    /// The device failed internally.
    DevErr = 3,
    /// A parameter is invalid.
    Inval = 4,
    /// A parameter is out of range.
    Range = 5,
    /// The endpoint or domain does not exist.
    NoEnt = 6,
    /// An address is bad.
    Fault = 7,
    /// The device is out of resources.
    NoMem = 8,
}

/// A status byte outside the defined values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no virtio-iommu status (0 to 8 are); the device does not follow virtio 1.2 §5.13.6")]
pub struct UnknownStatus(pub u8);

impl TryFrom<u8> for Status {
    type Error = UnknownStatus;

    fn try_from(value: u8) -> Result<Self, UnknownStatus> {
        Ok(match value {
            0 => Self::Ok,
            1 => Self::IoErr,
            2 => Self::Unsupp,
            3 => Self::DevErr,
            4 => Self::Inval,
            5 => Self::Range,
            6 => Self::NoEnt,
            7 => Self::Fault,
            8 => Self::NoMem,
            other => return Err(UnknownStatus(other)),
        })
    }
}

impl From<Status> for u8 {
    fn from(status: Status) -> Self {
        // The enum is `repr(u8)` without fields.
        status as Self
    }
}

/// The last four bytes that the device writes for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Tail {
    /// A [`Status`].
    pub status: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl Tail {
    /// Size in bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// The tail that reports `status`.
    #[must_use]
    pub const fn new(status: Status) -> Self {
        Self { status: status as u8, reserved: [0; 3] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn tail_is_status_then_three_zeros() {
        assert_eq!(Tail::SIZE, 4);
        assert_eq!(offset_of!(Tail, status), 0);
        assert_eq!(offset_of!(Tail, reserved), 1);
        assert_eq!(Tail::new(Status::NoEnt).as_bytes(), [6, 0, 0, 0]);
    }

    #[test]
    fn every_status_has_its_number() {
        let in_order = [
            Status::Ok,
            Status::IoErr,
            Status::Unsupp,
            Status::DevErr,
            Status::Inval,
            Status::Range,
            Status::NoEnt,
            Status::Fault,
            Status::NoMem,
        ];
        for (number, status) in (0_u8..).zip(in_order) {
            assert_eq!(u8::from(status), number);
            assert_eq!(Status::try_from(number), Ok(status));
        }
        assert_eq!(Status::try_from(9), Err(UnknownStatus(9)));
    }
}
