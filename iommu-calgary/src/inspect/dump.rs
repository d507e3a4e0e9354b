//! What a whole table maps.

use std::fmt;

use crate::addr::{Iova, PAGE_SIZE, RealAddr};
use crate::permissions::Permissions;
use crate::table::TableSize;

use super::entry::Decoded;
use super::image::InspectError;

/// What a table maps, as ranges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dump {
    /// Size of the table.
    pub size: TableSize,
    /// Ranges of entries that point at consecutive pages with the same permissions, upwards. A table does not tell where
    /// a mapping began, so one range may be several mappings.
    pub ranges: Vec<MappedRange>,
    /// Sums.
    pub totals: Totals,
    /// Entries with something strange about them, by index.
    pub odd: Vec<(usize, Decoded)>,
}

/// Consecutive entries that are not free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MappedRange {
    /// First address.
    pub first: Iova,
    /// Where the first page leads.
    pub real: RealAddr,
    /// Number of pages.
    pub pages: u64,
    /// What a device may do.
    pub permissions: Permissions,
}

/// Sums over a table, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Entries that are not free.
    pub mapped: u64,
    /// Of these, readable only.
    pub read_only: u64,
    /// Of these, writable only.
    pub write_only: u64,
    /// Of these, readable and writable.
    pub read_write: u64,
    /// Of these, without access.
    pub no_access: u64,
}

/// Decodes an image of a table.
///
/// # Errors
/// [`InspectError::Length`] if it is not as long as one of the eight sizes.
pub fn dump(image: &[u8]) -> Result<Dump, InspectError> {
    let size = TableSize::from_table_bytes(image.len() as u64).ok_or(InspectError::Length(image.len() as u64))?;
    let mut dump = Dump { size, ranges: Vec::new(), totals: Totals::default(), odd: Vec::new() };
    let (entries, _) = image.as_chunks();
    for (index, &bytes) in entries.iter().enumerate() {
        let entry = Decoded::from_bytes(bytes);
        if !entry.is_free() {
            dump.add(index, entry);
        }
    }
    Ok(dump)
}

impl Dump {
    fn add(&mut self, index: usize, entry: Decoded) {
        if entry.oddity().is_some() {
            self.odd.push((index, entry));
        }
        self.totals.mapped += 1;
        *match entry.permissions {
            Permissions::READ => &mut self.totals.read_only,
            Permissions::WRITE => &mut self.totals.write_only,
            Permissions::READ_WRITE => &mut self.totals.read_write,
            _ => &mut self.totals.no_access,
        } += 1;
        let first = Iova::of_page(index);
        if let Some(range) = self.ranges.last_mut()
            && range.permissions == entry.permissions
            && range.first.0 + range.bytes() == first.0
            && range.real.0 + range.bytes() == entry.real.0
        {
            range.pages += 1;
            return;
        }
        self.ranges.push(MappedRange { first, real: entry.real, pages: 1, permissions: entry.permissions });
    }
}

impl MappedRange {
    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_SIZE
    }

    /// Last address.
    #[must_use]
    pub fn last(&self) -> Iova {
        Iova(self.first.0 + (self.bytes() - 1))
    }
}

impl fmt::Display for MappedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:#010x}..={:#010x}  ->  {:#014x}  {:?}  {:>7}",
            self.first.0,
            self.last().0,
            self.real.0,
            self.permissions,
            self.pages
        )
    }
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "TCE table, size code {}: {} entries for a window of {}",
            self.size.code(),
            self.size.entries(),
            self.size
        )?;
        writeln!(f, "IOVA                          real            perm    pages")?;
        for range in &self.ranges {
            writeln!(f, "{range}")?;
        }
        for (index, entry) in &self.odd {
            writeln!(f, "odd: entry {index}: {entry}")?;
        }
        let Totals { mapped, read_only, write_only, read_write, no_access } = self.totals;
        let of_entries = mapped as f64 * 100.0 / self.size.entries() as f64;
        write!(
            f,
            "{mapped} pages mapped in {} ranges ({of_entries:.2} % of the table): {read_write} RW, {read_only} R-, \
             {write_only} -W, {no_access} --",
            self.ranges.len()
        )
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::inspect::read_image;
    use crate::table::{Tce, TceTable};

    fn table() -> TceTable {
        let table = TceTable::new(TableSize::MiB32).unwrap();
        table.fill(2, 5, Tce::new(RealAddr(0x1234_5000), Permissions::READ_WRITE));
        table.fill(6, 6, Tce::new(RealAddr(0x1234_9000), Permissions::READ));
        table.fill(7, 7, Tce::new(RealAddr(0x1234_B000), Permissions::READ));
        table.fill(8191, 8191, Tce::new(RealAddr(0xFFFF_FFFF_F000), Permissions::NONE));
        table
    }

    #[test]
    fn an_exported_table_is_shown() {
        let dump = dump(&read_image(table()).unwrap()).unwrap();
        assert_eq!(
            dump.to_string(),
            "TCE table, size code 0: 8192 entries for a window of 32 MiB\n\
             IOVA                          real            perm    pages\n\
             0x00002000..=0x00005fff  ->  0x000012345000  RW        4\n\
             0x00006000..=0x00006fff  ->  0x000012349000  R-        1\n\
             0x00007000..=0x00007fff  ->  0x00001234b000  R-        1\n\
             0x01fff000..=0x01ffffff  ->  0xfffffffff000  --        1\n\
             7 pages mapped in 4 ranges (0.09 % of the table): 4 RW, 2 R-, 0 -W, 1 --"
        );
        assert_eq!(dump.odd, []);
    }

    #[test]
    fn odd_entries_are_listed() {
        let mut image = vec![0; TableSize::MiB64.table_bytes()];
        image[8..16].copy_from_slice(&0x1234_5003_u64.to_le_bytes());
        let dump = dump(&image).unwrap();
        assert_eq!(dump.totals, Totals { mapped: 1, no_access: 1, ..Totals::default() });
        assert!(dump.to_string().contains("odd: entry 1: -- -> 0x341200000000  byte-swapped? RW -> 0x000012345000"));
    }

    #[test]
    fn other_lengths_are_no_tables() {
        for length in [0, 8, (64 << 10) - 8, (64 << 10) + 8, 16 << 20] {
            assert!(matches!(dump(&vec![0; length]), Err(InspectError::Length(_))), "{length}");
        }
    }
}
