//! A machine: the control plane over a driven chip, a naive model of what it should do, and the chip model's oracle told
//! of every request before the driver sees it.

mod naive;

use std::time::Duration;

use iommu_calgary::chip::model::{Dma, Model};
use iommu_calgary::chip::{Hardware, PhysicalTable};
use iommu_calgary::driver::Driven;
use iommu_calgary::registers::PhbIndex;
use iommu_calgary::{
    Access, Calgary, Commit, DomainId, DomainKind, EndpointId, Iova, Limits, PAGE_SIZE, Permissions, RealAddr, Request,
    TableSize,
};

use naive::Naive;

/// The driver's own patience ends before this.
pub(crate) const PATIENT: Duration = Duration::from_secs(600);

/// Hardware with a [`Model`] in it.
pub(crate) trait Modelled: Hardware<Table: PhysicalTable> {
    fn model(&mut self) -> &mut Model;
}

impl Modelled for Model {
    fn model(&mut self) -> &mut Model {
        self
    }
}

/// The endpoint of a PHB has its number.
pub(crate) struct Machine<H: Hardware> {
    pub(crate) unit: Calgary<Driven<H>>,
    naive: Naive,
    phbs: usize,
    /// Tell the client before the driver has done its work.
    pub(crate) acknowledge_early: bool,
}

impl<H: Modelled> Machine<H> {
    /// PHBs 0 to `phbs` - 1, in no domain.
    pub(crate) fn new(hardware: H, size: TableSize, phbs: usize) -> Self {
        let chip = Driven::new(hardware).unwrap();
        let limits = Limits { reset_wait: PATIENT, ..Limits::default() };
        let mut unit = Calgary::over(chip, size, limits).unwrap();
        for phb in PhbIndex::ALL.into_iter().take(phbs) {
            let number = u8::try_from(phb.get()).unwrap();
            unit.bring_up(EndpointId(number.into()), phb, number).unwrap();
            unit.chip_mut().hardware_mut().model().acknowledge();
        }
        Self { unit, naive: Naive::new(size), phbs, acknowledge_early: false }
    }

    pub(crate) fn model(&mut self) -> &mut Model {
        self.unit.chip_mut().hardware_mut().model()
    }

    /// A batch, all results as the naive model has them. Acknowledged only if nothing broke.
    pub(crate) fn run(&mut self, requests: &[Request]) -> Commit {
        let (expected_results, expected) = self.naive.apply(requests);
        for change in expected {
            self.model().expect(change);
        }
        if self.acknowledge_early {
            self.model().acknowledge();
            self.sweep();
        }
        let mut results = Vec::new();
        let commit = self.unit.apply(requests, PATIENT, &mut results);
        if commit.broken.is_empty() {
            let shown = |result: &Result<(), _>| result.as_ref().map_err(ToString::to_string).copied();
            let results: Vec<_> = results.iter().map(shown).collect();
            assert_eq!(results, expected_results, "{requests:#?}");
            self.model().acknowledge();
        } else {
            assert!(results.iter().any(Result::is_err), "a batch that broke an endpoint fails requests");
        }
        commit
    }

    /// The guest's device is reset.
    pub(crate) fn reset(&mut self) -> Commit {
        for change in self.naive.reset(self.phbs) {
            self.model().expect(change);
        }
        let commit = self.unit.reset();
        self.model().acknowledge();
        commit
    }

    /// An access that waits as long as it has to.
    pub(crate) fn dma(&mut self, phb: usize, iova: u64, access: Access) -> Dma {
        let phb = PhbIndex::new(phb).unwrap();
        for _ in 0..10_000 {
            match self.model().dma(phb, Iova(iova), access) {
                Dma::Waiting => self.model().run(10),
                settled => return settled,
            }
        }
        panic!("the access waits for ever");
    }

    /// Every mapped page of every PHB, and what surrounds it, is reached as the naive model has it.
    pub(crate) fn sweep_and_compare(&mut self) {
        self.model().set_traffic(Vec::new());
        for (phb, page, expected) in self.naive.reachable(self.phbs) {
            for access in [Access::Read, Access::Write] {
                let reached = self.dma(phb, page as u64 * PAGE_SIZE, access);
                let expected = match expected {
                    Some((real, permissions)) if permissions.allows(access) => Dma::Reached(RealAddr(real)),
                    _ => Dma::Refused,
                };
                assert_eq!(reached, expected, "{access:?} of page {page:#x} behind PHB {phb}");
            }
        }
    }

    /// The same accesses, whatever comes of them.
    pub(crate) fn sweep(&mut self) {
        for (phb, page, _) in self.naive.reachable(self.phbs) {
            let phb = PhbIndex::new(phb).unwrap();
            for access in [Access::Read, Access::Write] {
                self.model().dma(phb, Iova(page as u64 * PAGE_SIZE), access);
            }
        }
    }

    /// Has devices read from what is mapped now while the next batch is worked on.
    pub(crate) fn stir(&mut self) {
        let pages = self.naive.reachable(self.phbs);
        let traffic = pages.into_iter().map(|(phb, page, _)| (PhbIndex::new(phb).unwrap(), page)).collect();
        self.model().set_traffic(traffic);
    }
}

pub(crate) fn attach(phb: u32, domain: u32) -> Request {
    Request::Attach { domain: DomainId(domain), endpoint: EndpointId(phb), kind: DomainKind::Translated }
}

pub(crate) fn detach(phb: u32, domain: u32) -> Request {
    Request::Detach { domain: DomainId(domain), endpoint: EndpointId(phb) }
}

/// Pages `first..first + pages` to `real` and following.
pub(crate) fn map(domain: u32, first: u64, pages: u64, real: u64, permissions: Permissions) -> Request {
    Request::Map {
        domain: DomainId(domain),
        first: Iova(first * PAGE_SIZE),
        last: Iova((first + pages) * PAGE_SIZE - 1),
        real: RealAddr(real),
        permissions,
    }
}

pub(crate) fn unmap(domain: u32, first: u64, pages: u64) -> Request {
    let last = Iova((first + pages) * PAGE_SIZE - 1);
    Request::Unmap { domain: DomainId(domain), first: Iova(first * PAGE_SIZE), last }
}
