//! The IBM Calgary IOMMU in software.
//!
//! Calgary translates the DMA of PCI devices through flat tables of 8-byte entries (TCEs), one table at a time per PCI
//! host bridge (PHB). This crate keeps such tables, bit for bit as the chip reads them, hands devices a translated view
//! of memory, and makes sure that a removed translation is out of use before anyone is told that it is gone.
//!
//! ```text
//!   control plane, one thread                      data plane, the devices' threads
//!
//!   Calgary ── attach, detach ──> Phb (TAR, CONFIG_RW) <── DmaPort::enter ──> Epoch::translate, Epoch::pin
//!      │                           │                                              │
//!      └─ map, unmap ─> Domain ─> TceTable <───────────────────────────────────────┘
//!      └─ commit: waits until no epoch and no pin uses what was removed
//! ```
//!
//! That is the [soft chip](chip::Soft), which serves guests. The same control plane drives a chip with registers through
//! the [PHB driver](driver): a [real one](chip::mapped), as far as it is known, or the [model](chip::model), which
//! reports what a driver does wrong.
//!
//! Five types to know:
//! - [`Calgary`]: the control plane. Its methods are the requests of a virtio-iommu (virtio 1.2 §5.13) without their
//!   wire format.
//! - [`Domain`]: one address space, a [`TceTable`] and two bitmaps.
//! - [`Phb`]: what one endpoint's accesses pass through.
//! - [`DmaPort`]: one device thread's way through a PHB; its [`Epoch`]s translate.
//! - [`PinSet`]: what keeps a range good for an access that outlasts an epoch.
//!
//! Beside them: the [`registers`] and what their bits mean, finding chips in a [BIOS image](rio), and
//! [showing tables](inspect).
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use iommu_calgary::*;
//!
//! let (endpoint, domain) = (EndpointId(8), DomainId(1));
//! let mut iommu = Calgary::new(TableSize::MiB512, Limits::default())?;
//! let phb = iommu.add_endpoint(endpoint)?;
//!
//! iommu.attach(domain, endpoint, DomainKind::Translated)?;
//! iommu.map(domain, Iova(0x1000), Iova(0x2fff), RealAddr(0x7000), Permissions::READ)?;
//! iommu.commit(Duration::from_secs(1));
//!
//! let mut port = phb.new_port();
//! let run = port.enter().translate(Iova(0x1800), 0x1000, Access::Read)?;
//! assert_eq!(run, Run { real: RealAddr(0x7800), len: 0x1000 });
//!
//! iommu.unmap(domain, Iova(0x1000), Iova(0x2fff))?;
//! let commit = iommu.commit(Duration::from_secs(1));
//! assert!(commit.broken.is_empty());
//! assert!(port.enter().translate(Iova(0x1800), 1, Access::Read).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod addr;
mod bitmap;
pub mod chip;
mod control;
mod dma;
pub mod driver;
mod error;
pub mod inspect;
mod permissions;
mod range;
pub mod registers;
pub mod rio;
mod table;

pub use addr::{DomainId, EndpointId, Iova, PAGE_SIZE, RealAddr};
pub use control::{Calgary, Commit, Domain, DomainKind, Limits, Request, RequestError, Stats};
pub use dma::{DmaPort, Epoch, Fault, FaultReason, Fences, Phb, PinSet, Run};
pub use error::{AttachError, DetachError, Error, MapError, UnmapError};
pub use permissions::{Access, Permissions};
pub use table::{TableSize, Tce, TceTable};
