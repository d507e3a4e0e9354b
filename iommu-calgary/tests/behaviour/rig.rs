//! One unit with one endpoint, and short forms for what every test does.

use std::sync::Arc;
use std::time::Duration;

use iommu_calgary::{
    Access, Calgary, Commit, DomainId, DomainKind, EndpointId, Fault, FaultReason, Iova, Limits, MapError, Permissions,
    Phb, RealAddr, Run, TableSize, UnmapError,
};

/// Longer than any access in these tests takes on the slowest machine.
pub(crate) const PATIENT: Duration = Duration::from_secs(120);
/// No waiting: a commit that finds an access in its way breaks the endpoint at once.
pub(crate) const AT_ONCE: Duration = Duration::ZERO;

pub(crate) const NIC: EndpointId = EndpointId(8);
pub(crate) const DISK: EndpointId = EndpointId(16);
pub(crate) const D1: DomainId = DomainId(1);
pub(crate) const D2: DomainId = DomainId(2);

pub(crate) struct Rig {
    pub(crate) iommu: Calgary,
    pub(crate) nic: Arc<Phb>,
    pub(crate) disk: Arc<Phb>,
}

impl Rig {
    /// Two endpoints, attached to nothing, and a 32 MiB window.
    pub(crate) fn new() -> Self {
        Self::with(TableSize::MiB32, Limits { reset_wait: AT_ONCE, ..Limits::default() })
    }

    /// As [`Rig::new`], with the NIC attached to the translated domain 1.
    pub(crate) fn attached() -> Self {
        let mut rig = Self::new();
        rig.iommu.attach(D1, NIC, DomainKind::Translated).unwrap();
        rig.commit();
        rig
    }

    pub(crate) fn with(size: TableSize, limits: Limits) -> Self {
        let mut iommu = Calgary::new(size, limits).unwrap();
        let nic = iommu.add_endpoint(NIC).unwrap();
        let disk = iommu.add_endpoint(DISK).unwrap();
        Self { iommu, nic, disk }
    }

    /// Maps in domain 1, readable and writable.
    pub(crate) fn map(&mut self, first: u64, last: u64, real: u64) -> Result<(), MapError> {
        self.iommu.map(D1, Iova(first), Iova(last), RealAddr(real), Permissions::READ_WRITE)
    }

    /// Unmaps in domain 1.
    pub(crate) fn unmap(&mut self, first: u64, last: u64) -> Result<u64, UnmapError> {
        self.iommu.unmap(D1, Iova(first), Iova(last))
    }

    /// Commits where nothing can be in the way.
    pub(crate) fn commit(&mut self) -> Commit {
        let commit = self.iommu.commit(AT_ONCE);
        assert_eq!(commit.broken, []);
        commit
    }
}

/// What a device read of up to `len` bytes at `iova` reaches.
pub(crate) fn read(phb: &Arc<Phb>, iova: u64, len: u64) -> Result<Run, Fault> {
    phb.new_port().enter().translate(Iova(iova), len, Access::Read)
}

/// Where a device read of one byte at `iova` goes.
pub(crate) fn reach(phb: &Arc<Phb>, iova: u64) -> Result<u64, FaultReason> {
    read(phb, iova, 1).map(|run| run.real.0).map_err(|fault| fault.reason)
}
