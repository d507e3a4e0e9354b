//! One share: what it shows, whose its files are, and how much a guest may take.

use std::path::PathBuf;

use frontend_spec::ninep::MountTag;
use frontend_spec::pci::Bdf;
use virtio_9p::{IdRange, Security, limits};

use crate::device::share::DEFAULT_MAX_INFLIGHT;

use crate::listen::ListenAddress;
use crate::transport::TransportKind;

/// What a share shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A folder of the host.
    Folder(PathBuf),
    /// The daemon's own state, read-only; see [`crate::state`].
    State,
}

/// One share: a virtio-9p device, a 9P server on stream sockets, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareConfig {
    /// Name under which the guest mounts it.
    pub tag: MountTag,
    /// What is shown.
    pub content: Content,
    /// Socket that the VMM connects to, if it is a device.
    pub socket: Option<PathBuf>,
    /// What is spoken there; `None` is vhost-user, or what the command line says for all.
    pub transport: Option<TransportKind>,
    /// Stream addresses on which it is served to other clients.
    pub listen: Vec<ListenAddress>,
    /// Whether these may be reachable from other machines.
    pub allow_remote: bool,
    /// Where the VMM places the device; needed behind the IOMMU, where it is the endpoint's id.
    pub endpoint: Option<Bdf>,
    /// Whether its DMA goes through the IOMMU.
    pub iommu: bool,
    /// Whether the guest may only read.
    pub readonly: bool,
    /// Whether a file that the guest opens with `O_DIRECT` is read and written past the host's page cache.
    pub direct: bool,
    /// Whose the files are.
    pub identity: ShareIdentity,
    /// How much the guest may take.
    pub limits: ShareLimits,
}

/// Whose the files of a share are, to the guest and on the host. By default both are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShareIdentity {
    /// Where owners and modes are kept.
    pub security: Security,
    /// With mapped-xattr: symbolic links are links on the host too.
    pub keep_symlinks: bool,
    /// User ids of the guest and of the host; empty leaves them as they are.
    pub uid_map: Vec<IdRange>,
    /// Group ids of the guest and of the host; empty leaves them as they are.
    pub gid_map: Vec<IdRange>,
    /// The one user and group of the host that all files belong to.
    pub squash: Option<(u32, u32)>,
    /// Permission bits that new files never have, at most 0o777.
    pub umask: u32,
    /// Each request acts as the user of the guest that attached; needs root.
    pub per_user: bool,
}

/// How much of the host a guest may take through a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareLimits {
    /// Largest message in bytes, 4 KiB to 1 GiB.
    pub msize: u32,
    /// Most fids at a time; beyond it `ENFILE`.
    pub max_fids: usize,
    /// Most file descriptors, at least 8; those not used for longest are closed and opened again. `None` is an equal part
    /// of what the process may open.
    pub max_descriptors: Option<usize>,
    /// Most lock owners (a process of the guest on one file) at a time; beyond it `ENOLCK`. `None` is a quarter of the
    /// descriptors, at least 16 and at most 4,096.
    pub max_lock_owners: Option<usize>,
    /// Most bytes of extended attributes on their way at a time; beyond it `ENOSPC`.
    pub max_xattr_bytes: usize,
    /// Most locks that wait at a time; beyond it the guest is told to ask again.
    pub max_parked_locks: usize,
    /// Most requests that wait for slow files at a time; further ones wait in the guest's queue.
    pub max_inflight: usize,
}

impl Default for ShareLimits {
    fn default() -> Self {
        Self {
            msize: limits::DEFAULT_MAX_MSIZE,
            max_fids: limits::DEFAULT_MAX_FIDS,
            max_descriptors: None,
            max_lock_owners: None,
            max_xattr_bytes: limits::DEFAULT_MAX_XATTR_BYTES,
            max_parked_locks: limits::DEFAULT_MAX_PARKED_LOCKS,
            max_inflight: DEFAULT_MAX_INFLIGHT,
        }
    }
}

impl ShareConfig {
    /// The folder `path` as `tag` on `socket`, outside the IOMMU, with everything else as it is by default.
    #[must_use]
    pub fn new(tag: MountTag, path: impl Into<PathBuf>, socket: impl Into<PathBuf>) -> Self {
        Self {
            tag,
            content: Content::Folder(path.into()),
            socket: Some(socket.into()),
            transport: None,
            listen: Vec::new(),
            allow_remote: false,
            endpoint: None,
            iommu: false,
            readonly: false,
            direct: false,
            identity: ShareIdentity::default(),
            limits: ShareLimits::default(),
        }
    }

    /// The same over `transport`.
    #[must_use]
    pub fn over(self, transport: TransportKind) -> Self {
        Self { transport: Some(transport), ..self }
    }

    /// Its name in the log, and among the clients of stream sockets.
    #[must_use]
    pub fn client_name(&self) -> String {
        format!("share {}", self.tag)
    }

    /// The same behind the IOMMU if `iommu`, at the PCI address `endpoint`.
    #[must_use]
    pub fn at(self, endpoint: Bdf, iommu: bool) -> Self {
        Self { endpoint: Some(endpoint), iommu, ..self }
    }
}

impl ShareIdentity {
    /// What contradicts itself, as a line that says what to change.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        let mapped = self.security == Security::MappedXattr;
        let has_map = !self.uid_map.is_empty() || !self.gid_map.is_empty();
        match self {
            _ if mapped && self.per_user => {
                Some("per-user needs owners that the host knows; leave it out or choose security=passthrough")
            }
            _ if mapped && has_map => {
                Some("security=mapped-xattr keeps the guest's own ids; leave uid-map and gid-map out")
            }
            _ if self.squash.is_some() && has_map => {
                Some("squash leaves one owner and nothing to map; leave out either it or uid-map and gid-map")
            }
            _ if !mapped && self.keep_symlinks => Some("keep-symlinks is for security=mapped-xattr only; leave it out"),
            _ => None,
        }
    }
}
