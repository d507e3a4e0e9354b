//! What a VMM and a guest see of calgaryd: the structures that cross the virtio queues, the configuration spaces, the
//! topology tables and the command lines. It does no input or output and knows nothing of how the daemon works inside;
//! the written contract is `SPEC.md` beside this crate's manifest.
//!
//! ```text
//!   guest driver ── rings, requests, config ──► virtio, iommu, ninep
//!   guest firmware ── ACPI table ─────────────► viot ◄── pci
//!   VMM ── command line ──────────────────────► attach
//! ```
//!
//! The types to know:
//! - [`iommu::Request`]: a virtio-iommu request, decoded; [`iommu::Tail`] with an [`iommu::Status`] is its answer;
//! - [`iommu::Config`] and [`ninep::MountTag`]: the two configuration spaces;
//! - [`pci::Bdf`]: where a device is, which is also its endpoint id;
//! - [`viot::Viot`]: the ACPI table that puts endpoints behind the IOMMU;
//! - [`attach::QemuAttachment`]: the options that attach the devices to QEMU.
//!
//! # Example
//! What a driver sends, a device decodes:
//! ```
//! use frontend_spec::iommu::{MapFlags, MapRequest, Request, Status, Tail};
//! use frontend_spec::zerocopy::IntoBytes;
//!
//! let sent = MapRequest::new(1, 0x1000, 0x1fff, 0x8000, MapFlags::READ);
//! let Ok(Request::Map { virt_start, flags, .. }) = Request::parse(sent.as_bytes()) else { panic!() };
//! assert_eq!(virt_start, 0x1000);
//! let status = if flags.exceeds(MapFlags::READ_WRITE) { Status::Inval } else { Status::Ok };
//! assert_eq!(Tail::new(status).as_bytes(), [0, 0, 0, 0]);
//! ```

pub mod acpi;
pub mod attach;
pub mod devicetree;
pub mod iommu;
pub mod ninep;
pub mod pci;
pub mod place;
pub mod provider;
mod size;
mod transport;
pub mod viot;
pub mod virtio;

pub use size::{ByteSize, ByteSizeError};
pub use transport::TransportKind;
pub use zerocopy;
