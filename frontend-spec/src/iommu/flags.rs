//! Flags of ATTACH and MAP (virtio 1.2 §5.13.6.3, §5.13.6.5).

/// Flags of an ATTACH request, as the driver sent them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachFlags(pub u32);

impl AttachFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The domain translates nothing. Known only if `BYPASS_CONFIG` was negotiated.
    pub const BYPASS: Self = Self(1 << 0);

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a flag outside `known` is set; the answer is then `INVAL` (virtio 1.2 §5.13.6.3.2).
    #[must_use]
    pub const fn exceeds(self, known: Self) -> bool {
        self.0 & !known.0 != 0
    }
}

/// Flags of a MAP request, as the driver sent them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapFlags(pub u32);

impl MapFlags {
    /// No access. Such a mapping still occupies its range.
    pub const NONE: Self = Self(0);
    /// The endpoint may read.
    pub const READ: Self = Self(1 << 0);
    /// The endpoint may write.
    pub const WRITE: Self = Self(1 << 1);
    /// The target is device memory. Known only if the feature `MMIO` was negotiated.
    pub const MMIO: Self = Self(1 << 2);
    /// Read and write.
    pub const READ_WRITE: Self = Self(Self::READ.0 | Self::WRITE.0);

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a flag outside `known` is set; the answer is then `INVAL` (virtio 1.2 §5.13.6.5.2).
    #[must_use]
    pub const fn exceeds(self, known: Self) -> bool {
        self.0 & !known.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_specified_ones() {
        assert_eq!(AttachFlags::BYPASS.0, 1);
        assert_eq!((MapFlags::READ.0, MapFlags::WRITE.0, MapFlags::MMIO.0), (1, 2, 4));
    }

    #[test]
    fn a_flag_is_unknown_unless_it_is_listed() {
        assert!(!MapFlags::READ_WRITE.exceeds(MapFlags::READ_WRITE));
        assert!(MapFlags::MMIO.exceeds(MapFlags::READ_WRITE));
        assert!(MapFlags(1 << 31).exceeds(MapFlags(7)));
        assert!(AttachFlags::BYPASS.exceeds(AttachFlags::NONE));
        assert!(!AttachFlags::BYPASS.exceeds(AttachFlags::BYPASS));
    }

    #[test]
    fn contains_asks_for_every_flag() {
        assert!(MapFlags::READ_WRITE.contains(MapFlags::WRITE));
        assert!(!MapFlags::READ.contains(MapFlags::READ_WRITE));
        assert!(!AttachFlags::NONE.contains(AttachFlags::BYPASS));
    }
}
