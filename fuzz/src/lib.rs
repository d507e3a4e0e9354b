//! What the fuzz targets run: for each a module with `run`, which takes one input and panics at a finding, and `seeds`,
//! the inputs to start from.
//!
//! Everything is in process: device models on a guest memory of their own, a 9P server on a scratch folder, and a vfio-user
//! server on one end of a socket pair.

pub mod guest;
pub mod input;
pub mod iommu_requests;
pub mod ninep;
pub mod ninep_frame;
pub mod ninep_session;
pub mod ring_images;
pub mod seeds;
pub mod tree;
pub mod vfio_user_messages;
