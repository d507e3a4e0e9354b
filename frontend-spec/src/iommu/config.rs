//! Configuration space of virtio-iommu (virtio 1.2 §5.13.4).

use core::mem::{offset_of, size_of};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

/// The 40 bytes of configuration space. Every range is inclusive at both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Config {
    /// Page sizes in bytes, one bit each. The lowest bit is the granule of MAP; the others are hints.
    pub page_size_mask: U64,
    /// First IOVA that can be mapped.
    pub input_range_start: U64,
    /// Last IOVA that can be mapped.
    pub input_range_end: U64,
    /// First domain id that can be attached.
    pub domain_range_start: U32,
    /// Last domain id that can be attached.
    pub domain_range_end: U32,
    /// Bytes of properties that a PROBE asks for, tail excluded.
    pub probe_size: U32,
    /// 1 if an unattached endpoint reaches memory untranslated, else 0. The one field a driver may write.
    pub bypass: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl Config {
    /// Size of the configuration space in bytes.
    pub const SIZE: usize = size_of::<Self>();
    /// Offset of [`bypass`](Self::bypass) in bytes.
    pub const BYPASS_OFFSET: usize = offset_of!(Self, bypass);

    /// The new value of `bypass` if a write of `data` at `offset` sets it.
    ///
    /// Front ends differ in what they forward for one guest write: the exact bytes, an aligned word, or the whole space.
    /// So every other byte is ignored, and so is a value of `bypass` that is neither 0 nor 1, which keeps the field
    /// readable as 0 or 1 at all times (virtio 1.2 §5.13.4.2).
    #[must_use]
    pub fn bypass_written(offset: usize, data: &[u8]) -> Option<bool> {
        let index = Self::BYPASS_OFFSET.checked_sub(offset)?;
        match data.get(index)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_the_specified_one() {
        assert_eq!(Config::SIZE, 40);
        assert_eq!(offset_of!(Config, page_size_mask), 0);
        assert_eq!(offset_of!(Config, input_range_start), 8);
        assert_eq!(offset_of!(Config, input_range_end), 16);
        assert_eq!(offset_of!(Config, domain_range_start), 24);
        assert_eq!(offset_of!(Config, domain_range_end), 28);
        assert_eq!(offset_of!(Config, probe_size), 32);
        assert_eq!(offset_of!(Config, bypass), 36);
        assert_eq!(offset_of!(Config, reserved), 37);
    }

    #[test]
    fn bytes_are_little_endian() {
        let config = Config {
            page_size_mask: 0x1000.into(),
            input_range_end: 0x0fff_ffff.into(),
            domain_range_end: 0xfffe.into(),
            probe_size: 0x200.into(),
            bypass: 1,
            ..Config::default()
        };
        #[rustfmt::skip]
        let bytes: [u8; 40] = [
            0, 0x10, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
            0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0,
            0, 0, 0, 0, 0xfe, 0xff, 0, 0,
            0, 2, 0, 0, 1, 0, 0, 0,
        ];
        assert_eq!(config.as_bytes(), bytes);
    }

    #[test]
    fn bypass_is_found_in_a_write_of_any_shape() {
        assert_eq!(Config::bypass_written(36, &[1]), Some(true));
        assert_eq!(Config::bypass_written(36, &[0, 9, 9, 9]), Some(false));
        assert_eq!(Config::bypass_written(32, &[9, 9, 9, 9, 1]), Some(true));
        let mut whole = [9; 40];
        whole[36] = 0;
        assert_eq!(Config::bypass_written(0, &whole), Some(false));
    }

    #[test]
    fn writes_to_other_bytes_and_other_values_change_nothing() {
        assert_eq!(Config::bypass_written(36, &[2]), None);
        assert_eq!(Config::bypass_written(36, &[]), None);
        assert_eq!(Config::bypass_written(37, &[1, 1, 1]), None);
        assert_eq!(Config::bypass_written(0, &[1; 36]), None);
        assert_eq!(Config::bypass_written(usize::MAX, &[1]), None);
    }
}
