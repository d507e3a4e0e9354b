//! Properties that answer a PROBE (virtio 1.2 §5.13.6.7, §5.13.6.8).

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U64},
};

/// Property type that ends a list.
pub const PROPERTY_NONE: u16 = 0;
/// Property type of a reserved region of IOVAs.
pub const PROPERTY_RESV_MEM: u16 = 1;

/// The upper four bits of the type field are reserved.
const TYPE_MASK: u16 = 0x0fff;
const HEADER_BYTES: usize = 4;

/// What a reserved region is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ResvMemSubtype {
    /// Not to be mapped.
    Reserved = 0,
    /// Writes to it raise message-signalled interrupts. At most one per endpoint.
    Msi = 1,
}

/// A reserved region with its property header, 24 bytes (virtio 1.2 §5.13.6.8.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ResvMemProperty {
    /// [`PROPERTY_RESV_MEM`].
    pub kind: U16,
    /// Bytes after this field: 20.
    pub length: U16,
    /// A [`ResvMemSubtype`].
    pub subtype: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// First IOVA of the region.
    pub start: U64,
    /// Last IOVA of the region (inclusive).
    pub end: U64,
}

impl ResvMemProperty {
    /// Size in bytes, header included.
    pub const SIZE: usize = size_of::<Self>();

    /// The property for the IOVAs from `start` to `end` (inclusive).
    #[must_use]
    pub fn new(subtype: ResvMemSubtype, start: u64, end: u64) -> Self {
        Self {
            kind: PROPERTY_RESV_MEM.into(),
            length: 20.into(),
            subtype: subtype as u8,
            reserved: [0; 3],
            start: start.into(),
            end: end.into(),
        }
    }
}

/// Why a property cannot be added. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The buffer has no room.
    #[error("the property needs {needed} bytes and {left} are left; raise probe_size or report fewer regions")]
    Full {
        /// Bytes of the property, header included.
        needed: usize,
        /// Bytes left in the buffer.
        left: usize,
    },
    /// The region's end lies before its start.
    #[error(
        "the reserved region {start:#x}..={end:#x} is inverted; give the first and the last address, in this order"
    )]
    Inverted {
        /// First IOVA asked for.
        start: u64,
        /// Last IOVA asked for.
        end: u64,
    },
    /// The region shares addresses with one already there.
    #[error("the reserved region {start:#x}..={end:#x} overlaps another of this endpoint; merge or trim them")]
    Overlap {
        /// First IOVA asked for.
        start: u64,
        /// Last IOVA asked for.
        end: u64,
    },
    /// The endpoint already has an MSI region.
    #[error("the endpoint already has an MSI region and may have only one; report the other as Reserved")]
    SecondMsi,
}

/// Builds the list of properties of one endpoint in a buffer of `probe_size` bytes.
///
/// Unused bytes are zero, which also ends the list. The rules for regions (one MSI region, no overlap) are checked here.
#[derive(Debug)]
pub struct ProbeBuffer<'a> {
    bytes: &'a mut [u8],
    used: usize,
}

impl<'a> ProbeBuffer<'a> {
    /// An empty list; all of `bytes` becomes zero.
    #[must_use]
    pub fn new(bytes: &'a mut [u8]) -> Self {
        bytes.fill(0);
        Self { bytes, used: 0 }
    }

    /// Adds a reserved region from `start` to `end` (inclusive).
    ///
    /// # Errors
    /// See [`ProbeError`]; the list is then unchanged.
    pub fn resv_mem(&mut self, subtype: ResvMemSubtype, start: u64, end: u64) -> Result<(), ProbeError> {
        if end < start {
            return Err(ProbeError::Inverted { start, end });
        }
        for region in self.regions() {
            if subtype == ResvMemSubtype::Msi && region.subtype == ResvMemSubtype::Msi as u8 {
                return Err(ProbeError::SecondMsi);
            }
            if region.start.get() <= end && start <= region.end.get() {
                return Err(ProbeError::Overlap { start, end });
            }
        }
        let left = self.bytes.len() - self.used;
        let property = ResvMemProperty::new(subtype, start, end);
        property
            .write_to_prefix(&mut self.bytes[self.used..])
            .map_err(|_| ProbeError::Full { needed: ResvMemProperty::SIZE, left })?;
        self.used += ResvMemProperty::SIZE;
        Ok(())
    }

    fn regions(&self) -> impl Iterator<Item = ResvMemProperty> {
        Properties::new(&self.bytes[..self.used]).filter_map(|property| property.resv_mem())
    }
}

/// One property of a list, undecoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property<'a> {
    /// The type, reserved bits removed.
    pub kind: u16,
    /// The whole property, header included.
    pub bytes: &'a [u8],
}

impl Property<'_> {
    /// The property as a reserved region, if it is one.
    #[must_use]
    pub fn resv_mem(&self) -> Option<ResvMemProperty> {
        if self.kind != PROPERTY_RESV_MEM {
            return None;
        }
        ResvMemProperty::read_from_prefix(self.bytes).ok().map(|(region, _)| region)
    }
}

