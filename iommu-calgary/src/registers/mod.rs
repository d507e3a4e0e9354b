//! The registers of Calgary (PCI-X, device id 0x02A1) and of CalIOC2 (PCI Express, device id 0x0308).
//!
//! A chip has one window of 1 MiB at its BBAR, and four PHBs in it. Registers are big-endian in memory; every value here
//! is in host order, and bit 0 is the least significant. IBM's documents count from the other end: their bit 0 of a
//! 32-bit register is bit 31 here.
//!
//! ```text
//! 0x00108              CCR              0x04000 + n * 0x1000   PHB n, debug space: STUFF, split queue
//! 0x00580 + n * 8      TAR n            0x08000 + n * 0x1000   PHB n: CSR, CONFIG_RW, AER, ...
//! ```
//!
//! Offsets, names and bits are those of Linux's `arch/x86/kernel/pci-calgary_64.c`, where nothing else is said.

pub mod bits;
mod map;
mod tar;
mod window;

pub use map::{CCR, Calioc2Error, PhbIndex, PhbRegister, Register32, Register64, WINDOW_BYTES};
pub use tar::Tar;
pub use window::RegisterWindow;

pub(crate) use bits::config_rw;

use std::fmt;

/// Which of the two chips: they differ in how they are brought to quiet and in what they leave untranslated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Variant {
    /// PCI-X.
    Calgary,
    /// PCI Express.
    CalIoc2,
}

impl Variant {
    /// IBM's PCI vendor id.
    pub const VENDOR: u16 = 0x1014;

    /// PCI device id.
    #[must_use]
    pub const fn device_id(self) -> u16 {
        match self {
            Self::Calgary => 0x02A1,
            Self::CalIoc2 => 0x0308,
        }
    }

    /// The chip that answers with `id` when the first 32 bits of configuration space of a bus's device 0 are read:
    /// vendor id below, device id above.
    #[must_use]
    pub fn from_pci_id(id: u32) -> Option<Self> {
        [Self::Calgary, Self::CalIoc2]
            .into_iter()
            .find(|chip| id == u32::from(chip.device_id()) << 16 | u32::from(Self::VENDOR))
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Calgary => "Calgary",
            Self::CalIoc2 => "CalIOC2",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_are_told_by_their_pci_ids() {
        assert_eq!(Variant::from_pci_id(0x02A1_1014), Some(Variant::Calgary));
        assert_eq!(Variant::from_pci_id(0x0308_1014), Some(Variant::CalIoc2));
        assert_eq!(Variant::from_pci_id(0x02A1_8086), None);
        assert_eq!(Variant::from_pci_id(0xFFFF_FFFF), None);
    }
}
