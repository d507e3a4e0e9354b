//! What a batch should do, page by page and without a thought for speed.

use std::collections::BTreeMap;

use iommu_calgary::chip::model::{Expected, Home};
use iommu_calgary::registers::PhbIndex;
use iommu_calgary::{
    AttachError, DetachError, DomainId, DomainKind, MapError, PAGE_SIZE, Permissions, RealAddr, Request, RequestError,
    TableSize, Tce, UnmapError,
};

/// The first MiB behind a Calgary, or all of it behind a CalIOC2, goes past the tables; the tests leave it alone but for
/// these pages.
const LEGACY_HOLE: std::ops::RangeInclusive<u64> = 0xA_0000..=0xF_FFFF;

#[derive(Clone, Copy)]
struct Page {
    mapping: usize,
    real: u64,
    permissions: Permissions,
}

struct Space {
    kind: DomainKind,
    pages: BTreeMap<usize, Page>,
}

/// A page as an endpoint should reach it: PHB, page, and where it leads.
pub(crate) type Reach = (usize, usize, Option<(u64, Permissions)>);

pub(crate) struct Naive {
    size: TableSize,
    spaces: BTreeMap<DomainId, Space>,
    homes: BTreeMap<u32, DomainId>,
    next_mapping: usize,
}

impl Naive {
    pub(crate) fn new(size: TableSize) -> Self {
        Self { size, spaces: BTreeMap::new(), homes: BTreeMap::new(), next_mapping: 0 }
    }

    /// The results, failures as text, and what changes.
    pub(crate) fn apply(&mut self, requests: &[Request]) -> (Vec<Result<(), String>>, Vec<Expected>) {
        let mut changes = Vec::new();
        let results = requests.iter().map(|&request| self.request(request, &mut changes));
        let results = results.map(|result| result.map_err(|error| error.to_string())).collect();
        (results, changes)
    }

    pub(crate) fn reset(&mut self, phbs: usize) -> Vec<Expected> {
        let mut changes: Vec<_> = self.spaces.keys().map(|&domain| Expected::Drop { domain }).collect();
        changes.extend(PhbIndex::ALL.into_iter().take(phbs).map(|phb| Expected::Move { phb, home: Home::Nothing }));
        self.spaces.clear();
        self.homes.clear();
        changes
    }

    /// Every page that is mapped, and those before and after a mapping, for every PHB in a translated domain.
    pub(crate) fn reachable(&self, phbs: usize) -> Vec<Reach> {
        let mut reach = Vec::new();
        for phb in 0..phbs {
            let home = self.homes.get(&u32::try_from(phb).unwrap());
            let Some(space) = home.and_then(|home| self.spaces.get(home)) else {
                continue;
            };
            if space.kind == DomainKind::Bypass {
                continue;
            }
            let mut pages: Vec<usize> =
                space.pages.keys().flat_map(|&page| [page.saturating_sub(1), page, page + 1]).collect();
            pages.dedup();
            pages.retain(|&page| page < self.size.entries() && !LEGACY_HOLE.contains(&(page as u64 * PAGE_SIZE)));
            reach.extend(
                pages
                    .into_iter()
                    .map(|page| (phb, page, space.pages.get(&page).map(|found| (found.real, found.permissions)))),
            );
        }
        reach
    }

