//! Making changes true for all DMA.

use std::time::{Duration, Instant};

use super::Calgary;
use crate::addr::EndpointId;
use crate::chip::{Chip, Progress, Removed};
use crate::dma::Scope;
use crate::driver::DmaError;

/// What no epoch takes that was not interrupted.
const LONG_WAIT: Duration = Duration::from_micros(5);

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
#[derive(Debug)]
pub(crate) struct Affected {
    endpoint: usize,
    /// Index of the domain that lost mappings, or `None` if the PHB lost its whole address space.
    domain: Option<usize>,
    progress: Progress,
}

impl Affected {
    fn wholly(endpoint: usize) -> Self {
        Self { endpoint, domain: None, progress: Progress::Busy }
    }
}

impl<C: Chip> Calgary<C> {
    /// Makes every change since the last commit true for all DMA: when it returns, no access is under way, starts, or is
    /// pinned that uses an old translation. Only then may the guest see that its requests completed.
    ///
    /// It waits only if a translation was removed or changed, and only for the PHBs concerned: for the epochs of their
    /// ports, which are short, and for the pins that overlap what was unmapped, or all pins of a PHB whose address space
    /// changed. An access that does not end within `limit` costs its endpoint the slot, see [`Commit::broken`]; tables
    /// that it may still read are kept. Endpoints broken before are not waited for again.
    ///
    /// The calling thread must be outside of every epoch and hold no pins: it would wait for itself.
    pub fn commit(&mut self, limit: Duration) -> Commit {
        self.commit_or_wait(limit, || {})
    }

    /// The same; calls `waits` once if an access keeps it waiting for longer than a short copy takes, some microseconds. The
    /// caller may use the time, but neither enters an epoch that it does not leave nor pins anything.
    pub fn commit_or_wait(&mut self, limit: Duration, waits: impl FnOnce()) -> Commit {
        if self.moved.is_empty() && self.dirty.is_empty() {
            return Commit::default();
        }
        self.store();
        let mut affected = std::mem::take(&mut self.affected);
        self.retarget_moved(&mut affected);
        self.add_dirty(&mut affected);
        let commit = if affected.is_empty() { Commit::default() } else { self.quiesce(&mut affected, limit, waits) };
        self.affected = affected;
        self.forget_dirty();
        commit
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
        let mut affected = std::mem::take(&mut self.affected);
        self.retarget_moved(&mut affected);
        for endpoint in 0..self.endpoints.len() {
            if self.endpoints[endpoint].broken {
                self.chip.retarget(self.endpoints[endpoint].phb, self.target_of(endpoint));
                affected.push(Affected::wholly(endpoint));
            }
        }
        let commit = self.quiesce(&mut affected, self.limits.reset_wait, || {});
        self.affected = affected;
        for endpoint in &mut self.endpoints {
            if endpoint.broken && !commit.broken.contains(&endpoint.id) {
                self.chip.revive(endpoint.phb);
                endpoint.broken = false;
            }
        }
        commit
    }

