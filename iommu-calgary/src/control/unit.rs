//! The control plane: which endpoint sees which domain, and what the domains map.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::commit::Affected;
use super::{Domain, Stats};
use crate::addr::{DomainId, EndpointId, Iova, RealAddr};
use crate::chip::{Chip, Soft, Target};
use crate::dma::{Fences, Phb};
use crate::error::{AttachError, DetachError, Error, MapError, UnmapError};
use crate::permissions::Permissions;
use crate::range::IovaRange;
use crate::table::TableSize;

/// Bounds on what guests can make the unit hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Domains at one time. Linux opens one per IOMMU group and a few for itself. Each takes a descriptor, and up to
    /// 3/64 more than the table's bytes of memory.
    pub max_domains: usize,
    /// How long a [`Calgary::reset`] waits for accesses to end.
    pub reset_wait: Duration,
    /// Who pays for the order between accesses and commits. The [`Soft`] chip only.
    pub fences: Fences,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_domains: 256, reset_wait: Duration::from_secs(2), fences: Fences::Symmetric }
    }
}

/// What the accesses of a domain's endpoints do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DomainKind {
    /// They are translated through the domain's table.
    Translated,
    /// They go to the address that the device issued. Such a domain has no table.
    Bypass,
}

/// The unit's control plane. One thread owns it; the devices' threads hold its [`Phb`]s.
///
/// Domains exist while an endpoint is attached to them. Changes take effect for all DMA with [`Calgary::commit`]; only
/// then may a guest be told of them. Before, an access may see the old translation or the new one.
///
/// `C` is the chip: [`Soft`] for guests, [`Driven`](crate::driver::Driven) for a chip with a register window.
#[derive(Debug)]
pub struct Calgary<C: Chip = Soft> {
    pub(crate) chip: C,
    pub(crate) size: TableSize,
    pub(crate) limits: Limits,
    pub(crate) bypass: bool,
    reserved: Vec<IovaRange>,
    /// Sorted by id.
    pub(crate) domains: Vec<DomainSlot<C::Table>>,
    /// Index into `domains` that the last lookup found: most requests name the same domain as the one before.
    recent: usize,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(super) endpoint_index: BTreeMap<EndpointId, usize>,
    /// Domains that changed since the last commit, each once.
    pub(crate) dirty: Vec<DomainId>,
    /// Memory that each commit uses again.
    pub(crate) affected: Vec<Affected>,
    /// Endpoints whose PHB may have to be programmed at the next commit, each once.
    pub(crate) moved: Vec<usize>,
    pub(crate) stats: Stats,
}

#[derive(Debug)]
pub(crate) struct DomainSlot<T> {
    pub(super) id: DomainId,
    /// `None` for a bypass domain.
    pub(crate) space: Option<Domain<T>>,
    /// Indexes into the unit's endpoints. Never empty between calls.
    pub(crate) endpoints: Vec<usize>,
}

