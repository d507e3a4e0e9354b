//! The daemon against the project's user-space guest: no VM, no download.

mod malformed_requests_get_an_answer;
mod rig;
mod state_survives_a_pause_and_not_a_reboot;
mod unmap_waits_for_dma;
mod unmapped_dma_moves_no_byte;
