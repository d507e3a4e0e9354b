//! Making changes true for all DMA.

use std::time::Duration;

use crate::addr::EndpointId;
use crate::phb::Reprogrammed;
use crate::pins::Scope;
use crate::quiesce;
use crate::unit::Calgary;

/// What a [`Calgary::commit`] did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Commit {
    /// Endpoints whose accesses did not end within the limit. Their slots are disabled: every new access faults until a
    /// [`Calgary::reset`] finds them quiet. Accesses that they had begun may still go on, so their device must stop and
    /// say so to its driver.
    pub broken: Vec<EndpointId>,
    /// How long the commit waited for accesses; zero if none was in the way.
    pub waited: Duration,
    /// PHBs that lost a translation, each brought to quiet once.
    pub invalidated: usize,
}

/// Counters of the control plane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// PHBs brought to quiet because translations were removed or changed.
    pub invalidations: u64,
    /// Commits that had to wait for an access.
    pub waits: u64,
    /// Longest wait of a commit.
    pub max_wait: Duration,
}

/// A PHB that lost translations.
struct Affected {
    endpoint: usize,
    /// Index of the domain that lost mappings, or `None` if the PHB lost its whole address space.
    domain: Option<usize>,
}

impl Calgary {
    /// Makes every change since the last commit true for all DMA: when it returns, no port is inside an epoch, starts
    /// one, or holds a pin that uses an old translation. Only then may the guest see that its requests completed.
    ///
    /// It waits only if a translation was removed or changed, and only for the PHBs concerned: for the epochs of their
    /// ports, which are short, and for the pins that overlap what was unmapped, or all pins of a PHB whose address space
    /// changed. An access that does not end within `limit` costs its endpoint the slot, see [`Commit::broken`]; tables
    /// that it may still read are kept. Endpoints broken before are not waited for again.
    ///
    /// The calling thread must be outside of every epoch and hold no pins: it would wait for itself.
    pub fn commit(&mut self, limit: Duration) -> Commit {
        if self.moved.is_empty() && self.dirty.is_empty() {
            return Commit::default();
        }
        let mut affected = self.program_moved();
        for position in 0..self.dirty.len() {
            let Some(domain) = self.find(self.dirty[position]) else {
                continue;
            };
            for &endpoint in &self.domains[domain].endpoints {
                let wholly = affected.iter().any(|other| other.endpoint == endpoint);
                if !wholly && !self.endpoints[endpoint].broken {
                    let domain = Some(domain);
                    affected.push(Affected { endpoint, domain });
                }
            }
        }
        self.quiesce(&affected, limit)
    }

    /// Drops all domains and mappings, and keeps the bypass setting (virtio 1.2 §5.13.4.2, §5.13.5). Committed when it returns,
    /// within [`Limits::reset_wait`](crate::Limits::reset_wait). Broken endpoints that are quiet by then work again; the
    /// others are in [`Commit::broken`].
    pub fn reset(&mut self) -> Commit {
        self.domains.clear();
        self.dirty.clear();
        for endpoint in 0..self.endpoints.len() {
            if self.endpoints[endpoint].domain.take().is_some() {
                self.note_move(endpoint);
            }
        }
        let mut affected = self.program_moved();
        let broken = (0..self.endpoints.len()).filter(|&endpoint| self.endpoints[endpoint].broken);
        affected.extend(broken.map(|endpoint| Affected { endpoint, domain: None }));
        let commit = self.quiesce(&affected, self.limits.reset_wait);
        for endpoint in 0..self.endpoints.len() {
            let phb = &self.endpoints[endpoint].phb;
            if self.endpoints[endpoint].broken && !commit.broken.contains(&phb.endpoint()) {
                phb.program(self.target_of(endpoint));
                phb.enable_slots();
                self.endpoints[endpoint].broken = false;
            }
        }
        commit
    }

    /// Points the PHBs of moved endpoints at where they belong, and returns those that lost something by it.
    ///
    /// A broken endpoint keeps its slots disabled and gets no table, so it cannot make the unit keep one table after
    /// the other.
    fn program_moved(&mut self) -> Vec<Affected> {
        let mut affected = Vec::new();
        while let Some(endpoint) = self.moved.pop() {
            self.endpoints[endpoint].moved = false;
            if self.endpoints[endpoint].broken {
                continue;
            }
            let target = self.target_of(endpoint);
            if self.endpoints[endpoint].phb.program(target) == Reprogrammed::Lost {
                affected.push(Affected { endpoint, domain: None });
            }
        }
        affected
    }

    fn quiesce(&mut self, affected: &[Affected], limit: Duration) -> Commit {
        let mut waiting = Vec::new();
        for &Affected { endpoint, domain } in affected {
            let space = domain.and_then(|domain| self.domains[domain].space.as_ref());
            let scope = space.map_or(Scope::All, |space| Scope::Removed(space.removed()));
            let mut quiesce = self.endpoints[endpoint].phb.quiesce(scope);
            if !quiesce.poll() {
                waiting.push((endpoint, quiesce));
            }
        }
        let waited = quiesce::wait(&mut waiting, limit);
        if !waited.is_zero() {
            self.stats.waits += 1;
            self.stats.max_wait = self.stats.max_wait.max(waited);
        }
        let late: Vec<usize> = waiting.into_iter().map(|(endpoint, _)| endpoint).collect();
        let broken = late.into_iter().map(|endpoint| self.break_endpoint(endpoint)).collect();

        for position in 0..self.dirty.len() {
            if let Some(domain) = self.find(self.dirty[position])
                && let Some(space) = &mut self.domains[domain].space
            {
                space.forget_removed();
            }
        }
        self.dirty.clear();
        self.stats.invalidations += affected.len() as u64;
        Commit { broken, waited, invalidated: affected.len() }
    }

    fn break_endpoint(&mut self, endpoint: usize) -> EndpointId {
        let endpoint = &mut self.endpoints[endpoint];
        let id = endpoint.phb.endpoint();
        if !endpoint.broken {
            log::warn!("endpoint {id}: accesses did not end in time, its slot is disabled until the next reset");
            endpoint.broken = true;
            endpoint.phb.disable_slots();
        }
        id
    }
}