impl<T> DomainSlot<T> {
    pub(super) fn kind(&self) -> DomainKind {
        match self.space {
            Some(_) => DomainKind::Translated,
            None => DomainKind::Bypass,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: EndpointId,
    /// The chip's number of its PHB.
    pub(crate) phb: usize,
    pub(crate) domain: Option<DomainId>,
    /// Listed in the unit's `moved`.
    pub(crate) moved: bool,
    /// Its accesses did not end in time: its slots are disabled until a reset finds it quiet.
    pub(crate) broken: bool,
}

impl Calgary {
    /// A unit in software without endpoints, with an IOVA window of `size` for each domain. Bypass is off.
    ///
    /// # Errors
    /// [`Error::NoDomains`] if the limits allow none, [`Error::Table`] if this machine cannot allocate table memory.
    pub fn new(size: TableSize, limits: Limits) -> Result<Self, Error> {
        Self::over(Soft::new(limits.fences), size, limits)
    }

    /// Adds an endpoint, attached to no domain, and returns the PHB that its device does DMA through.
    ///
    /// # Errors
    /// [`Error::DuplicateEndpoint`].
    pub fn add_endpoint(&mut self, id: EndpointId) -> Result<Arc<Phb>, Error> {
        if self.endpoint_index.contains_key(&id) {
            return Err(Error::DuplicateEndpoint(id));
        }
        let (number, phb) = self.chip.add_phb(id);
        self.chip.retarget(number, self.unattached());
        self.insert_endpoint(id, number);
        Ok(phb)
    }
}

impl<C: Chip> Calgary<C> {
    /// A unit over any chip, as [`Calgary::new`].
    ///
    /// # Errors
    /// As [`Calgary::new`].
    pub fn over(mut chip: C, size: TableSize, limits: Limits) -> Result<Self, Error> {
        if limits.max_domains == 0 {
            return Err(Error::NoDomains);
        }
        // Better found out now than at a guest's first ATTACH.
        chip.new_table(size).map_err(Error::Table)?;
        Ok(Self {
            chip,
            size,
            limits,
            bypass: false,
            reserved: Vec::new(),
            domains: Vec::new(),
            recent: 0,
            endpoints: Vec::new(),
            endpoint_index: BTreeMap::new(),
            dirty: Vec::new(),
            affected: Vec::new(),
            moved: Vec::new(),
            stats: Stats::default(),
        })
    }

    /// Enters an endpoint whose PHB is ready and goes where unattached endpoints go.
    pub(crate) fn insert_endpoint(&mut self, id: EndpointId, phb: usize) {
        for (first, last) in self.chip.untranslated(phb) {
            self.reserve(first, last);
        }
        self.endpoint_index.insert(id, self.endpoints.len());
        self.endpoints.push(Endpoint { id, phb, domain: None, moved: false, broken: false });
    }

    pub(crate) fn has_endpoint(&self, id: EndpointId) -> bool {
        self.endpoint_index.contains_key(&id)
    }

    /// Makes every later MAP that overlaps `first..=last` fail. An inverted range reserves nothing.
    pub fn reserve(&mut self, first: Iova, last: Iova) {
        self.reserved.extend(IovaRange::new(first, last));
    }

    /// Whether endpoints that are attached to no domain reach memory untranslated (`true`) or not at all. Takes effect
    /// with the next commit.
    pub fn set_bypass(&mut self, bypass: bool) {
        if self.bypass == bypass {
            return;
        }
        self.bypass = bypass;
        for endpoint in 0..self.endpoints.len() {
            if self.endpoints[endpoint].domain.is_none() {
                self.note_move(endpoint);
            }
        }
    }

    /// Attaches an endpoint, and detaches it from where it was (virtio 1.2 §5.13.6.3). The domain is created if it does
    /// not exist. Attaching again to the same domain changes nothing.
    ///
    /// # Errors
    /// See [`AttachError`]; none has a side effect.
    pub fn attach(&mut self, domain: DomainId, endpoint: EndpointId, kind: DomainKind) -> Result<(), AttachError> {
        let endpoint = self.endpoint_at(endpoint).ok_or(AttachError::NoEndpoint)?;
        let old = self.endpoints[endpoint].domain;
        match self.search(domain) {
            Ok(index) => {
                if self.domains[index].kind() != kind {
                    return Err(AttachError::KindMismatch);
                }
                if old == Some(domain) {
                    return Ok(());
                }
            }
            Err(index) => {
                let dying =
                    old.and_then(|old| self.search(old).ok()).is_some_and(|old| self.domains[old].endpoints.len() == 1);
                if self.domains.len() - usize::from(dying) >= self.limits.max_domains {
                    return Err(AttachError::TooManyDomains);
                }
                let space = match kind {
                    DomainKind::Translated => {
                        let table = self.chip.new_table(self.size).map_err(AttachError::OutOfMemory)?;
                        Some(Domain::new(table, self.size))
                    }
                    DomainKind::Bypass => None,
                };
                let slot = DomainSlot { id: domain, space, endpoints: Vec::new() };
                self.domains.insert(index, slot);
            }
        }
        self.leave(endpoint);
        if let Ok(index) = self.search(domain) {
            self.domains[index].endpoints.push(endpoint);
            self.endpoints[endpoint].domain = Some(domain);
            self.note_move(endpoint);
        }
        Ok(())
    }

    /// Detaches an endpoint from the domain that it is attached to. With its last endpoint a domain vanishes, and all
    /// its mappings (virtio 1.2 §5.13.6.4).
    ///
    /// # Errors
    /// See [`DetachError`]; none has a side effect.
    pub fn detach(&mut self, domain: DomainId, endpoint: EndpointId) -> Result<(), DetachError> {
        let endpoint = self.endpoint_at(endpoint).ok_or(DetachError::NoEndpoint)?;
        if self.endpoints[endpoint].domain != Some(domain) {
            return Err(DetachError::NotAttached);
        }
        self.leave(endpoint);
        Ok(())
    }

    /// Maps `first..=last` of a domain to consecutive real pages from `real` on, as one mapping that only a whole UNMAP
    /// removes (virtio 1.2 §5.13.6.5).
    ///
    /// # Errors
    /// See [`MapError`]; none has a side effect.
    pub fn map(
        &mut self,
        domain: DomainId,
        first: Iova,
        last: Iova,
        real: RealAddr,
        permissions: Permissions,
    ) -> Result<(), MapError> {
        let index = self.find(domain).ok_or(MapError::NoDomain)?;
        let space = self.domains[index].space.as_mut().ok_or(MapError::Bypass)?;
        let was_clean = space.is_clean();
        space.map(first, last, real, permissions, &self.reserved, |real, pages| {
            self.chip.admit(real, pages).map_err(|cause| {
                log::warn!("MAP of {first} to {real} refused: {cause}");
                MapError::BadAddress
            })
        })?;
        if was_clean {
            self.dirty.push(domain);
        }
        Ok(())
    }

    /// Removes every mapping inside `first..=last` and returns how many there were (virtio 1.2 §5.13.6.6). The bounds
    /// need no alignment and may lie beyond the window: 0 to 2^64 - 1 removes all.
    ///
    /// # Errors
    /// See [`UnmapError`]; none has a side effect, so a range that would split a mapping removes nothing.
    pub fn unmap(&mut self, domain: DomainId, first: Iova, last: Iova) -> Result<u64, UnmapError> {
        let index = self.find(domain).ok_or(UnmapError::NoDomain)?;
        let space = self.domains[index].space.as_mut().ok_or(UnmapError::Bypass)?;
        let was_clean = space.is_clean();
        let mappings = space.unmap(first, last)?;
        if mappings > 0 && was_clean {
            self.dirty.push(domain);
        }
        Ok(mappings)
    }

    /// Where an endpoint's accesses have to go.
    pub(crate) fn target_of(&self, endpoint: usize) -> Target<C::Table> {
        let Some(domain) = self.endpoints[endpoint].domain else {
            return self.unattached();
        };
        match self.search(domain).map(|index| &self.domains[index].space) {
            Ok(Some(space)) => Target::Table(Arc::clone(space.table())),
            Ok(None) => Target::Identity,
            Err(_) => Target::Nothing,
        }
    }

    /// Index of a domain in `domains`.
    #[inline]
    pub(crate) fn find(&mut self, domain: DomainId) -> Option<usize> {
        if self.domains.get(self.recent).is_none_or(|slot| slot.id != domain) {
            self.recent = self.search(domain).ok()?;
        }
        Some(self.recent)
    }

    /// Has the PHB of an endpoint looked at in the next commit.
    pub(crate) fn note_move(&mut self, endpoint: usize) {
        if !self.endpoints[endpoint].moved {
            self.endpoints[endpoint].moved = true;
            self.moved.push(endpoint);
        }
    }

    /// Takes an endpoint out of its domain, and the domain out of the unit if it was the last one.
    fn leave(&mut self, endpoint: usize) {
        let Some(domain) = self.endpoints[endpoint].domain.take() else {
            return;
        };
        self.note_move(endpoint);
        let Ok(index) = self.search(domain) else {
            return;
        };
        let members = &mut self.domains[index].endpoints;
        members.retain(|&member| member != endpoint);
        if members.is_empty() {
            self.domains.remove(index);
            self.dirty.retain(|&dirty| dirty != domain);
        }
    }

    pub(crate) fn unattached(&self) -> Target<C::Table> {
        if self.bypass { Target::Identity } else { Target::Nothing }
    }

    pub(super) fn search(&self, domain: DomainId) -> Result<usize, usize> {
        self.domains.binary_search_by_key(&domain, |slot| slot.id)
    }

    pub(super) fn endpoint_at(&self, endpoint: EndpointId) -> Option<usize> {
        self.endpoint_index.get(&endpoint).copied()
    }
}

impl<C: Chip> Drop for Calgary<C> {
    /// The devices may live on: from here on all their accesses are refused.
    fn drop(&mut self) {
        for endpoint in &self.endpoints {
            self.chip.shut_down(endpoint.phb);
        }
    }
}
