//! A daemon in this process and a Linux guest on its sockets.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use calgary_tests::vm::{Bundle, Machine, MachineBuilder, bundle_for_tests};
use calgaryd::attachment;
use calgaryd::config::{IommuConfig, ServeConfig, ShareConfig};
use calgaryd::daemon::{Daemon, Signals};
use calgaryd::device::iommu::{Iommu, IommuStatsSnapshot};
use calgaryd::transport::TransportKind;
use frontend_spec::attach::ninep_queue_size;
use frontend_spec::pci::Bdf;
use frontend_spec::viot::Viot;
use iommu_calgary::TableSize;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Tag of the share behind the IOMMU.
pub(crate) const TRANSLATED: &str = "translated";
/// Tag of another share behind the IOMMU, where a test asks for one.
pub(crate) const SECOND: &str = "second";
/// Tag of the share outside it.
pub(crate) const DIRECT: &str = "direct";
/// Pages of the ring of a share behind the IOMMU, which has 512 entries.
pub(crate) const RING_PAGES: u64 = 4;
/// The transport of most tests.
pub(crate) const VHOST_USER: TransportKind = TransportKind::VhostUser;
/// The other one.
pub(crate) const VFIO_USER: TransportKind = TransportKind::VfioUser;
/// Guest RAM in MiB; the IOVA window lies inside it.
const MEMORY_MIB: u64 = 512;
/// A bound, not an expectation.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// One folder served twice.
pub(crate) struct Rig {
    pub(crate) daemon: Daemon,
    config: ServeConfig,
    bundle: Bundle,
    root: TempDir,
}

impl Rig {
    /// `None` where the guest's parts cannot be had.
    pub(crate) fn new() -> Option<Self> {
        Self::with_window(TableSize::MiB256)
    }

    /// The same, with another IOVA window.
    pub(crate) fn with_window(window: TableSize) -> Option<Self> {
        Self::serving(window, VHOST_USER, &[(TRANSLATED, VHOST_USER, true), (DIRECT, VHOST_USER, false)])
    }

    /// An IOMMU at 00:05.0 over `transport` and shares at the slots behind it: tag, transport, and whether it is behind the
    /// IOMMU.
    pub(crate) fn serving(
        window: TableSize,
        transport: TransportKind,
        shares: &[(&str, TransportKind, bool)],
    ) -> Option<Self> {
        let at = |slot| Bdf::new(0, slot, 0).unwrap();
        let shares: Vec<_> =
            (6..).zip(shares).map(|(slot, &(tag, kind, iommu))| (tag, kind, at(slot), iommu)).collect();
        Self::at(window, transport, &shares)
    }

    /// An IOMMU and shares, each alone on a PCI bus of its own, from which it can be unplugged.
    pub(crate) fn on_ports() -> Option<Self> {
        let at = |bus| Bdf::new(bus, 0, 0).unwrap();
        let shares = [(TRANSLATED, true), (SECOND, true), (DIRECT, false)];
        let shares: Vec<_> = (1..).zip(shares).map(|(bus, (tag, iommu))| (tag, VHOST_USER, at(bus), iommu)).collect();
        Self::at(TableSize::MiB256, VHOST_USER, &shares)
    }

    fn at(window: TableSize, transport: TransportKind, shares: &[(&str, TransportKind, Bdf, bool)]) -> Option<Self> {
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
        let shares = shares.iter().map(|&(tag, transport, at, iommu)| {
            ShareConfig::new(tag.parse().unwrap(), &shared, root.path().join(tag)).over(transport).at(at, iommu)
        });
        let config = ServeConfig { iommu: Some(iommu), shares: shares.collect(), ..ServeConfig::default() };
        let daemon = Daemon::start(&config, Signals::Leave).unwrap();
        Some(Self { daemon, config, bundle, root })
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

    /// A guest whose shares are on [ports](Self::on_ports): what `calgaryd attach` does not print.
    pub(crate) fn guest_with_ports(&self) -> MachineBuilder {
        let iommu = self.config.iommu.as_ref().unwrap();
        let translated = self.config.shares.iter().filter(|share| share.iommu).filter_map(|share| share.endpoint);
        let viot = self.root.path().join("viot");
        std::fs::write(&viot, Viot::new(iommu.at).endpoints(translated).encode().unwrap()).unwrap();
        let mut args = vec![
            "-acpitable".to_owned(),
            format!("file={}", viot.display()),
            "-chardev".to_owned(),
            format!("socket,id=iommu,path={}", iommu.socket.display()),
            "-device".to_owned(),
            "vhost-user-test-device-pci,id=viommu,chardev=iommu,virtio-id=23,num_vqs=2,vq_size=512,config_size=40,addr=5"
                .to_owned(),
        ];
        for (number, share) in (1..).zip(&self.config.shares) {
            let (tag, socket) = (&share.tag, share.socket.as_ref().unwrap().display());
            args.extend([
                "-device".to_owned(),
                format!("pcie-root-port,id=port-{tag},chassis={number},addr={}", 5 + number),
            ]);
            args.extend(["-chardev".to_owned(), format!("socket,id=chardev-{tag},path={socket}")]);
            args.extend(["-device".to_owned(), self.device(tag.as_str()).to_string()]);
        }
        let guest = Machine::builder(&self.bundle).patience(PATIENCE).extra_args(args);
        self.config.shares.iter().fold(guest, |guest, share| guest.tag(share.tag.as_str()))
    }

    /// The device of a share on a port, as QEMU's `device_add` and `-device` take it.
    pub(crate) fn device(&self, tag: &str) -> Value {
        let share = self.config.shares.iter().find(|share| share.tag.as_str() == tag).unwrap();
        json!({
            "driver": "vhost-user-test-device-pci",
            "id": tag,
            "bus": format!("port-{tag}"),
            "chardev": format!("chardev-{tag}"),
            "virtio-id": 9,
            "num_vqs": 1,
            "vq_size": ninep_queue_size(share.iommu),
            "config_size": 2 + tag.len(),
            "iommu_platform": share.iommu,
        })
    }

    /// The socket of a share.
    pub(crate) fn socket(&self, tag: &str) -> &Path {
        self.config
            .shares
            .iter()
            .find(|share| share.tag.as_str() == tag)
            .and_then(|share| share.socket.as_deref())
            .unwrap()
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

    /// How many pages the guest has mapped in all domains. The number of mappings is another one each time that a driver has
    /// its ring made: it depends on how many pieces of memory Linux finds for it.
    pub(crate) fn mapped_pages(&self) -> u64 {
        let iommu = self.iommu();
        let words = usize::try_from(iommu.window() / (64 * 4096)).unwrap();
        iommu.inspect(|calgary| {
            let spaces = calgary.domains().filter_map(|domain| calgary.domain(domain));
            spaces.flat_map(|space| (0..words).map(|word| u64::from(space.pages(word).0.count_ones()))).sum()
        })
    }

    /// Waits until `count` pages are mapped: a guest in lazy mode unmaps some time later.
    pub(crate) fn wait_for_pages(&self, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.mapped_pages() != count {
            assert!(Instant::now() < deadline, "{} pages are mapped, not {count}", self.mapped_pages());
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