    /// Looks at every PHB for a DMA error. An error disables the slots of its PHB, whose endpoint is broken from here on,
    /// and is returned once. To be called at once after bring-up, and then every
    /// [`WATCHDOG_PERIOD`](crate::driver::WATCHDOG_PERIOD). On the soft chip there are none: ports return them.
    pub fn watchdog(&mut self) -> Vec<(EndpointId, DmaError)> {
        let mut errors = Vec::new();
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| !endpoint.broken) {
            if let Some(error) = self.chip.check(endpoint.phb) {
                log::error!("endpoint {}: {error}; its slots are disabled until the next reset", endpoint.id);
                endpoint.broken = true;
                errors.push((endpoint.id, error));
            }
        }
        errors
    }

    /// Has the tables follow the domains.
    fn store(&mut self) {
        for position in 0..self.dirty.len() {
            if let Some(domain) = self.find(self.dirty[position])
                && let Some(space) = &mut self.domains[domain].space
            {
                space.store(&mut self.chip);
            }
        }
    }

    /// Points the PHBs of moved endpoints at where they belong, and adds those that lost something by it.
    ///
    /// A broken endpoint keeps its slots disabled and gets no table, so it cannot make the unit keep one table after
    /// the other.
    fn retarget_moved(&mut self, affected: &mut Vec<Affected>) {
        while let Some(endpoint) = self.moved.pop() {
            self.endpoints[endpoint].moved = false;
            if self.endpoints[endpoint].broken {
                continue;
            }
            let target = self.target_of(endpoint);
            if self.chip.retarget(self.endpoints[endpoint].phb, target) {
                affected.push(Affected::wholly(endpoint));
            }
        }
    }

    /// Adds the PHBs whose domain lost mappings.
    fn add_dirty(&mut self, affected: &mut Vec<Affected>) {
        for position in 0..self.dirty.len() {
            let Some(domain) = self.find(self.dirty[position]) else {
                continue;
            };
            let slot = &self.domains[domain];
            if slot.space.as_ref().is_none_or(|space| space.removed().is_empty()) {
                continue;
            }
            for &endpoint in &slot.endpoints {
                let wholly = affected.iter().any(|other| other.endpoint == endpoint);
                if !wholly && !self.endpoints[endpoint].broken {
                    affected.push(Affected { endpoint, domain: Some(domain), progress: Progress::Busy });
                }
            }
        }
    }

    /// Forgets what was removed: no access uses it, or its endpoint is broken.
    fn forget_dirty(&mut self) {
        while let Some(dirty) = self.dirty.pop() {
            if let Some(domain) = self.find(dirty)
                && let Some(space) = &mut self.domains[domain].space
            {
                space.forget_removed();
            }
        }
    }

    /// Brings all affected PHBs to quiet, together.
    fn quiesce(&mut self, affected: &mut Vec<Affected>, limit: Duration, waits: impl FnOnce()) -> Commit {
        for Affected { endpoint, .. } in &*affected {
            self.chip.begin(self.endpoints[*endpoint].phb);
        }
        let waited = if self.poll(affected) { Duration::ZERO } else { self.wait(affected, limit, waits) };
        if !waited.is_zero() {
            self.stats.waits += 1;
            self.stats.max_wait = self.stats.max_wait.max(waited);
        }
        let mut commit = Commit { broken: Vec::new(), waited, invalidated: affected.len() };
        for Affected { endpoint, progress, .. } in affected.drain(..) {
            if progress != Progress::Idle {
                commit.broken.push(self.break_endpoint(endpoint));
            }
        }
        self.stats.invalidations += commit.invalidated as u64;
        commit
    }

    /// Looks once at every PHB that is not quiet yet. Whether there is nothing more to wait for.
    fn poll(&mut self, affected: &mut [Affected]) -> bool {
        let mut settled = true;
        for Affected { endpoint, domain, progress } in affected {
            if *progress == Progress::Busy {
                let phb = self.endpoints[*endpoint].phb;
                let space = domain.and_then(|domain| self.domains[domain].space.as_ref());
                let scope = space.map_or(Scope::All, |space| Scope::Removed(space.removed()));
                *progress = self.chip.poll(phb, Removed(scope));
                match progress {
                    Progress::Idle => self.chip.finish(phb),
                    Progress::Busy => settled = false,
                    Progress::Stuck => {}
                }
            }
        }
        settled
    }

    /// Polls until there is nothing more to wait for or `limit` has passed, and returns the time spent.
    fn wait(&mut self, affected: &mut [Affected], limit: Duration, waits: impl FnOnce()) -> Duration {
        let start = Instant::now();
        let mut round = 0;
        let mut waits = Some(waits);
        loop {
            let settled = self.poll(affected);
            let waited = start.elapsed();
            if settled || waited >= limit {
                return waited;
            }
            if waited >= LONG_WAIT
                && let Some(waits) = waits.take()
            {
                waits();
            }
            self.chip.pause(round);
            round = round.saturating_add(1);
        }
    }

    fn break_endpoint(&mut self, endpoint: usize) -> EndpointId {
        let endpoint = &mut self.endpoints[endpoint];
        if !endpoint.broken {
            log::warn!(
                "endpoint {}: accesses did not end in time, its slot is disabled until the next reset",
                endpoint.id
            );
            endpoint.broken = true;
        }
        self.chip.give_up(endpoint.phb);
        endpoint.id
    }
}
