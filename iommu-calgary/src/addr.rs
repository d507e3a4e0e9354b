//! Addresses and identifiers.

use std::fmt;

/// The only page size that a TCE can describe, in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// Bits of an address that lie inside one page.
pub(crate) const PAGE_SHIFT: u32 = 12;

/// One more than the highest address that a TCE can point at: 36 bits of page number and 12 bits of offset.
pub(crate) const REAL_LIMIT: u64 = 1 << 48;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("iommu-calgary needs a 64-bit target: page indexes and table addresses are 64 bits wide");

/// An address as a device issues it, in bytes. Any 64-bit value; the chip translates those below the table's window.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Iova(pub u64);

impl Iova {
    /// Index of the page that holds this address, which is also the index of its TCE.
    pub(crate) const fn page(self) -> usize {
        (self.0 >> PAGE_SHIFT) as usize
    }

    /// Distance of this address from the start of its page, in bytes.
    pub(crate) const fn offset_in_page(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }

    /// First address of page `index`. The index must stem from an address, so that the shift loses nothing.
    pub(crate) const fn of_page(index: usize) -> Self {
        Self((index as u64) << PAGE_SHIFT)
    }
}

/// An address that a TCE points at, in bytes, below 2^48. For a guest's domain it is guest-physical.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RealAddr(pub u64);

/// Names one device function whose DMA is translated: on PCI its requester id (virtio 1.2 §5.13).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EndpointId(pub u32);

/// Names one address space (virtio 1.2 §5.13).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DomainId(pub u32);

impl fmt::Display for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for RealAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
