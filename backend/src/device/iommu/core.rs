//! The IOMMU that the device model drives and the shares consult: one [`Calgary`] and what surrounds it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iommu_calgary::{Calgary, EndpointId, Iova, Limits, Phb, TableSize};
use log::error;

use super::{FaultLog, IommuStats};

/// How long an UNMAP waits for a DMA that overlaps it before the endpoint is declared broken. The guest spins
/// meanwhile; its kernel calls a spin of 20 s a lockup.
const QUIESCE_LIMIT: Duration = Duration::from_secs(10);

/// How long one look waits whether a reset is done.
const RESET_LIMIT: Duration = Duration::from_secs(2);

/// What a reserved region is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservedKind {
    /// Addresses that never reach the tables.
    Hole,
    /// The doorbells of message-signalled interrupts.
    Msi,
}

/// A reserved region of the IOVA space; both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// First address.
    pub first: u64,
    /// Last address.
    pub last: u64,
    /// What it is for.
    pub kind: ReservedKind,
}

/// Calgary passes 640 KiB to 1 MiB untranslated (Linux, `pci-calgary_64.c`).
const LEGACY_HOLE: Reserved = Reserved { first: 0xa_0000, last: 0xf_ffff, kind: ReservedKind::Hole };
/// Where x86 takes message-signalled interrupts. Reported even beyond the window: without it Linux invents another.
const MSI_WINDOW: Reserved = Reserved { first: 0xfee0_0000, last: 0xfeef_ffff, kind: ReservedKind::Msi };

/// One IOMMU: shared by its device model and by every share behind it.
pub struct Iommu {
    calgary: Mutex<Calgary>,
    /// What the tables were told last, for whoever cannot wait for them.
    bypass: AtomicBool,
    size: TableSize,
    reserved: Vec<Reserved>,
    faults: FaultLog,
    stats: IommuStats,
    quiesce_limit: Duration,
}

impl Iommu {
    /// An IOMMU whose domains translate the IOVA window of `size`; `bypass` says whether an endpoint that no driver
    /// has attached reaches memory untranslated.
    ///
    /// # Errors
    /// The kernel refuses memory or descriptors.
    pub fn new(size: TableSize, bypass: bool) -> std::io::Result<Self> {
        Self::with_reserved(size, bypass, &[])
    }

    /// The same, with more regions that no MAP may touch, by their first and last addresses. They overlap neither each other
    /// nor a part of a region that every IOMMU has.
    ///
    /// # Errors
    /// As [`Iommu::new`].
    pub fn with_reserved(size: TableSize, bypass: bool, holes: &[(u64, u64)]) -> std::io::Result<Self> {
        Self::build(size, bypass, holes, QUIESCE_LIMIT)
    }

    /// The same, with another bound on the wait for DMA in flight, which a look at a reset does not exceed either.
    ///
    /// # Errors
    /// As [`Iommu::new`].
    pub fn with_quiesce_limit(size: TableSize, bypass: bool, quiesce_limit: Duration) -> std::io::Result<Self> {
        Self::build(size, bypass, &[], quiesce_limit)
    }

    fn build(size: TableSize, bypass: bool, holes: &[(u64, u64)], quiesce_limit: Duration) -> std::io::Result<Self> {
        let limits = Limits { reset_wait: RESET_LIMIT.min(quiesce_limit), ..Limits::default() };
        let mut calgary = Calgary::new(size, limits).map_err(std::io::Error::other)?;
        let mut reserved = vec![LEGACY_HOLE, MSI_WINDOW];
        reserved.retain(|own| !holes.iter().any(|&(first, last)| first <= own.first && own.last <= last));
        reserved.extend(holes.iter().map(|&(first, last)| Reserved { first, last, kind: ReservedKind::Hole }));
        for region in &reserved {
            calgary.reserve(Iova(region.first), Iova(region.last));
        }
        calgary.set_bypass(bypass);
        calgary.commit(quiesce_limit);
        Ok(Self {
            calgary: Mutex::new(calgary),
            bypass: AtomicBool::new(bypass),
            size,
            reserved,
            faults: FaultLog::new()?,
            stats: IommuStats::default(),
            quiesce_limit,
        })
    }

