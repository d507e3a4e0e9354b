//! Fuzzes one 9P frame of arbitrary bytes in a session that is under way. See [`calgary_fuzz::ninep_frame`].
#![no_main]

use calgary_fuzz::{ninep_frame, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_if_asked(&ninep_frame::seeds()), |data: &[u8]| ninep_frame::run(data));
