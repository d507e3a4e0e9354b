//! A daemon in this process: an IOMMU and two shares behind it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use calgaryd::config::{Content, IommuConfig, ServeConfig, ShareConfig};
use calgaryd::daemon::{Daemon, Signals};
use calgaryd::device::iommu::Iommu;
use calgaryd::transport::TransportKind;
use iommu_calgary::TableSize;
use tempfile::TempDir;

/// Endpoint ids of the two shares: 00:06.0 and 00:07.0.
pub(crate) const ENDPOINTS: [u32; 2] = [6 << 3, 7 << 3];
/// An id that no device has.
pub(crate) const NO_ENDPOINT: u32 = 8 << 3;
/// Bytes of IOVA space, and of guest RAM.
pub(crate) const WINDOW: u64 = 64 << 20;

/// The daemon and what it serves.
pub(crate) struct Rig {
    daemon: Daemon,
    config: ServeConfig,
    root: TempDir,
}

impl Rig {
    /// Both endpoints unattached, and no bypass.
    pub(crate) fn new() -> Self {
        Self::with_bypass(false)
    }

    /// The same, with the configured bypass as given.
    pub(crate) fn with_bypass(boot_bypass: bool) -> Self {
        let root = tempfile::tempdir().unwrap();
        let share = |tag: &str, endpoint: &str| {
            let path = root.path().join(tag);
            std::fs::create_dir(&path).unwrap();
            let socket = root.path().join(format!("{tag}.sock"));
            ShareConfig::new(tag.parse().unwrap(), path, socket).at(endpoint.parse().unwrap(), true)
        };
        let shares = vec![share("first", "00:06.0"), share("second", "00:07.0")];
        let iommu = IommuConfig {
            socket: root.path().join("iommu.sock"),
            transport: TransportKind::VhostUser,
            at: "00:05.0".parse().unwrap(),
            window: TableSize::MiB64,
            boot_bypass,
            reserved: Vec::new(),
        };
        let config = ServeConfig { iommu: Some(iommu), shares, ..ServeConfig::default() };
        let daemon = Daemon::start(&config, Signals::Leave).unwrap();
        Self { daemon, config, root }
    }

    /// The IOMMU, seen from the daemon's side.
    pub(crate) fn iommu(&self) -> &Arc<Iommu> {
        self.daemon.iommu().unwrap()
    }

    /// The IOMMU's socket.
    pub(crate) fn iommu_socket(&self) -> PathBuf {
        self.root.path().join("iommu.sock")
    }

    /// The socket of the share of `ENDPOINTS[number]`.
    pub(crate) fn share_socket(&self, number: usize) -> &Path {
        self.config.shares[number].socket.as_ref().unwrap()
    }

    /// The folder of the share of `ENDPOINTS[number]`.
    pub(crate) fn folder(&self, number: usize) -> &Path {
        match &self.config.shares[number].content {
            Content::Folder(path) => path,
            Content::State => unreachable!("both shares are folders"),
        }
    }
}
