//! The RIO table: packed records, little-endian.

use super::{RioError, bytes};

/// The RIO table of a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RioTable {
    /// 2 or 3.
    pub version: u8,
    /// Scalability nodes: they connect chassis, and hold no PHBs.
    pub scalability: Vec<ScalabilityDevice>,
    /// I/O devices, the Calgaries among them.
    pub devices: Vec<RioDevice>,
}

/// A scalability node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScalabilityDevice {
    /// Node id.
    pub node: u8,
    /// Address of its registers, 1 MiB.
    pub cbar: u32,
    /// What its three ports are connected to: node and port number, 0xFF for nothing.
    pub ports: [(u8, u8); 3],
    /// Chassis, counted from 1. Version 3 only.
    pub chassis: Option<u8>,
}

/// An I/O device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RioDevice {
    /// Node id.
    pub node: u8,
    /// Address of its registers, 1 MiB.
    pub bbar: u32,
    /// What it is.
    pub kind: RioKind,
    /// Node id of the scalability node that owns it.
    pub owner: u8,
    /// What its two ports are connected to: node and port number, 0xFF for nothing.
    pub ports: [(u8, u8); 2],
    /// Lowest slot number below it.
    pub first_slot: u8,
    /// Bit 0: its interrupt controller is in use.
    pub status: u8,
    /// Its place among its like: lower ones have lower slot and bus numbers. Version 3 only.
    pub instance: Option<u8>,
    /// Chassis, counted from 1. Version 3 only.
    pub chassis: Option<u8>,
}

/// What an I/O device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RioKind {
    /// Type 0, a scalability part.
    HurricaneScalability,
    /// Type 2, an I/O bridge part.
    HurricaneRio,
    /// Type 4, the Calgary with the legacy devices.
    CompatibilityCalgary,
    /// Type 5, the Calgary of the second planar.
    AlternateCalgary,
    /// Any other type.
    Other(u8),
}

impl RioKind {
    /// Whether it is a Calgary.
    #[must_use]
    pub const fn is_calgary(self) -> bool {
        matches!(self, Self::CompatibilityCalgary | Self::AlternateCalgary)
    }

    const fn from_type(kind: u8) -> Self {
        match kind {
            0 => Self::HurricaneScalability,
            2 => Self::HurricaneRio,
            4 => Self::CompatibilityCalgary,
            5 => Self::AlternateCalgary,
            other => Self::Other(other),
        }
    }
}

impl RioTable {
    /// Parses the table at the start of `image`: a header of three bytes, scalability records, I/O records. Version 2 has
    /// records of 11 and 13 bytes, version 3 of 12 and 15.
    ///
    /// # Errors
    /// [`RioError::Version`], [`RioError::Truncated`].
    pub fn parse(image: &[u8]) -> Result<Self, RioError> {
        let [version, scalability_count, device_count] = bytes(image, 0, "the RIO table's header")?;
        let (scalability_bytes, device_bytes) = match version {
            2 => (11, 13),
            3 => (12, 15),
            unknown => return Err(RioError::Version(unknown)),
        };
        let mut records = &image[3..];
        let mut next = |length: usize| {
            let (record, rest) = records.split_at_checked(length).ok_or(RioError::Truncated("the RIO table"))?;
            records = rest;
            Ok(record)
        };
        let scalability = (0..scalability_count)
            .map(|_| next(scalability_bytes).and_then(ScalabilityDevice::parse))
            .collect::<Result<_, _>>()?;
        let devices =
            (0..device_count).map(|_| next(device_bytes).and_then(RioDevice::parse)).collect::<Result<_, _>>()?;
        Ok(Self { version, scalability, devices })
    }

    /// The Calgaries of the table.
    pub fn calgaries(&self) -> impl Iterator<Item = &RioDevice> {
        self.devices.iter().filter(|device| device.kind.is_calgary())
    }
}

