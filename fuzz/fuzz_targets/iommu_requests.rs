//! Fuzzes batches of virtio-iommu requests. See [`calgary_fuzz::iommu_requests`].
#![no_main]

use calgary_fuzz::{iommu_requests, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_if_asked(&iommu_requests::seeds()), |data: &[u8]| iommu_requests::run(data));
