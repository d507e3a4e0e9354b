//! What makes the devices fast, each to be switched off by itself, to measure what it is worth.

/// Which mechanisms are in use; what guests see is the same without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mechanisms {
    /// All IOMMU requests that are there are made true and answered at once; else one after the other.
    pub batching: bool,
    /// Neighbouring pages of a buffer are one piece for the file system; else each page is one.
    pub coalescing: bool,
    /// File data goes straight between files and the guest's pages; else by way of a buffer of the daemon.
    pub zero_copy: bool,
}

impl Default for Mechanisms {
    /// All.
    fn default() -> Self {
        Self { batching: true, coalescing: true, zero_copy: true }
    }
}

impl Mechanisms {
    /// IOMMU requests in a batch, at most.
    pub(super) fn largest_batch(self) -> u16 {
        if self.batching { u16::MAX } else { 1 }
    }
}
