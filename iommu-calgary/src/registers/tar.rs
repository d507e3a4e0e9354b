//! The Table Address Register.

use crate::table::TableSize;

/// A value of the register.
///
/// | bits   | meaning |
/// |--------|---------|
/// | 0..3   | size code of the table |
/// | 3      | "valid" in Linux's header, but Linux never sets it: stored, without known effect |
/// | 4..15  | not the driver's: kept as read |
/// | 15..48 | address of the table |
/// | 48..64 | not the driver's: kept as read |
///
/// Every write drops the PHB's cached TCEs, also one that changes nothing: that is the only known invalidation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tar(u64);

impl Tar {
    const ADDRESS_MASK: u64 = 0x0000_FFFF_FFFF_8000;
    const SIZE_MASK: u64 = 0x7;
    const VALID: u64 = 0x8;
    /// The bits that a driver writes: address, size code and bit 3.
    pub const SOFTWARE_MASK: u64 = 0x0000_FFFF_FFFF_800F;

    /// No table.
    pub const NO_TABLE: Self = Self(0);

    /// Register value for a table of `size` at address `base`, or `None` if the address does not fit the field.
    #[must_use]
    pub const fn new(base: u64, size: TableSize) -> Option<Self> {
        if base == 0 || base & !Self::ADDRESS_MASK != 0 {
            return None;
        }
        Some(Self(base | size.code() as u64))
    }

    /// Interprets the 64 bits of the register.
    #[must_use]
    pub const fn from_value(value: u64) -> Self {
        Self(value)
    }

    /// The 64 bits of the register.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }

    /// This table in a register that held `previous`: the driver's bits are these, the others stay. Bit 3 is cleared, as
    /// in Linux.
    #[must_use]
    pub const fn merged_into(self, previous: u64) -> Self {
        Self(previous & !Self::SOFTWARE_MASK | self.0 & Self::SOFTWARE_MASK & !Self::VALID)
    }

    /// Address of the table, 0 if there is none.
    #[must_use]
    pub const fn base(self) -> u64 {
        self.0 & Self::ADDRESS_MASK
    }

    /// Size of the table.
    #[must_use]
    pub const fn size(self) -> TableSize {
        TableSize::ALL[(self.0 & Self::SIZE_MASK) as usize]
    }

    /// Bit 3.
    #[must_use]
    pub const fn valid_bit(self) -> bool {
        self.0 & Self::VALID != 0
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
        for (code, size) in (0..).zip(TableSize::ALL) {
            assert_eq!(Tar::new(0x80_0000, size).unwrap().value(), 0x80_0000 | code);
        }
    }

    #[test]
    fn tar_refuses_addresses_outside_its_field() {
        assert_eq!(Tar::new(0, TableSize::MiB32), None);
        assert_eq!(Tar::new(0x4000, TableSize::MiB32), None);
        assert_eq!(Tar::new(1 << 48, TableSize::MiB32), None);
        assert_eq!(Tar::new(0xFFFF_FFFF_8000, TableSize::MiB32).unwrap().value(), 0xFFFF_FFFF_8000);
    }

    #[test]
    fn merging_keeps_what_is_not_the_drivers() {
        let tar = Tar::new(0x3780_0000, TableSize::GiB4).unwrap();
        assert_eq!(tar.merged_into(u64::MAX).value(), 0xFFFF_0000_3780_7FF7);
        assert_eq!(tar.merged_into(0x0000_1234_0000_000D), tar);
        assert_eq!(Tar::NO_TABLE.merged_into(u64::MAX).value(), 0xFFFF_0000_0000_7FF0);
        assert!(Tar::from_value(8).valid_bit() && !tar.valid_bit());
    }

    /// The same value in the wrong byte order names another table of another size.
    #[test]
    fn a_swapped_tar_is_another_table() {
        let swapped = Tar::from_value(0x0000_0000_3780_0007_u64.swap_bytes());
        assert_eq!((swapped.base(), swapped.size()), (0x8037_0000_0000, TableSize::MiB32));
    }
}
