//! A daemon in this process and a user-space guest on its sockets.

use std::path::{Path, PathBuf};

use calgary_tests::guest::{GuestOptions, IommuOptions, Mapping, Session, ShareOptions};
use calgaryd::config::{IommuConfig, ServeConfig, ShareConfig, ShareLimits};
use calgaryd::daemon::{Daemon, Signals};
use calgaryd::device::Mechanisms;
use calgaryd::device::iommu::Iommu;
use iommu_calgary::TableSize;
use tempfile::TempDir;

use crate::TRANSPORT;

/// Tag of the share behind the IOMMU.
pub(crate) const TRANSLATED: &str = "translated";
/// Tag of the share outside it.
pub(crate) const DIRECT: &str = "direct";
/// Endpoint id of the translated share: 00:06.0.
pub(crate) const ENDPOINT: u32 = 6 << 3;
/// Guest RAM and IOVA window in MiB.
pub(crate) const WINDOW_MIB: u64 = 64;

/// One folder served twice.
pub(crate) struct Rig {
    pub(crate) daemon: Daemon,
    pub(crate) config: ServeConfig,
    root: TempDir,
}

impl Rig {
    /// Serves an empty folder behind an IOMMU and outside it.
    pub(crate) fn new() -> Self {
        Self::with_bypass(false)
    }

    /// The same, with the bypass of unattached endpoints as given.
    pub(crate) fn with_bypass(boot_bypass: bool) -> Self {
        Self::with(TableSize::MiB64, boot_bypass)
    }

    /// The same, with this IOVA window and bypass.
    pub(crate) fn with(window: TableSize, boot_bypass: bool) -> Self {
        Self::build(window, boot_bypass, |_| {})
    }

    /// The same as [`Rig::new`], with these limits for both shares.
    pub(crate) fn with_limits(change: impl Fn(&mut ShareLimits)) -> Self {
        Self::build(TableSize::MiB64, false, |config| {
            config.shares.iter_mut().for_each(|share| change(&mut share.limits));
        })
    }

    /// The same as [`Rig::new`], by these mechanisms only.
    pub(crate) fn with_mechanisms(mechanisms: Mechanisms) -> Self {
        Self::build(TableSize::MiB64, false, |config| config.mechanisms = mechanisms)
    }

    fn build(window: TableSize, boot_bypass: bool, change: impl FnOnce(&mut ServeConfig)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let shared = root.path().join("share");
        std::fs::create_dir(&shared).unwrap();
        let socket = |name: &str| root.path().join(format!("{name}.sock"));
        let share = |tag: &str, endpoint: &str, iommu| {
            let share = ShareConfig::new(tag.parse().unwrap(), &shared, socket(tag)).over(TRANSPORT);
            share.at(endpoint.parse().unwrap(), iommu)
        };
        let iommu = IommuConfig {
            socket: socket("iommu"),
            transport: TRANSPORT,
            at: "00:05.0".parse().unwrap(),
            window,
            boot_bypass,
            reserved: Vec::new(),
        };
        let mut config = ServeConfig {
            iommu: Some(iommu),
            shares: vec![share(TRANSLATED, "00:06.0", true), share(DIRECT, "00:07.0", false)],
            ..ServeConfig::default()
        };
        change(&mut config);
        let daemon = Daemon::start(&config, Signals::Leave).unwrap();
        Self { daemon, config, root }
    }

    /// The folder that guests see.
    pub(crate) fn shared(&self) -> PathBuf {
        self.root.path().join("share")
    }

    /// A folder of this test alone that guests do not see.
    pub(crate) fn outside(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn iommu(&self) -> &Iommu {
        self.daemon.iommu().unwrap()
    }

    /// What a guest with the first `shares` shares is made of.
    pub(crate) fn guest_options(&self, shares: usize, mapping: Mapping) -> GuestOptions {
        let shares = self.config.shares[..shares].iter().map(|share| ShareOptions {
            socket: share.socket.clone().unwrap(),
            endpoint: share.endpoint.unwrap().endpoint_id(),
            translated: share.iommu,
        });
        GuestOptions {
            memory_mib: WINDOW_MIB,
            iommu_socket: Some(self.config.iommu.as_ref().unwrap().socket.clone()),
            shares: shares.collect(),
            mapping,
            iommu: IommuOptions::default(),
            iommu_transport: TRANSPORT,
            transport: TRANSPORT,
            ..GuestOptions::default()
        }
    }

    /// A guest with both shares.
    pub(crate) fn guest(&self, mapping: Mapping) -> Session {
        Session::boot(self.guest_options(2, mapping)).unwrap()
    }
}
