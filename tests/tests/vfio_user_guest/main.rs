//! The daemon against the project's user-space guest over vfio-user: the tests of `user_space_guest` once more, and what is
//! particular to this transport.

use calgaryd::transport::TransportKind;

#[path = "../user_space_guest/bench.rs"]
mod bench;
mod broken_rings_ask_for_a_reset;
mod features_end_with_their_driver;
#[path = "../user_space_guest/files_that_do_not_close.rs"]
mod files_that_do_not_close;
#[path = "../user_space_guest/gate.rs"]
mod gate;
mod hostile_messages_get_an_answer;
#[path = "../user_space_guest/limits_of_a_share.rs"]
mod limits_of_a_share;
#[path = "../user_space_guest/locks_on_a_far_file_system.rs"]
mod locks_on_a_far_file_system;
#[path = "../user_space_guest/locks_wait_in_the_device.rs"]
mod locks_wait_in_the_device;
#[path = "../user_space_guest/malformed_requests_get_an_answer.rs"]
mod malformed_requests_get_an_answer;
#[path = "../user_space_guest/mechanisms_change_no_answer.rs"]
mod mechanisms_change_no_answer;
mod raw;
mod registers_answer_at_once;
#[path = "../user_space_guest/rig.rs"]
mod rig;
mod rings_lie_anywhere;
#[path = "../user_space_guest/slow_files_stall_nobody.rs"]
mod slow_files_stall_nobody;
#[path = "../user_space_guest/state_ends_with_its_driver.rs"]
mod state_ends_with_its_driver;
#[path = "../user_space_guest/unmap_waits_for_dma.rs"]
mod unmap_waits_for_dma;
#[path = "../user_space_guest/unmapped_dma_moves_no_byte.rs"]
mod unmapped_dma_moves_no_byte;

/// What daemon and guest speak.
const TRANSPORT: TransportKind = TransportKind::VfioUser;