    fn request(&mut self, request: Request, changes: &mut Vec<Expected>) -> Result<(), RequestError> {
        match request {
            Request::Attach { domain, endpoint, kind } => {
                if self.spaces.get(&domain).is_some_and(|space| space.kind != kind) {
                    return Err(AttachError::KindMismatch.into());
                }
                if self.homes.get(&endpoint.0) == Some(&domain) {
                    return Ok(());
                }
                self.leave(endpoint.0, changes);
                self.spaces.entry(domain).or_insert(Space { kind, pages: BTreeMap::new() });
                self.homes.insert(endpoint.0, domain);
                let home = if kind == DomainKind::Bypass { Home::Bypass } else { Home::Domain(domain) };
                changes.push(Expected::Move { phb: PhbIndex::new(endpoint.0 as usize).unwrap(), home });
            }
            Request::Detach { domain, endpoint } => {
                if self.homes.get(&endpoint.0) != Some(&domain) {
                    return Err(DetachError::NotAttached.into());
                }
                self.leave(endpoint.0, changes);
                changes.push(Expected::Move { phb: PhbIndex::new(endpoint.0 as usize).unwrap(), home: Home::Nothing });
            }
            Request::Map { domain, first, last, real, permissions } => {
                self.map(domain, first.0, last.0, real, permissions, changes)?;
            }
            Request::Unmap { domain, first, last } => self.unmap(domain, first.0, last.0, changes)?,
        }
        Ok(())
    }

    fn leave(&mut self, endpoint: u32, changes: &mut Vec<Expected>) {
        if let Some(old) = self.homes.remove(&endpoint)
            && !self.homes.values().any(|home| *home == old)
        {
            self.spaces.remove(&old);
            changes.push(Expected::Drop { domain: old });
        }
    }

    fn map(
        &mut self,
        domain: DomainId,
        first: u64,
        last: u64,
        real: RealAddr,
        permissions: Permissions,
        changes: &mut Vec<Expected>,
    ) -> Result<(), MapError> {
        let space = self.spaces.get_mut(&domain).ok_or(MapError::NoDomain)?;
        if space.kind == DomainKind::Bypass {
            return Err(MapError::Bypass);
        }
        if last < first {
            return Err(MapError::Inverted);
        }
        if !(first.is_multiple_of(PAGE_SIZE) && last % PAGE_SIZE == PAGE_SIZE - 1 && real.0.is_multiple_of(PAGE_SIZE)) {
            return Err(MapError::Unaligned);
        }
        if last >= self.size.window_bytes() {
            return Err(MapError::OutsideWindow);
        }
        if first <= *LEGACY_HOLE.end() && last >= *LEGACY_HOLE.start() {
            return Err(MapError::Reserved);
        }
        let (first, last) = (page(first), page(last));
        if space.pages.range(first..=last).next().is_some() {
            return Err(MapError::Overlap);
        }
        for page in first..=last {
            let real = real.0 + (page - first) as u64 * PAGE_SIZE;
            space.pages.insert(page, Page { mapping: self.next_mapping, real, permissions });
        }
        self.next_mapping += 1;
        changes.push(Expected::Map { domain, first, last, tce: Tce::new(real, permissions) });
        Ok(())
    }

    fn unmap(
        &mut self,
        domain: DomainId,
        first: u64,
        last: u64,
        changes: &mut Vec<Expected>,
    ) -> Result<(), UnmapError> {
        let space = self.spaces.get_mut(&domain).ok_or(UnmapError::NoDomain)?;
        if space.kind == DomainKind::Bypass {
            return Err(UnmapError::Bypass);
        }
        if last < first {
            return Err(UnmapError::Inverted);
        }
        let touched: Vec<usize> = space.pages.range(page(first)..=page(last)).map(|(_, page)| page.mapping).collect();
        let inside = |number: usize| {
            let start = number as u64 * PAGE_SIZE;
            first <= start && start + (PAGE_SIZE - 1) <= last
        };
        if space.pages.iter().any(|(&number, page)| touched.contains(&page.mapping) && !inside(number)) {
            return Err(UnmapError::Split);
        }
        let removed: Vec<usize> =
            space.pages.iter().filter(|(_, page)| touched.contains(&page.mapping)).map(|(&n, _)| n).collect();
        space.pages.retain(|_, page| !touched.contains(&page.mapping));
        if let (Some(&first), Some(&last)) = (removed.first(), removed.last()) {
            changes.push(Expected::Unmap { domain, first, last });
        }
        Ok(())
    }
}

fn page(address: u64) -> usize {
    usize::try_from(address / PAGE_SIZE).unwrap()
}
