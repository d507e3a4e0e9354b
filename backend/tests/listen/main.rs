//! 9P on stream sockets, as a client meets it.

mod client;
mod rig;

mod a_plan9_client_works;
mod connections_are_bounded;
mod debian_client_tools;
mod linux_mounts_in_a_guest;
mod locks_wait_and_end;
mod messages_are_framed;
mod plan9_client;
mod sessions_are_served;