    /// Adds the endpoint `id`, and returns the bridge in front of it.
    ///
    /// # Errors
    /// The id is taken, or there is no memory.
    pub fn add_endpoint(&self, id: u32) -> std::io::Result<Arc<Phb>> {
        self.calgary().add_endpoint(EndpointId(id)).map_err(std::io::Error::other)
    }

    /// Bytes of IOVA space, from 0.
    #[must_use]
    pub fn window(&self) -> u64 {
        self.size.window_bytes()
    }

    /// Regions of the IOVA space that no MAP may touch.
    #[must_use]
    pub fn reserved(&self) -> &[Reserved] {
        &self.reserved
    }

    /// Refused accesses on their way to the guest.
    #[must_use]
    pub fn faults(&self) -> &FaultLog {
        &self.faults
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &IommuStats {
        &self.stats
    }

    /// Mappings in all domains.
    #[must_use]
    pub fn live_mappings(&self) -> u64 {
        self.calgary().live_mappings()
    }

    /// The domains that exist, with the number of mappings in each.
    #[must_use]
    pub fn mappings_by_domain(&self) -> Vec<(u32, u64)> {
        let calgary = self.calgary();
        calgary.domains().map(|domain| (domain.0, calgary.live_mappings_of(domain))).collect()
    }

    /// Looks at the domains and their tables between two batches.
    pub fn inspect<T>(&self, look: impl FnOnce(&Calgary) -> T) -> T {
        look(&self.calgary())
    }

    /// Whether unattached endpoints reach memory untranslated. Waits for nothing, as a driver that reads the configuration
    /// does not expect to: a batch may be waiting for DMA meanwhile.
    #[must_use]
    pub fn bypass(&self) -> bool {
        self.bypass.load(Ordering::Acquire)
    }

    /// Sets what unattached endpoints may do; true for every DMA when it returns.
    pub fn set_bypass(&self, bypass: bool) {
        let mut calgary = self.calgary();
        calgary.set_bypass(bypass);
        self.commit(&mut calgary);
        self.bypass.store(bypass, Ordering::Release);
    }

    /// Drops every domain, as a device reset does. Bypass stays as it is (virtio 1.2 §5.13.6.8). Says whether no access that
    /// has begun through a domain is under way any more; if one is, its endpoint stays cut off until a later reset finds it
    /// quiet.
    pub fn reset(&self) -> bool {
        let is_quiet = self.calgary().reset().broken.is_empty();
        self.faults.clear();
        is_quiet
    }

    /// Exclusive use of the tables.
    pub(super) fn calgary(&self) -> MutexGuard<'_, Calgary> {
        self.calgary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same; calls `waits` first if somebody else has it.
    pub(super) fn calgary_or_wait(&self, waits: impl FnOnce()) -> MutexGuard<'_, Calgary> {
        self.calgary.try_lock().unwrap_or_else(|_| {
            waits();
            self.calgary()
        })
    }

    /// Makes what was changed true for every DMA; says whether it is. If not, the endpoints concerned are broken.
    fn commit(&self, calgary: &mut Calgary) -> bool {
        self.commit_or_wait(calgary, || {})
    }

    /// The same; calls `waits` when a DMA in flight keeps it waiting.
    pub(super) fn commit_or_wait(&self, calgary: &mut Calgary, waits: impl FnOnce()) -> bool {
        let commit = calgary.commit_or_wait(self.quiesce_limit, waits);
        self.stats.note_commit(&commit);
        for endpoint in &commit.broken {
            error!(
                "iommu: endpoint {:#x} still had a DMA in flight {:?} after its translation was removed; it is cut off \
                 until the IOMMU is reset. Is its file system hanging?",
                endpoint.0, self.quiesce_limit
            );
        }
        commit.broken.is_empty()
    }
}
