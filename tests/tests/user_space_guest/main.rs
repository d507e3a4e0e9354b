//! The daemon against the project's user-space guest over vhost-user: no VM, no download. `vfio_user_guest` has the same
//! tests over vfio-user.

use calgaryd::transport::TransportKind;

mod bench;
mod files_that_do_not_close;
mod gate;
mod limits_of_a_share;
mod locks_on_a_far_file_system;
mod locks_wait_in_the_device;
mod malformed_requests_get_an_answer;
mod mechanisms_change_no_answer;
mod rig;
mod slow_files_stall_nobody;
mod state_ends_with_its_driver;
mod state_survives_a_pause;
mod stop_answers_what_was_taken;
mod unmap_waits_for_dma;
mod unmapped_dma_moves_no_byte;

/// What daemon and guest speak.
const TRANSPORT: TransportKind = TransportKind::VhostUser;
