//! The seeds of each target run without a finding, in any build.

use calgary_fuzz::{iommu_requests, ninep_frame, ninep_session, ring_images};

fn all_pass(seeds: Vec<Vec<u8>>, run: fn(&[u8])) {
    run(&[]);
    for seed in seeds {
        run(&seed);
        run(&seed[..seed.len() / 2]);
    }
}

#[test]
fn iommu_request_seeds_pass() {
    all_pass(iommu_requests::seeds(), iommu_requests::run);
}

#[test]
fn ring_image_seeds_pass() {
    all_pass(ring_images::seeds(), ring_images::run);
}

#[test]
fn ninep_frame_seeds_pass() {
    all_pass(ninep_frame::seeds(), ninep_frame::run);
}

#[test]
fn ninep_session_seeds_pass() {
    all_pass(ninep_session::seeds(), ninep_session::run);
}