impl ScalabilityDevice {
    fn parse(record: &[u8]) -> Result<Self, RioError> {
        let what = "a scalability record";
        let [node] = bytes(record, 0, what)?;
        let cbar = u32::from_le_bytes(bytes(record, 1, what)?);
        let [a, b, c, d, e, f] = bytes(record, 5, what)?;
        Ok(Self { node, cbar, ports: [(a, b), (c, d), (e, f)], chassis: record.get(11).copied() })
    }
}

impl RioDevice {
    fn parse(record: &[u8]) -> Result<Self, RioError> {
        let what = "an I/O record";
        let [node] = bytes(record, 0, what)?;
        let bbar = u32::from_le_bytes(bytes(record, 1, what)?);
        let [kind, owner, a, b, c, d, first_slot, status] = bytes(record, 5, what)?;
        Ok(Self {
            node,
            bbar,
            kind: RioKind::from_type(kind),
            owner,
            ports: [(a, b), (c, d)],
            first_slot,
            status,
            instance: record.get(13).copied(),
            chassis: record.get(14).copied(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the field order of `asm/rio.h`.
    const V3: [u8; 45] = [
        3, 1, 2, //
        0x10, 0x00, 0x00, 0xC0, 0xFD, 0x11, 0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, //
        0x02, 0x00, 0x00, 0xDA, 0xFD, 0x04, 0x10, 0x10, 0x01, 0xFF, 0xFF, 0x01, 0x01, 0x00, 0x01, //
        0x03, 0x00, 0x00, 0xDB, 0xFD, 0x02, 0x10, 0x10, 0x02, 0xFF, 0xFF, 0x05, 0x00, 0x01, 0x02, //
    ];

    #[test]
    fn version_3_is_parsed() {
        let table = RioTable::parse(&V3).unwrap();
        let scalability = ScalabilityDevice {
            node: 0x10,
            cbar: 0xFDC0_0000,
            ports: [(0x11, 0), (0xFF, 0xFF), (0xFF, 0xFF)],
            chassis: Some(1),
        };
        assert_eq!(table.scalability, [scalability]);
        let calgary = RioDevice {
            node: 2,
            bbar: 0xFDDA_0000,
            kind: RioKind::CompatibilityCalgary,
            owner: 0x10,
            ports: [(0x10, 1), (0xFF, 0xFF)],
            first_slot: 1,
            status: 1,
            instance: Some(0),
            chassis: Some(1),
        };
        assert_eq!(table.devices[0], calgary);
        assert_eq!((table.devices[1].kind, table.devices[1].chassis), (RioKind::HurricaneRio, Some(2)));
        assert_eq!(table.calgaries().collect::<Vec<_>>(), [&calgary]);
    }

    /// Version 2 lacks the trailing fields: chassis, and the instance of I/O devices.
    #[test]
    fn version_2_is_parsed() {
        let mut image = vec![2, 1, 1];
        image.extend_from_slice(&V3[3..14]);
        image.extend_from_slice(&V3[15..28]);
        image[3 + 11 + 5] = 5;
        let table = RioTable::parse(&image).unwrap();
        assert_eq!((table.scalability[0].cbar, table.scalability[0].chassis), (0xFDC0_0000, None));
        let device = table.devices[0];
        assert_eq!((device.bbar, device.kind), (0xFDDA_0000, RioKind::AlternateCalgary));
        assert_eq!((device.first_slot, device.status, device.instance, device.chassis), (1, 1, None, None));
    }

    #[test]
    fn what_nobody_described_is_refused() {
        assert_eq!(RioTable::parse(&[4, 0, 0]), Err(RioError::Version(4)));
        assert_eq!(RioTable::parse(&[1, 0, 0]), Err(RioError::Version(1)));
        for length in 0..V3.len() {
            assert!(matches!(RioTable::parse(&V3[..length]), Err(RioError::Truncated(_))), "{length} bytes");
        }
    }
}
