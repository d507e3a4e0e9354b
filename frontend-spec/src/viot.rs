//! The ACPI table VIOT, which tells a guest which devices the virtio-iommu translates (ACPI 6.5, Virtual I/O Translation
//! Table).
//!
//! Layout: a 36-byte ACPI header, 12 bytes of node count and offset, one 24-byte node for each run of consecutive PCI
//! addresses, one of 24 bytes for each virtio-mmio device, one 16-byte node for the IOMMU.

use crate::{pci::Bdf, place::Place};
use std::collections::{BTreeMap, BTreeSet};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

const NODE_PCI_RANGE: u8 = 1;
const NODE_MMIO_ENDPOINT: u8 = 2;
const NODE_VIRTIO_IOMMU_PCI: u8 = 3;
const NODE_VIRTIO_IOMMU_MMIO: u8 = 4;
const NODES_OFFSET: u16 = 48;
/// A PCI range or an MMIO endpoint.
const RANGE_BYTES: u16 = 24;
const IOMMU_BYTES: u16 = 16;
const CHECKSUM_OFFSET: usize = 9;

/// Most runs of consecutive PCI addresses and virtio-mmio devices that a table can hold together: node offsets have 16
/// bits.
pub const MAX_RANGES: usize = ((u16::MAX - NODES_OFFSET) / RANGE_BYTES) as usize;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct TableHeader {
    signature: [u8; 4],
    length: U32,
    revision: u8,
    checksum: u8,
    oem_id: [u8; 6],
    oem_table_id: [u8; 8],
    oem_revision: U32,
    creator_id: [u8; 4],
    creator_revision: U32,
    node_count: U16,
    node_offset: U16,
    reserved: [u8; 8],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct PciRangeNode {
    kind: u8,
    reserved: u8,
    length: U16,
    endpoint_start: U32,
    segment_start: U16,
    segment_end: U16,
    bdf_start: U16,
    bdf_end: U16,
    output_node: U16,
    reserved1: [u8; 6],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct MmioNode {
    kind: u8,
    reserved: u8,
    length: U16,
    endpoint: U32,
    base_address: U64,
    output_node: U16,
    reserved1: [u8; 6],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct PciIommuNode {
    kind: u8,
    reserved: u8,
    length: U16,
    segment: U16,
    bdf: U16,
    reserved1: [u8; 8],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct MmioIommuNode {
    kind: u8,
    reserved: u8,
    length: U16,
    reserved1: [u8; 4],
    base_address: U64,
}

/// The topology of one virtio-iommu and the devices behind it, on PCI segment 0 or by the addresses of their registers.
///
/// The endpoint id of a PCI function is its address ([`Bdf::endpoint_id`]).
///
/// # Example
/// ```
/// use frontend_spec::{pci::Bdf, viot::Viot};
/// let iommu: Bdf = "00:05.0".parse().unwrap();
/// let share: Bdf = "00:06.0".parse().unwrap();
/// let table = Viot::new(iommu).endpoint(share).encode().unwrap();
/// assert_eq!(table.len(), 88);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viot {
    iommu: Place,
    endpoints: BTreeSet<Bdf>,
    /// Endpoint ids of virtio-mmio devices, by the address of their registers.
    mmio: BTreeMap<u64, Bdf>,
}

/// Why a topology has no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViotError {
    /// The IOMMU is listed behind itself.
    #[error("the virtio-iommu at {0} cannot translate itself; give the device behind it another address")]
    IommuIsEndpoint(Place),
    /// The endpoints need too many nodes.
    #[error("the endpoints form {0} runs of addresses and a VIOT holds {MAX_RANGES}; use consecutive PCI addresses")]
    TooManyRanges(usize),
}

impl Viot {
    /// A topology with the IOMMU at `iommu` and nothing behind it yet.
    #[must_use]
    pub fn new(iommu: impl Into<Place>) -> Self {
        Self { iommu: iommu.into(), endpoints: BTreeSet::new(), mmio: BTreeMap::new() }
    }

    /// Puts `endpoint` behind the IOMMU. Order does not matter, and neither does repetition.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<Place>) -> Self {
        let endpoint = endpoint.into();
        match endpoint.registers {
            Some(registers) => {
                self.mmio.insert(registers, endpoint.id);
            }
            None => {
                self.endpoints.insert(endpoint.id);
            }
        }
        self
    }

    /// Puts all of `endpoints` behind the IOMMU.
    #[must_use]
    pub fn endpoints<P: Into<Place>>(self, endpoints: impl IntoIterator<Item = P>) -> Self {
        endpoints.into_iter().fold(self, Self::endpoint)
    }

    /// The whole table, ACPI header and checksum included: 64 bytes and 24 for each run and virtio-mmio device.
    ///
    /// # Errors
    /// See [`ViotError`].
    pub fn encode(&self) -> Result<Vec<u8>, ViotError> {
        let behind_itself = match self.iommu.registers {
            Some(registers) => self.mmio.contains_key(&registers),
            None => self.endpoints.contains(&self.iommu.id),
        };
        if behind_itself {
            return Err(ViotError::IommuIsEndpoint(self.iommu));
        }
        let runs = self.runs();
        let nodes = runs.len() + self.mmio.len();
        let count = u16::try_from(nodes)
            .ok()
            .filter(|&count| usize::from(count) <= MAX_RANGES)
            .ok_or(ViotError::TooManyRanges(nodes))?;
        // `count <= MAX_RANGES` keeps the offset within 16 bits.
        let iommu_offset = NODES_OFFSET + count * RANGE_BYTES;

        let mut table = Vec::with_capacity(usize::from(iommu_offset) + usize::from(IOMMU_BYTES));
        table.extend_from_slice(header(u32::from(iommu_offset) + u32::from(IOMMU_BYTES), count + 1).as_bytes());
        for (first, last) in runs {
            table.extend_from_slice(range_node(first, last, iommu_offset).as_bytes());
        }
        for (&registers, &id) in &self.mmio {
            table.extend_from_slice(mmio_node(id, registers, iommu_offset).as_bytes());
        }
        match self.iommu.registers {
            None => table.extend_from_slice(pci_iommu_node(self.iommu.id).as_bytes()),
            Some(registers) => table.extend_from_slice(mmio_iommu_node(registers).as_bytes()),
        }
        let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        table[CHECKSUM_OFFSET] = sum.wrapping_neg();
        Ok(table)
    }

    /// First and last address of each run of consecutive endpoint addresses, ascending.
    fn runs(&self) -> Vec<(Bdf, Bdf)> {
        let mut runs: Vec<(Bdf, Bdf)> = Vec::new();
        for &endpoint in &self.endpoints {
            match runs.last_mut() {
                Some((_, last)) if last.to_u16().checked_add(1) == Some(endpoint.to_u16()) => *last = endpoint,
                _ => runs.push((endpoint, endpoint)),
            }
        }
        runs
    }
}

fn header(length: u32, node_count: u16) -> TableHeader {
    TableHeader {
        signature: *b"VIOT",
        length: length.into(),
        revision: 0,
        checksum: 0,
        oem_id: *b"CALGRY",
        oem_table_id: *b"CALGARYD",
        oem_revision: 1.into(),
        creator_id: *b"CALG",
        creator_revision: 1.into(),
        node_count: node_count.into(),
        node_offset: NODES_OFFSET.into(),
        reserved: [0; 8],
    }
}

fn range_node(first: Bdf, last: Bdf, output_node: u16) -> PciRangeNode {
    PciRangeNode {
        kind: NODE_PCI_RANGE,
        reserved: 0,
        length: RANGE_BYTES.into(),
        // Linux computes an endpoint id as address - bdf_start + endpoint_start: equal starts make it the address.
        endpoint_start: first.endpoint_id().into(),
        segment_start: 0.into(),
        segment_end: 0.into(),
        bdf_start: first.to_u16().into(),
        bdf_end: last.to_u16().into(),
        output_node: output_node.into(),
        reserved1: [0; 6],
    }
}

fn mmio_node(id: Bdf, registers: u64, output_node: u16) -> MmioNode {
    MmioNode {
        kind: NODE_MMIO_ENDPOINT,
        reserved: 0,
        length: RANGE_BYTES.into(),
        endpoint: id.endpoint_id().into(),
        base_address: registers.into(),
        output_node: output_node.into(),
        reserved1: [0; 6],
    }
}

fn mmio_iommu_node(registers: u64) -> MmioIommuNode {
    MmioIommuNode {
        kind: NODE_VIRTIO_IOMMU_MMIO,
        reserved: 0,
        length: IOMMU_BYTES.into(),
        reserved1: [0; 4],
        base_address: registers.into(),
    }
}

fn pci_iommu_node(iommu: Bdf) -> PciIommuNode {
    PciIommuNode {
        kind: NODE_VIRTIO_IOMMU_PCI,
        reserved: 0,
        length: IOMMU_BYTES.into(),
        segment: 0.into(),
        bdf: iommu.to_u16().into(),
        reserved1: [0; 8],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bdf(text: &str) -> Bdf {
        text.parse().unwrap()
    }

    fn le16(table: &[u8], at: usize) -> u16 {
        u16::from_le_bytes([table[at], table[at + 1]])
    }

    fn le32(table: &[u8], at: usize) -> u32 {
        u32::from_le_bytes([table[at], table[at + 1], table[at + 2], table[at + 3]])
    }

    /// Reads a table the way a guest does: node by node, following each range's output node. Returns the IOMMU that
    /// translates each function and the endpoint id it uses.
    fn topology(table: &[u8]) -> Vec<(u16, u32, u16)> {
        assert_eq!(&table[..4], b"VIOT");
        assert_eq!(le32(table, 4) as usize, table.len());
        assert_eq!(table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        let mut at = usize::from(le16(table, 38));
        let mut functions = Vec::new();
        for _ in 0..le16(table, 36) {
            if table[at] == 1 {
                assert_eq!((le16(table, at + 8), le16(table, at + 10)), (0, 0));
                let output = usize::from(le16(table, at + 16));
                assert_eq!(table[output], 3);
                assert_eq!(le16(table, output + 4), 0);
                let (first, last) = (le16(table, at + 12), le16(table, at + 14));
                for function in first..=last {
                    let endpoint = u32::from(function - first) + le32(table, at + 4);
                    functions.push((function, endpoint, le16(table, output + 6)));
                }
            }
            at += usize::from(le16(table, at + 2));
        }
        assert_eq!(at, table.len());
        functions
    }

    #[test]
    fn one_endpoint_gives_these_88_bytes() {
        let table = Viot::new(bdf("00:05.0")).endpoint(bdf("00:06.0")).encode().unwrap();
        #[rustfmt::skip]
        let expected: [u8; 88] = [
            b'V', b'I', b'O', b'T', 88, 0, 0, 0, 0, 0xe6,
            b'C', b'A', b'L', b'G', b'R', b'Y',
            b'C', b'A', b'L', b'G', b'A', b'R', b'Y', b'D',
            1, 0, 0, 0, b'C', b'A', b'L', b'G', 1, 0, 0, 0,
            2, 0, 48, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            1, 0, 24, 0, 0x30, 0, 0, 0, 0, 0, 0, 0, 0x30, 0, 0x30, 0, 72, 0, 0, 0, 0, 0, 0, 0,
            3, 0, 16, 0, 0, 0, 0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(table, expected);
    }

    #[test]
    fn the_bytes_of_every_table_sum_to_zero() {
        for endpoints in 0..40 {
            let table = Viot::new(bdf("00:05.0")).endpoints((0..endpoints).map(|n| Bdf::from_u16(0x30 + 3 * n)));
            let sum = table.encode().unwrap().iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0);
        }
    }

    #[test]
    fn the_endpoint_id_of_every_function_is_its_address() {
        let endpoints =
            ["03:00.1", "00:06.0", "00:07.0", "00:06.1", "03:00.0", "00:06.1", "ff:1f.7", "00:00.0"].map(bdf);
        let table = Viot::new(bdf("00:05.0")).endpoints(endpoints).encode().unwrap();
        let functions = topology(&table);
        let expected: BTreeSet<u16> = endpoints.iter().map(|e| e.to_u16()).collect();
        assert_eq!(functions.iter().map(|f| f.0).collect::<BTreeSet<_>>(), expected);
        assert_eq!(functions.len(), expected.len());
        for (function, endpoint, iommu) in functions {
            assert_eq!(endpoint, u32::from(function));
            assert_eq!(iommu, 0x28);
        }
    }

    #[test]
    fn consecutive_addresses_share_a_node() {
        let runs =
            [["00:06.0", "00:06.1", "00:06.2"], ["00:06.0", "00:06.1", "00:07.0"], ["00:06.0", "00:07.0", "00:08.0"]];
        for (nodes, run) in (1..).zip(runs) {
            let table = Viot::new(bdf("00:05.0")).endpoints(run.map(bdf)).encode().unwrap();
            assert_eq!(table.len(), 64 + 24 * nodes);
            assert_eq!(usize::from(le16(&table, 36)), nodes + 1);
            assert_eq!(topology(&table).len(), 3);
        }
    }

    #[test]
    fn a_run_ends_at_the_iommu_and_goes_on_behind_it() {
        let around = (0..=u16::MAX).filter(|&n| n != 0x28).map(Bdf::from_u16);
        let functions = topology(&Viot::new(bdf("00:05.0")).endpoints(around).encode().unwrap());
        assert_eq!(functions.len(), 0xffff);
        assert!(functions.iter().all(|&(function, endpoint, _)| function != 0x28 && endpoint == u32::from(function)));
    }

    #[test]
    fn an_iommu_alone_is_a_table_of_one_node() {
        let table = Viot::new(bdf("00:05.0")).encode().unwrap();
        assert_eq!(table.len(), 64);
        assert_eq!(topology(&table), []);
        assert_eq!((table[48], le16(&table, 54)), (3, 0x28));
    }

    #[test]
    fn the_iommu_is_not_its_own_endpoint() {
        let refused = Viot::new(bdf("00:05.0")).endpoint(bdf("00:05.0")).encode();
        assert_eq!(refused, Err(ViotError::IommuIsEndpoint(Place::pci(bdf("00:05.0")))));
        let iommu = Place::mmio(bdf("00:05.0"), 0xa000);
        let refused = Viot::new(iommu).endpoint(Place::mmio(bdf("00:06.0"), 0xa000)).encode();
        assert_eq!(refused, Err(ViotError::IommuIsEndpoint(iommu)));
    }

    #[test]
    fn devices_without_a_bus_give_these_bytes() {
        let place = |text: &str| text.parse::<Place>().unwrap();
        let table = Viot::new(place("00:05.0@0xfeb00a00")).endpoint(place("00:06.0@0xfeb00c00")).encode().unwrap();
        assert_eq!((table.len(), le16(&table, 36)), (88, 2));
        #[rustfmt::skip]
        assert_eq!(table[48..], [
            2, 0, 24, 0, 0x30, 0, 0, 0, 0, 0x0c, 0xb0, 0xfe, 0, 0, 0, 0, 72, 0, 0, 0, 0, 0, 0, 0,
            4, 0, 16, 0, 0, 0, 0, 0, 0, 0x0a, 0xb0, 0xfe, 0, 0, 0, 0,
        ]);
        assert_eq!(table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }

    #[test]
    fn the_table_is_full_when_offsets_are() {
        let scattered = |runs: u16| Viot::new(Bdf::from_u16(1)).endpoints((0..runs).map(|n| Bdf::from_u16(2 * n)));
        let most = u16::try_from(MAX_RANGES).unwrap();
        assert_eq!(topology(&scattered(most).encode().unwrap()).len(), MAX_RANGES);
        assert_eq!(scattered(most + 1).encode(), Err(ViotError::TooManyRanges(MAX_RANGES + 1)));
    }
}
