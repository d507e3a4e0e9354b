//! The translation control entry, bit for bit as the chip reads it.
//!
//! | bits   | meaning |
//! |--------|---------|
//! | 0      | R: the device may read |
//! | 1      | W: the device may write |
//! | 2..12  | hub id and reserved, written 0 |
//! | 12..48 | RPN, the real page number |
//! | 48..64 | unused, written 0 |
//!
//! Bit 0 is the least significant. In memory an entry is big-endian. There is no valid bit: an entry without R and W
//! refuses every access, and a free entry is 0. The layout is that of Linux's `asm/tce.h`.

use std::fmt;

use crate::addr::{PAGE_SIZE, REAL_LIMIT, RealAddr};
use crate::permissions::Permissions;

const READ: u64 = Permissions::READ.bits();
const WRITE: u64 = Permissions::WRITE.bits();
const RPN_MASK: u64 = (REAL_LIMIT - 1) & !(PAGE_SIZE - 1);

/// One translation control entry, in host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tce(u64);

impl Tce {
    /// A free entry.
    pub const FREE: Self = Self(0);

    /// An entry that points at the page which holds `real`. Address bits above bit 47 are dropped, as the field has no
    /// room for them: callers check first.
    #[must_use]
    pub const fn new(real: RealAddr, permissions: Permissions) -> Self {
        Self(real.0 & RPN_MASK | permissions.bits())
    }

    /// First address of the page that the entry points at.
    #[must_use]
    pub const fn real(self) -> RealAddr {
        RealAddr(self.0 & RPN_MASK)
    }

    /// The R and W bits.
    #[must_use]
    pub const fn permissions(self) -> Permissions {
        Permissions::new(self.0 & READ != 0, self.0 & WRITE != 0)
    }

    /// What is added to an entry to point `pages` pages further. Beyond 2^48 it would reach the unused bits.
    pub(crate) const fn pages(pages: usize) -> u64 {
        pages as u64 * PAGE_SIZE
    }

    /// The entry's 64 bits in host order.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }

    /// An entry with any bits at all, also such as no driver sets: for tests of what looks at tables.
    #[must_use]
    pub const fn from_value(value: u64) -> Self {
        Self(value)
    }

    /// The entry's eight bytes, as they lie in table memory.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.to_memory().to_ne_bytes()
    }

    /// Inverse of [`Tce::to_bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self::from_memory(u64::from_ne_bytes(bytes))
    }

    /// The integer that, stored in table memory, has the byte order that the chip reads. With [`Tce::from_memory`] the
    /// only place where the byte order of an entry changes, but for the vectors of large fills.
    #[must_use]
    pub const fn to_memory(self) -> u64 {
        self.0.to_be()
    }

    /// Inverse of [`Tce::to_memory`].
    #[must_use]
    pub const fn from_memory(stored: u64) -> Self {
        Self(u64::from_be(stored))
    }
}

impl fmt::Debug for Tce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tce({:#018x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permissions::Access;

    #[test]
    fn bits_are_those_of_the_chip() {
        let tce = Tce::new(RealAddr(0x1234_5000), Permissions::READ_WRITE);
        assert_eq!(tce.value(), 0x0000_0000_1234_5003);
        assert_eq!(tce.to_memory().to_ne_bytes(), [0x00, 0x00, 0x00, 0x00, 0x12, 0x34, 0x50, 0x03]);
        assert_eq!(Tce::from_memory(tce.to_memory()), tce);

        let highest = Tce::new(RealAddr(0xFFFF_FFFF_F000), Permissions::READ);
        assert_eq!(highest.value(), 0x0000_FFFF_FFFF_F001);
        assert_eq!(highest.to_memory().to_ne_bytes(), [0x00, 0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xF0, 0x01]);

        assert_eq!(Tce::new(RealAddr(0x1000), Permissions::WRITE).value(), 0x1002);
        assert_eq!(Tce::new(RealAddr(0x1000), Permissions::NONE).value(), 0x1000);
        assert_eq!(Tce::FREE.value(), 0);
    }

    /// Field by field and bit by bit: R, W and 36 bits of RPN are ours, the others are never set (`asm/tce.h`).
    #[test]
    fn every_bit_has_its_place() {
        for bit in 12..48 {
            let tce = Tce::new(RealAddr(1 << bit), Permissions::NONE);
            assert_eq!(tce.value(), 1 << bit);
            let mut bytes = [0; 8];
            bytes[7 - bit / 8] = 1 << (bit % 8);
            assert_eq!(tce.to_bytes(), bytes);
        }
        assert_eq!(Tce::new(RealAddr(0), Permissions::READ).to_bytes(), [0, 0, 0, 0, 0, 0, 0, 0x01]);
        assert_eq!(Tce::new(RealAddr(0), Permissions::WRITE).to_bytes(), [0, 0, 0, 0, 0, 0, 0, 0x02]);
        for bit in (2..12).chain(48..64) {
            assert_eq!(Tce::new(RealAddr(1 << bit), Permissions::NONE), Tce::FREE);
            let odd = Tce::from_value(1 << bit);
            assert_eq!((odd.real(), odd.permissions()), (RealAddr(0), Permissions::NONE));
        }
    }

    #[test]
    fn offset_and_high_bits_never_reach_reserved_fields() {
        let tce = Tce::new(RealAddr(u64::MAX), Permissions::NONE);
        assert_eq!(tce.value(), 0x0000_FFFF_FFFF_F000);
    }

    #[test]
    fn fields_read_back() {
        let tce = Tce::new(RealAddr(0x7_6543_2000), Permissions::WRITE);
        assert_eq!(tce.real(), RealAddr(0x7_6543_2000));
        assert!(tce.permissions().allows(Access::Write));
        assert!(!tce.permissions().allows(Access::Read));
    }
}
