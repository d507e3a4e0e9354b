//! Fuzzes the messages of a vfio-user client. See [`calgary_fuzz::vfio_user_messages`].
#![no_main]

use calgary_fuzz::{seeds, vfio_user_messages};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_if_asked(&vfio_user_messages::seeds()), |data: &[u8]| vfio_user_messages::run(data));
