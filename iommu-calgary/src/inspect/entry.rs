//! The meaning of one entry.

use std::fmt;

use crate::addr::RealAddr;
use crate::permissions::Permissions;
use crate::table::Tce;

/// An entry taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// All 64 bits, in host order.
    pub value: u64,
    /// R and W.
    pub permissions: Permissions,
    /// Where it points.
    pub real: RealAddr,
    /// Bits 2 to 7, the hub id: written 0 by every known driver.
    pub hub: u8,
    /// Bits 8 to 11, reserved.
    pub reserved: u8,
    /// Bits 48 to 63, unused.
    pub unused: u16,
}

/// What is strange about an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Oddity {
    /// Bits are set that a driver writes 0.
    ReservedBits,
    /// No access as it stands, and a clean entry if its bytes are reversed: written in the wrong byte order.
    ByteSwapped,
}

impl Decoded {
    /// Takes apart the eight bytes of an entry, as they lie in memory.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let tce = Tce::from_bytes(bytes);
        let value = tce.value();
        let [high, low, ..] = bytes;
        Self {
            value,
            permissions: tce.permissions(),
            real: tce.real(),
            hub: (value >> 2 & 0x3F) as u8,
            reserved: (value >> 8 & 0xF) as u8,
            unused: u16::from_be_bytes([high, low]),
        }
    }

    /// Whether it is a free entry: all zero.
    #[must_use]
    pub fn is_free(self) -> bool {
        self.value == 0
    }

    /// What is strange about it, if anything is.
    #[must_use]
    pub fn oddity(self) -> Option<Oddity> {
        if self.hub == 0 && self.reserved == 0 && self.unused == 0 {
            return None;
        }
        let swapped = Self::from_bytes(self.value.to_le_bytes());
        let clean = swapped.hub == 0 && swapped.reserved == 0 && swapped.unused == 0;
        if self.permissions == Permissions::NONE && clean && swapped.permissions != Permissions::NONE {
            return Some(Oddity::ByteSwapped);
        }
        Some(Oddity::ReservedBits)
    }
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_free() {
            return f.write_str("free");
        }
        write!(f, "{:?} -> {:#014x}", self.permissions, self.real.0)?;
        match self.oddity() {
            None => Ok(()),
            Some(Oddity::ByteSwapped) => {
                let swapped = Self::from_bytes(self.value.to_le_bytes());
                write!(f, "  byte-swapped? {:?} -> {:#014x}", swapped.permissions, swapped.real.0)
            }
            Some(Oddity::ReservedBits) => {
                write!(f, "  hub {:#x}, reserved {:#x}, unused {:#x}", self.hub, self.reserved, self.unused)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(value: u64) -> Decoded {
        Decoded::from_bytes(value.to_be_bytes())
    }

    #[test]
    fn every_field_is_taken_apart() {
        let entry = decode(0xABCD_1234_5678_9EF7);
        assert_eq!((entry.permissions, entry.real), (Permissions::READ_WRITE, RealAddr(0x1234_5678_9000)));
        assert_eq!((entry.hub, entry.reserved, entry.unused), (0x3D, 0xE, 0xABCD));
        assert_eq!(entry.oddity(), Some(Oddity::ReservedBits));
        for bit in 0..64 {
            let entry = decode(1 << bit);
            let odd = !(bit < 2 || (12..48).contains(&bit));
            assert_eq!(entry.oddity().is_some(), odd, "bit {bit}");
        }
    }

    #[test]
    fn entries_are_shown() {
        assert_eq!(decode(0).to_string(), "free");
        assert_eq!(decode(0x1234_5003).to_string(), "RW -> 0x000012345000");
        assert_eq!(decode(0x1234_5001).to_string(), "R- -> 0x000012345000");
        assert_eq!(decode(0x1234_5104).to_string(), "-- -> 0x000012345000  hub 0x1, reserved 0x1, unused 0x0");
    }

    /// The example of an entry in little-endian order: the chip sees no permission and faults.
    #[test]
    fn a_swapped_entry_is_recognised() {
        let entry = decode(0x0000_0000_1234_5003_u64.swap_bytes());
        assert_eq!(entry.value, 0x0350_3412_0000_0000);
        assert_eq!(entry.oddity(), Some(Oddity::ByteSwapped));
        assert_eq!(entry.to_string(), "-- -> 0x341200000000  byte-swapped? RW -> 0x000012345000");
    }
}
