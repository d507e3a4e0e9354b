//! The driver of a virtio-iommu (virtio 1.2 §5.13).

mod driver;
mod events;
mod iova;
mod mapper;
mod requests;
mod wire;

pub use driver::{EVENT_QUEUE, Iommu, IommuError, IommuOptions, REQUEST_QUEUE};
pub use events::EventQueue;
pub use iova::{IovaAllocator, IovaOrder};
pub use mapper::{DomainMapper, Mapping};
pub use requests::{Kicks, Reply};
pub use wire::{
    ATTACH_F_BYPASS, F_BYPASS, F_BYPASS_CONFIG, F_DOMAIN_RANGE, F_INPUT_RANGE, F_MAP_UNMAP, F_MMIO, F_PROBE,
    FaultEvent, IommuConfig, MAP_F_MMIO, MAP_F_READ, MAP_F_WRITE, Request, ReservedRegion, Status,
};
