//! The two kinds of address a driver deals in.

use std::fmt;
use std::ops::{Add, Sub};

/// Bytes in a guest page. Every layout in this module assumes 4 KiB pages, as Linux uses on x86.
pub const PAGE_BYTES: usize = 4096;

/// [`PAGE_BYTES`] as the type of an address.
pub const PAGE: u64 = 4096;

/// A guest-physical address in bytes: where something is in guest RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPhys(pub u64);

/// An address in bytes as the device sees it: an IOVA behind an IOMMU, the guest-physical number
/// without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceAddr(pub u64);

macro_rules! address {
    ($name:ident) => {
        impl $name {
            /// The address of the page that holds this one.
            #[must_use]
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE - 1))
            }

            /// Bytes from the start of the page, 0 to 4095.
            #[must_use]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE - 1)
            }
        }

        /// Wraps at 2⁶⁴, as bus arithmetic does: hostile tests want such addresses.
        impl Add<u64> for $name {
            type Output = Self;
            fn add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }
        }

        /// Bytes from `other` up to `self`, wrapping at 2⁶⁴.
        impl Sub for $name {
            type Output = u64;
            fn sub(self, other: Self) -> u64 {
                self.0.wrapping_sub(other.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(GuestPhys);
address!(DeviceAddr);

impl From<GuestPhys> for DeviceAddr {
    /// The device address of a page when nothing translates.
    fn from(gpa: GuestPhys) -> Self {
        Self(gpa.0)
    }
}
