//! What the unit tells of itself.

use super::{Calgary, Domain, DomainKind, Stats};
use crate::addr::{DomainId, EndpointId};
use crate::chip::Chip;
use crate::table::TableSize;

impl<C: Chip> Calgary<C> {
    /// Size of every domain's table.
    #[must_use]
    pub fn size(&self) -> TableSize {
        self.size
    }

    /// The chip.
    #[must_use]
    pub fn chip(&self) -> &C {
        &self.chip
    }

    /// The chip. Nothing may be done to it that the unit does not know of.
    #[must_use]
    pub fn chip_mut(&mut self) -> &mut C {
        &mut self.chip
    }

    /// What [`Calgary::set_bypass`] set last.
    #[must_use]
    pub fn bypass(&self) -> bool {
        self.bypass
    }

    /// Number of live mappings in all domains.
    #[must_use]
    pub fn live_mappings(&self) -> u64 {
        let spaces = self.domains.iter().filter_map(|slot| slot.space.as_ref());
        spaces.map(Domain::mappings).sum()
    }

    /// Number of live mappings in one domain: 0 if it does not exist or holds none.
    #[must_use]
    pub fn live_mappings_of(&self, domain: DomainId) -> u64 {
        self.domain(domain).map_or(0, Domain::mappings)
    }

    /// The domains that exist, in the order of their ids.
    pub fn domains(&self) -> impl Iterator<Item = DomainId> {
        self.domains.iter().map(|slot| slot.id)
    }

    /// The kind of a domain, or `None` if it does not exist.
    #[must_use]
    pub fn domain_kind(&self, domain: DomainId) -> Option<DomainKind> {
        let index = self.search(domain).ok()?;
        Some(self.domains[index].kind())
    }

    /// A translated domain with its table, or `None` if it does not exist or is a bypass domain.
    #[must_use]
    pub fn domain(&self, domain: DomainId) -> Option<&Domain<C::Table>> {
        let index = self.search(domain).ok()?;
        self.domains[index].space.as_ref()
    }

    /// The domain that an endpoint is attached to.
    #[must_use]
    pub fn endpoint_domain(&self, endpoint: EndpointId) -> Option<DomainId> {
        self.endpoints[self.endpoint_at(endpoint)?].domain
    }

    /// Whether an endpoint's slots are disabled, because its accesses did not end in time or because of a DMA error. Only
    /// a [`Calgary::reset`] enables them again.
    #[must_use]
    pub fn is_broken(&self, endpoint: EndpointId) -> bool {
        self.endpoint_at(endpoint).is_some_and(|index| self.endpoints[index].broken)
    }

    /// The endpoints of the unit, in the order of their ids.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointId> {
        self.endpoint_index.keys().copied()
    }

    /// Counters since the unit was made.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }
}