/// Walks a list of properties as a driver does: up to type 0, the end of the bytes, or a property that runs past it.
#[derive(Clone, Debug)]
pub struct Properties<'a> {
    rest: &'a [u8],
}

impl<'a> Properties<'a> {
    /// The properties in `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Properties<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        let (kind, rest) = U16::read_from_prefix(self.rest).ok()?;
        let (length, _) = U16::read_from_prefix(rest).ok()?;
        let kind = kind.get() & TYPE_MASK;
        if kind == PROPERTY_NONE {
            return None;
        }
        let (bytes, rest) = self.rest.split_at_checked(HEADER_BYTES + usize::from(length.get()))?;
        self.rest = rest;
        Some(Property { kind, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn layout_is_the_specified_one() {
        assert_eq!(ResvMemProperty::SIZE, 24);
        assert_eq!(offset_of!(ResvMemProperty, kind), 0);
        assert_eq!(offset_of!(ResvMemProperty, length), 2);
        assert_eq!(offset_of!(ResvMemProperty, subtype), 4);
        assert_eq!(offset_of!(ResvMemProperty, reserved), 5);
        assert_eq!(offset_of!(ResvMemProperty, start), 8);
        assert_eq!(offset_of!(ResvMemProperty, end), 16);
    }

    #[test]
    fn bytes_of_two_regions_then_zeros() {
        let mut bytes = [0xaa; 56];
        let mut list = ProbeBuffer::new(&mut bytes);
        list.resv_mem(ResvMemSubtype::Msi, 0xfee0_0000, 0xfeef_ffff).unwrap();
        list.resv_mem(ResvMemSubtype::Reserved, 0xa_0000, 0xf_ffff).unwrap();
        #[rustfmt::skip]
        let expected = [
            1, 0, 20, 0, 1, 0, 0, 0,
            0, 0, 0xe0, 0xfe, 0, 0, 0, 0,
            0xff, 0xff, 0xef, 0xfe, 0, 0, 0, 0,
            1, 0, 20, 0, 0, 0, 0, 0,
            0, 0, 0x0a, 0, 0, 0, 0, 0,
            0xff, 0xff, 0x0f, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_refused_region_leaves_the_list_as_it_was() {
        let mut bytes = [0; 50];
        let mut list = ProbeBuffer::new(&mut bytes);
        list.resv_mem(ResvMemSubtype::Msi, 0x1000, 0x1fff).unwrap();
        assert_eq!(list.resv_mem(ResvMemSubtype::Msi, 0x9000, 0x9fff), Err(ProbeError::SecondMsi));
        let touching_ends = [(0, 0x1000), (0x1fff, 0x5000), (0, u64::MAX), (0x1800, 0x1801)];
        for (start, end) in touching_ends {
            assert_eq!(list.resv_mem(ResvMemSubtype::Reserved, start, end), Err(ProbeError::Overlap { start, end }));
        }
        assert_eq!(list.resv_mem(ResvMemSubtype::Reserved, 2, 1), Err(ProbeError::Inverted { start: 2, end: 1 }));
        list.resv_mem(ResvMemSubtype::Reserved, 0x2000, u64::MAX).unwrap();
        assert_eq!(list.resv_mem(ResvMemSubtype::Reserved, 0, 0xfff), Err(ProbeError::Full { needed: 24, left: 2 }));
        let regions: Vec<_> = Properties::new(&bytes).map(|p| p.resv_mem().unwrap()).collect();
        assert_eq!(
            regions,
            [
                ResvMemProperty::new(ResvMemSubtype::Msi, 0x1000, 0x1fff),
                ResvMemProperty::new(ResvMemSubtype::Reserved, 0x2000, u64::MAX),
            ]
        );
        assert_eq!(bytes[48..], [0, 0]);
    }

    #[test]
    fn the_walk_masks_reserved_type_bits_and_steps_over_unknown_properties() {
        let mut bytes = vec![0x02, 0xf0, 3, 0, 9, 9, 9];
        bytes.extend_from_slice(ResvMemProperty::new(ResvMemSubtype::Reserved, 0, 1).as_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(ResvMemProperty::new(ResvMemSubtype::Reserved, 2, 3).as_bytes());
        let walked: Vec<_> = Properties::new(&bytes).map(|p| (p.kind, p.bytes.len())).collect();
        assert_eq!(walked, [(2, 7), (1, 24)]);
    }

    #[test]
    fn the_walk_ends_at_a_property_that_runs_past_the_bytes() {
        assert_eq!(Properties::new(&[1, 0, 20, 0, 0]).count(), 0);
        assert_eq!(Properties::new(&[1, 0, 2]).count(), 0);
        assert_eq!(Properties::new(&[]).count(), 0);
    }

    #[test]
    fn a_short_value_is_no_region() {
        let property = Properties::new(&[1, 0, 1, 0, 0]).next().unwrap();
        assert_eq!(property.resv_mem(), None);
    }
}
