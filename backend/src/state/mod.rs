//! The daemon's own state as a read-only tree of files: what `--share tag=calgary,state,...` shows.
//!
//! ```text
//! version                     config
//! iommu/stats                 iommu/faults
//! iommu/domains/N/mappings    iommu/domains/N/table    iommu/domains/N/stats
//! iommu/endpoints/BB:DD.F
//! shares/TAG/stats            shares/TAG/fids
//! ```
//!
//! Every file is text, made when it is opened. Counters are lines of a name and a number. Domains come and go as the guest
//! attaches and detaches, and their folders with them; what is gone reads as an empty file.
//!
//! **Reading disturbs nobody.** Counters and tables are read without a lock. What a table cannot tell, where mappings
//! begin, is copied under the tables' lock 1,024 pages at a time, a few microseconds each, so that the IOMMU's thread
//! never waits for a whole table: pieces are exact, and a mapping that changes between two of them may be missing. A file
//! has at most [`MAX_LINES`] lines of a list; `calgaryd tce dump` shows whole tables.

mod config;
mod domains;
mod iommu;
mod mappings;
mod shares;
mod text;

use std::sync::Arc;

use frontend_spec::ninep::MountTag;
use virtio_9p::synthetic::{Directory, File, Synthetic};

use crate::config::ServeConfig;
use crate::device::iommu::Iommu;
use crate::device::share::ShareDevice;
use crate::listen::Clients;

pub use text::MAX_LINES;

/// What the tree shows.
pub struct Sources {
    /// What the daemon was told.
    pub config: ServeConfig,
    /// The IOMMU, if there is one.
    pub iommu: Option<Arc<Iommu>>,
    /// The shares that are devices.
    pub devices: Vec<(MountTag, Arc<ShareDevice>)>,
    /// The clients of stream sockets.
    pub clients: Arc<Clients>,
}

/// The tree.
#[must_use]
pub fn tree(sources: &Sources) -> Synthetic {
    let version = format!("calgaryd {}\n", env!("CARGO_PKG_VERSION"));
    let config = config::text(&sources.config);
    let mut root = Directory::new()
        .with("version", File::of(move || version.clone().into_bytes()))
        .with("config", File::of(move || config.clone().into_bytes()));
    if let Some(iommu) = &sources.iommu {
        root = root.with("iommu", iommu::directory(iommu));
    }
    Synthetic::new(root.with("shares", shares::directory(sources)))
}
