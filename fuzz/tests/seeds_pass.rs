//! The seeds of each target, made and kept, run without a finding, in any build.

use std::fs;
use std::path::Path;

use calgary_fuzz::{iommu_requests, ninep_frame, ninep_session, ring_images, vfio_user_messages};

fn all_pass(target: &str, seeds: Vec<Vec<u8>>, run: fn(&[u8])) {
    run(&[]);
    for seed in seeds {
        run(&seed);
        run(&seed[..seed.len() / 2]);
    }
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    for file in fs::read_dir(kept).unwrap() {
        run(&fs::read(file.unwrap().path()).unwrap());
    }
}

#[test]
fn iommu_request_seeds_pass() {
    all_pass("iommu_requests", iommu_requests::seeds(), iommu_requests::run);
}

#[test]
fn ring_image_seeds_pass() {
    all_pass("ring_images", ring_images::seeds(), ring_images::run);
}

#[test]
fn ninep_frame_seeds_pass() {
    all_pass("ninep_frame", ninep_frame::seeds(), ninep_frame::run);
}

#[test]
fn ninep_session_seeds_pass() {
    all_pass("ninep_session", ninep_session::seeds(), ninep_session::run);
}

#[test]
fn vfio_user_message_seeds_pass() {
    all_pass("vfio_user_messages", vfio_user_messages::seeds(), vfio_user_messages::run);
}
