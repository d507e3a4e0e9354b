//! Fuzzes memory images that hold rings, rewritten while a device reads them. See [`calgary_fuzz::ring_images`].
#![no_main]

use calgary_fuzz::{ring_images, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_if_asked(&ring_images::seeds()), |data: &[u8]| ring_images::run(data));
