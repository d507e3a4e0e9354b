//! The mappings of a domain, copied out in pieces.

use iommu_calgary::{DomainId, PAGE_SIZE, Permissions, RealAddr};

use super::text::Text;
use crate::device::iommu::Iommu;

/// Words of 64 pages that are copied at a time. The IOMMU's thread may have to wait that long: some microseconds.
const WORDS: usize = 16;

/// A mapping as the guest made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    /// First page.
    page: u64,
    pages: u64,
    real: RealAddr,
    permissions: Permissions,
}

/// A mapped page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    page: u64,
    /// Where it leads, if a mapping begins with it.
    begins: Option<(RealAddr, Permissions)>,
}

/// The text of `mappings`; empty if there is no such domain, or none with a table.
pub(super) fn text(iommu: &Iommu, domain: DomainId) -> Vec<u8> {
    let mut text = Text::default();
    visit(iommu, domain, |mapping| {
        let first = mapping.page * PAGE_SIZE;
        let last = first + (mapping.pages * PAGE_SIZE - 1);
        text.line(format_args!(
            "{first:#010x}..={last:#010x}  ->  {:#014x}  {:?}  {}",
            mapping.real.0, mapping.permissions, mapping.pages
        ));
    });
    text.finish()
}

/// How many pages `domain` maps.
pub(super) fn pages(iommu: &Iommu, domain: DomainId) -> u64 {
    let mut pages = 0;
    visit(iommu, domain, |mapping| pages += mapping.pages);
    pages
}

/// Calls `visit` with every mapping, upwards.
fn visit(iommu: &Iommu, domain: DomainId, mut visit: impl FnMut(Mapping)) {
    let pages = usize::try_from(iommu.window() / PAGE_SIZE).unwrap_or(usize::MAX);
    let mut seen = Vec::with_capacity(WORDS * 64);
    let mut joined = Joined::default();
    for word in (0..pages.div_ceil(64)).step_by(WORDS) {
        seen.clear();
        copy(iommu, domain, word, &mut seen);
        for page in &seen {
            if let Some(whole) = joined.add(*page) {
                visit(whole);
            }
        }
    }
    if let Some(whole) = joined.0 {
        visit(whole);
    }
}

/// Copies the mapped pages of [`WORDS`] words from `word` on, at one moment.
fn copy(iommu: &Iommu, domain: DomainId, word: usize, seen: &mut Vec<Seen>) {
    iommu.inspect(|calgary| {
        let Some(space) = calgary.domain(domain) else { return };
        for word in word..word + WORDS {
            let (mut mapped, begin) = space.pages(word);
            while mapped != 0 {
                let bit = mapped.trailing_zeros() as usize;
                mapped &= mapped - 1;
                let page = word * 64 + bit;
                let entry = if begin >> bit & 1 == 1 { space.table().load(page) } else { None };
                let begins = entry.map(|entry| (entry.real(), entry.permissions()));
                seen.push(Seen { page: page as u64, begins });
            }
        }
    });
}

/// Joins pages to mappings.
#[derive(Default)]
struct Joined(Option<Mapping>);

impl Joined {
    /// Takes the next page; the mapping that ends before it, if one does.
    fn add(&mut self, next: Seen) -> Option<Mapping> {
        if let Some((real, permissions)) = next.begins {
            return self.0.replace(Mapping { page: next.page, pages: 1, real, permissions });
        }
        match &mut self.0 {
            Some(mapping) if mapping.page + mapping.pages == next.page => {
                mapping.pages += 1;
                None
            }
            // Its beginning was not there yet when that piece was copied.
            _ => self.0.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_joined_to_the_mappings_that_the_guest_made() {
        let to = (RealAddr(0x5000), Permissions::READ);
        let begin = |page| Seen { page, begins: Some(to) };
        let more = |page| Seen { page, begins: None };
        let mut joined = Joined::default();
        let mut found = Vec::new();
        // Two adjacent mappings; one that begins in a piece that was copied before it was there; one more.
        for page in [begin(3), more(4), more(5), begin(6), more(9), more(10), begin(20)] {
            found.extend(joined.add(page).map(|mapping| (mapping.page, mapping.pages)));
        }
        found.extend(joined.0.map(|mapping| (mapping.page, mapping.pages)));
        assert_eq!(found, [(3, 3), (6, 1), (20, 1)]);
    }
}
