//! Small devices to test the driver side against, none of them meant to be good ones.

mod backend;
mod iommu;
mod ninep;

pub(crate) use backend::FakeDevice;
pub(crate) use iommu::FakeIommu;
pub(crate) use ninep::FakeServer;
