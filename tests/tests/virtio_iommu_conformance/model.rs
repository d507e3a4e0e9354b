//! The specification as a sequential model: maps of ranges, and checks in the order of frontend-spec's `SPEC.md` §10.

use std::collections::{BTreeMap, BTreeSet};

use calgary_tests::guest::iommu::Request;

use crate::guest::{BOTH, BYPASS, INVAL, NOENT, OK, PAGE, RANGE};

/// Size of the guest-physical address space that a mapping may name.
const PHYSICAL: u64 = 1 << 48;

/// One successful MAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) last: u64,
    pub(crate) target: u64,
    pub(crate) flags: u32,
}

/// A domain that has an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Domain {
    pub(crate) bypass: bool,
    endpoints: BTreeSet<u32>,
    /// By first address.
    pub(crate) mappings: BTreeMap<u64, Mapping>,
}

/// What the device should hold.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    window: u64,
    last_domain: u32,
    reserved: Vec<(u64, u64)>,
    pub(crate) endpoints: BTreeMap<u32, Option<u32>>,
    pub(crate) domains: BTreeMap<u32, Domain>,
}

impl Model {
    /// Endpoints attached nowhere, in front of `window` bytes of IOVA space.
    pub(crate) fn new(window: u64, last_domain: u32, reserved: &[(u64, u64)], endpoints: &[u32]) -> Self {
        Self {
            window,
            last_domain,
            reserved: reserved.to_vec(),
            endpoints: endpoints.iter().map(|&endpoint| (endpoint, None)).collect(),
            domains: BTreeMap::new(),
        }
    }

    /// Applies `request`; returns its status. A PROBE has no effect.
    pub(crate) fn apply(&mut self, request: Request) -> u8 {
        let outcome = match request {
            Request::Attach { domain, endpoint, flags } => self.attach(domain, endpoint, flags),
            Request::Detach { domain, endpoint } => self.detach(domain, endpoint),
            Request::Map { domain, first, last, target, flags } => self.map(domain, first, last, target.0, flags),
            Request::Unmap { domain, first, last } => self.unmap(domain, first, last),
            Request::Probe { endpoint } => self.known(endpoint).map(drop),
        };
        outcome.map_or_else(|status| status, |()| OK)
    }

    fn known(&self, endpoint: u32) -> Result<Option<u32>, u8> {
        self.endpoints.get(&endpoint).copied().ok_or(NOENT)
    }

    fn attach(&mut self, domain: u32, endpoint: u32, flags: u32) -> Result<(), u8> {
        check(flags & !BYPASS == 0, INVAL)?;
        check(domain <= self.last_domain, RANGE)?;
        let old = self.known(endpoint)?;
        let bypass = flags == BYPASS;
        if let Some(existing) = self.domains.get(&domain) {
            check(existing.bypass == bypass, INVAL)?;
        }
        if old == Some(domain) {
            return Ok(());
        }
        self.leave(endpoint);
        let new = Domain { bypass, endpoints: BTreeSet::new(), mappings: BTreeMap::new() };
        self.domains.entry(domain).or_insert(new).endpoints.insert(endpoint);
        self.endpoints.insert(endpoint, Some(domain));
        Ok(())
    }

    fn detach(&mut self, domain: u32, endpoint: u32) -> Result<(), u8> {
        check(self.known(endpoint)? == Some(domain), INVAL)?;
        self.leave(endpoint);
        Ok(())
    }

    fn leave(&mut self, endpoint: u32) {
        let Some(domain) = self.endpoints.insert(endpoint, None).flatten() else { return };
        let members = &mut self.domains.get_mut(&domain).unwrap().endpoints;
        members.remove(&endpoint);
        if members.is_empty() {
            self.domains.remove(&domain);
        }
    }

    fn translated(&mut self, domain: u32) -> Result<&mut Domain, u8> {
        let domain = self.domains.get_mut(&domain).ok_or(NOENT)?;
        check(!domain.bypass, INVAL)?;
        Ok(domain)
    }

    fn map(&mut self, domain: u32, first: u64, last: u64, target: u64, flags: u32) -> Result<(), u8> {
        check(flags & !BOTH == 0, INVAL)?;
        let (window, reserved) = (self.window, self.reserved.clone());
        let mappings = &mut self.translated(domain)?.mappings;
        check(first <= last, RANGE)?;
        check([first, target, last.wrapping_add(1)].iter().all(|address| address % PAGE == 0), RANGE)?;
        check(last < window, RANGE)?;
        check(reserved.iter().all(|&(from, to)| last < from || to < first), INVAL)?;
        check(target.checked_add(last - first).is_some_and(|end| end < PHYSICAL), RANGE)?;
        check(mappings.iter().all(|(&from, old)| last < from || old.last < first), INVAL)?;
        mappings.insert(first, Mapping { last, target, flags });
        Ok(())
    }

    fn unmap(&mut self, domain: u32, first: u64, last: u64) -> Result<(), u8> {
        let mappings = &mut self.translated(domain)?.mappings;
        check(first <= last, RANGE)?;
        let inside = |from: u64, to: u64| first <= from && to <= last;
        let touched = |from: u64, to: u64| from <= last && first <= to;
        check(mappings.iter().all(|(&from, old)| !touched(from, old.last) || inside(from, old.last)), RANGE)?;
        mappings.retain(|&from, old| !inside(from, old.last));
        Ok(())
    }
}

fn check(holds: bool, status: u8) -> Result<(), u8> {
    if holds { Ok(()) } else { Err(status) }
}
