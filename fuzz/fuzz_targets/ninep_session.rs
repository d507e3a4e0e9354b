//! Fuzzes sessions of well-formed 9P messages with hostile fields. See [`calgary_fuzz::ninep_session`].
#![no_main]

use calgary_fuzz::{ninep_session, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_if_asked(&ninep_session::seeds()), |data: &[u8]| ninep_session::run(data));
