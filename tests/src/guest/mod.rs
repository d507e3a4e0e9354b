//! A guest without a virtual machine: the driver side of virtio-iommu and virtio-9p in this
//! process, over guest RAM in a memfd, with real rings and the vhost-user protocol.
//!
//! ```text
//!  session    boot, pause, reboot, reconnect a whole guest        demo
//!  iommu      virtio-iommu driver, IOVA allocator, mapper         ninep   9P2000.L client
//!  queue      split virtqueue, driver side; hostile requests      dma     how buffers are mapped
//!  transport  what carries a device: vhost_user, or virtio_pci over vfio_user, or over qtest for those inside a QEMU
//!  memory     guest RAM and its pages
//! ```
//!
//! Each floor knows only those below it, so the queue serves other devices, and the drivers other
//! transports. Start with [`Session::boot`], or join the parts by hand as it does.

pub mod address;
mod call;
pub mod demo;
pub mod dma;
pub mod iommu;
pub mod memory;
pub mod ninep;
pub mod qtest;
pub mod queue;
pub mod session;
pub mod transport;
pub mod vfio_user;
pub mod vhost_user;
pub mod virtio_pci;

#[cfg(test)]
mod fake;

pub use address::{DeviceAddr, GuestPhys};
pub use demo::{TransferReport, transfer};
pub use dma::{Direct, Direction, DmaError, DmaMapper, MapperCounts};
pub use iommu::{DomainMapper, Iommu, IommuOptions, IovaAllocator, IovaOrder, Mapping};
pub use memory::GuestMemory;
pub use ninep::{ClientOptions, NinepClient, NinepError, PageBuffer};
pub use qtest::{QtestBus, QtestDevice};
pub use queue::{RawExchange, RawReply, SplitQueue, VirtQueue, Waiting};
pub use session::{GuestOptions, Paused, ROOT_FID, Session, SessionError, Share, ShareOptions};
pub use transport::{Doorbell, Transport, TransportError};
pub use vfio_user::VfioUserDevice;
pub use vhost_user::{VhostUserDevice, VhostUserOptions};
