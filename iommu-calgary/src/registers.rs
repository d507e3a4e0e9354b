//! The chip's registers, as far as a PHB that serves guests needs them.
//!
//! Values are in host order; bit 0 is the least significant. Bit meanings are those of Linux's `pci-calgary_64.c`.

use crate::table_size::TableSize;

/// Bits of CONFIG_RW, the per-PHB configuration register (offset 0x160 in the PHB's space).
pub(crate) mod config_rw {
    /// Translation is on. Off, addresses pass untranslated.
    pub(crate) const TCE_ENABLE: u32 = 0x2000_0000;
    /// All slots below the PHB are off: every access is refused.
    pub(crate) const SLOT_DISABLE: u32 = 0x1C00_0000;
}

/// A value of the Table Address Register: table address in bits 15..48, size code in bits 0..3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tar(u64);

impl Tar {
    const ADDRESS_MASK: u64 = 0x0000_FFFF_FFFF_8000;
    const SIZE_MASK: u64 = 0x7;

    /// No table: every access faults.
    pub(crate) const NO_TABLE: Self = Self(0);

    /// Register value for a table of `size` at address `base`, or `None` if the address does not fit the field.
    pub(crate) const fn new(base: u64, size: TableSize) -> Option<Self> {
        if base == 0 || base & !Self::ADDRESS_MASK != 0 {
            return None;
        }
        Some(Self(base | size.code() as u64))
    }

    /// Interprets the 64 bits of the register.
    pub(crate) const fn from_value(value: u64) -> Self {
        Self(value)
    }

    /// The 64 bits of the register.
    pub(crate) const fn value(self) -> u64 {
        self.0
    }

    /// Address of the table, 0 if there is none.
    pub(crate) const fn base(self) -> u64 {
        self.0 & Self::ADDRESS_MASK
    }

    /// Size of the table.
    pub(crate) const fn size(self) -> TableSize {
        TableSize::ALL[(self.0 & Self::SIZE_MASK) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_holds_address_and_size_code() {
        let tar = Tar::new(0x3780_0000, TableSize::GiB4).unwrap();
        assert_eq!(tar.value(), 0x0000_0000_3780_0007);
        assert_eq!(tar.base(), 0x3780_0000);
        assert_eq!(tar.size(), TableSize::GiB4);
        assert_eq!(Tar::from_value(tar.value()), tar);
    }

    #[test]
    fn tar_refuses_addresses_outside_its_field() {
        assert_eq!(Tar::new(0, TableSize::MiB32), None);
        assert_eq!(Tar::new(0x4000, TableSize::MiB32), None);
        assert_eq!(Tar::new(1 << 48, TableSize::MiB32), None);
        assert!(Tar::new(0xFFFF_FFFF_0000, TableSize::MiB32).is_some());
    }
}
