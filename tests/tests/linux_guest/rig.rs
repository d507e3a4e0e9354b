//! A daemon in this process and a Linux guest on its sockets.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use calgary_tests::vm::{Bundle, Machine, MachineBuilder, bundle_for_tests};
use calgaryd::attachment;
use calgaryd::config::{IommuConfig, ServeConfig, ShareConfig};
use calgaryd::daemon::{Daemon, Signals};
use calgaryd::device::iommu::{Iommu, IommuStatsSnapshot};
use calgaryd::transport::TransportKind;
use frontend_spec::pci::Bdf;
use iommu_calgary::TableSize;
use tempfile::TempDir;

/// Tag of the share behind the IOMMU.
pub(crate) const TRANSLATED: &str = "translated";
/// Tag of another share behind the IOMMU, where a test asks for one.
pub(crate) const SECOND: &str = "second";
/// Tag of the share outside it.
pub(crate) const DIRECT: &str = "direct";
/// The transport of most tests.
pub(crate) const VHOST_USER: TransportKind = TransportKind::VhostUser;
/// The other one.
pub(crate) const VFIO_USER: TransportKind = TransportKind::VfioUser;
/// Guest RAM in MiB; the IOVA window lies inside it.
const MEMORY_MIB: u64 = 512;
/// A bound, not an expectation.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

static ONE_GUEST: Mutex<()> = Mutex::new(());

/// One folder served twice, and the right to run a guest.
pub(crate) struct Rig {
    pub(crate) daemon: Daemon,
    config: ServeConfig,
    bundle: Bundle,
    root: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Rig {
    /// `None` where the guest's parts cannot be had.
    pub(crate) fn new() -> Option<Self> {
        Self::with(TableSize::MiB256, false)
    }

    /// The same, with another IOVA window.
    pub(crate) fn with_window(window: TableSize) -> Option<Self> {
        Self::with(window, false)
    }

    /// The same, with a second share behind the IOMMU.
    pub(crate) fn with_second_endpoint() -> Option<Self> {
        Self::with(TableSize::MiB256, true)
    }

    fn with(window: TableSize, second: bool) -> Option<Self> {
        let mut shares = vec![(TRANSLATED, VHOST_USER, true), (DIRECT, VHOST_USER, false)];
        if second {
            shares.push((SECOND, VHOST_USER, true));
        }
        Self::serving(window, VHOST_USER, &shares)
    }

    /// An IOMMU at 00:05.0 over `transport` and shares at the slots behind it: tag, transport, and whether it is behind the
    /// IOMMU.
    pub(crate) fn serving(
        window: TableSize,
        transport: TransportKind,
        shares: &[(&str, TransportKind, bool)],
    ) -> Option<Self> {
        let turn = ONE_GUEST.lock().unwrap_or_else(PoisonError::into_inner);
        let bundle = bundle_for_tests()?;
        let root = tempfile::tempdir().unwrap();
        let shared = root.path().join("share");
        std::fs::create_dir(&shared).unwrap();
        let iommu = IommuConfig {
            socket: root.path().join("iommu"),
            transport,
            at: "00:05.0".parse().unwrap(),
            window,
            boot_bypass: false,
            reserved: Vec::new(),
        };
        let shares = (6..).zip(shares).map(|(slot, &(tag, transport, iommu))| {
            let share = ShareConfig::new(tag.parse().unwrap(), &shared, root.path().join(tag)).over(transport);
            share.at(Bdf::new(0, slot, 0).unwrap(), iommu)
        });
        let config = ServeConfig { iommu: Some(iommu), shares: shares.collect(), ..ServeConfig::default() };
        let daemon = Daemon::start(&config, Signals::Leave).unwrap();
        Some(Self { daemon, config, bundle, root, _turn: turn })
    }

    /// A guest with both shares attached; not started.
    pub(crate) fn guest(&self) -> MachineBuilder {
        let attachment = attachment::qemu(&self.config, MEMORY_MIB).unwrap();
        Machine::builder(&self.bundle).attachment(attachment).patience(PATIENCE)
    }

    /// The same, but told of a window that fits: what a user gets who does not ask `calgaryd attach`.
    pub(crate) fn unchecked_guest(&self) -> MachineBuilder {
        let mut config = self.config.clone();
        config.iommu.as_mut().unwrap().window = TableSize::MiB32;
        let attachment = attachment::qemu(&config, MEMORY_MIB).unwrap();
        Machine::builder(&self.bundle).attachment(attachment).patience(PATIENCE)
    }

    /// The folder that the guest sees.
    pub(crate) fn shared(&self) -> PathBuf {
        self.root.path().join("share")
    }

    pub(crate) fn iommu(&self) -> &Iommu {
        self.daemon.iommu().unwrap()
    }

    pub(crate) fn stats(&self) -> IommuStatsSnapshot {
        self.iommu().stats().snapshot()
    }

    /// Waits until `count` mappings are live: a guest in lazy mode unmaps some time later.
    pub(crate) fn wait_for_mappings(&self, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.iommu().live_mappings() != count {
            assert!(Instant::now() < deadline, "{} mappings are live, not {count}", self.iommu().live_mappings());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Nothing was refused, dropped or malformed.
    pub(crate) fn assert_clean(&self) {
        let stats = self.stats();
        assert_eq!(self.iommu().faults().recorded(), 0);
        assert_eq!((stats.refused, stats.malformed, stats.ring_errors, stats.broken), (0, 0, 0, 0), "{stats:?}");
        for tag in self.config.shares.iter().map(|share| share.tag.as_str()) {
            let stats = self.daemon.share(tag).unwrap().stats();
            assert_eq!((stats.dropped, stats.faults), (0, 0), "{tag}: {stats:?}");
        }
    }
}
