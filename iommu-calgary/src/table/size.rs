//! The eight table sizes that the chip knows.

use std::fmt;

use crate::addr::PAGE_SIZE;

/// Bytes of one entry.
const ENTRY_BYTES: usize = 8;

/// Size of a TCE table, named by the IOVA window that it covers. The window starts at IOVA 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TableSize {
    /// 8 Ki entries in 64 KiB cover 32 MiB.
    MiB32,
    /// 16 Ki entries in 128 KiB cover 64 MiB.
    MiB64,
    /// 32 Ki entries in 256 KiB cover 128 MiB.
    MiB128,
    /// 64 Ki entries in 512 KiB cover 256 MiB.
    MiB256,
    /// 128 Ki entries in 1 MiB cover 512 MiB.
    MiB512,
    /// 256 Ki entries in 2 MiB cover 1 GiB.
    GiB1,
    /// 512 Ki entries in 4 MiB cover 2 GiB.
    GiB2,
    /// 1 Mi entries in 8 MiB cover 4 GiB.
    GiB4,
}

impl TableSize {
    /// All sizes, smallest first: the index is the size code.
    pub const ALL: [Self; 8] =
        [Self::MiB32, Self::MiB64, Self::MiB128, Self::MiB256, Self::MiB512, Self::GiB1, Self::GiB2, Self::GiB4];

    /// The size code, 0 to 7, as it stands in bits 2..0 of a TAR.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Number of entries.
    #[must_use]
    pub const fn entries(self) -> usize {
        1 << (13 + self.code())
    }

    /// Bytes of table memory, which is also the alignment of the table.
    #[must_use]
    pub const fn table_bytes(self) -> usize {
        self.entries() * ENTRY_BYTES
    }

    /// Bytes of IOVA space that the table covers.
    #[must_use]
    pub const fn window_bytes(self) -> u64 {
        self.entries() as u64 * PAGE_SIZE
    }

    /// The size whose window is exactly `bytes` long.
    #[must_use]
    pub fn from_window_bytes(bytes: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|size| size.window_bytes() == bytes)
    }

    /// The size whose table is exactly `bytes` long.
    #[must_use]
    pub fn from_table_bytes(bytes: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|size| size.table_bytes() as u64 == bytes)
    }

    /// The smallest size whose window covers memory up to `bytes`, or the largest there is: what Linux chose by the end
    /// of RAM.
    #[must_use]
    pub fn covering(bytes: u64) -> Self {
        Self::ALL.into_iter().find(|size| size.window_bytes() >= bytes).unwrap_or(Self::GiB4)
    }
}

impl fmt::Display for TableSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.window_bytes() >> 20;
        if mib < 1024 { write!(f, "{mib} MiB") } else { write!(f, "{} GiB", mib >> 10) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_chip() {
        let expected = [
            (0, 8_192, 64 << 10, 32 << 20),
            (1, 16_384, 128 << 10, 64 << 20),
            (2, 32_768, 256 << 10, 128 << 20),
            (3, 65_536, 512 << 10, 256 << 20),
            (4, 131_072, 1 << 20, 512 << 20),
            (5, 262_144, 2 << 20, 1 << 30),
            (6, 524_288, 4 << 20, 2 << 30),
            (7, 1_048_576, 8 << 20, 4_u64 << 30),
        ];
        for (size, (code, entries, table, window)) in TableSize::ALL.into_iter().zip(expected) {
            assert_eq!(size.code(), code);
            assert_eq!(size.entries(), entries);
            assert_eq!(size.table_bytes(), table);
            assert_eq!(size.window_bytes(), window);
            assert_eq!(TableSize::from_window_bytes(window), Some(size));
            assert_eq!(TableSize::from_window_bytes(window + 1), None);
            assert_eq!(TableSize::from_table_bytes(table as u64), Some(size));
            assert_eq!(TableSize::from_table_bytes(table as u64 - 8), None);
            assert_eq!(TableSize::covering(window), size);
            assert_eq!(TableSize::covering(window / 2 + 1), size);
        }
        assert_eq!(TableSize::from_window_bytes(8 << 30), None);
        assert_eq!(TableSize::covering(64 << 30), TableSize::GiB4);
    }

    #[test]
    fn sizes_are_shown_as_windows() {
        assert_eq!(TableSize::MiB512.to_string(), "512 MiB");
        assert_eq!(TableSize::GiB4.to_string(), "4 GiB");
    }
}
