//! What a server answers and does to the host's files, named by property.
//!
//! Tests that set a limit or mask of the whole process are programs of their own, beside this one.

#[path = "../client/mod.rs"]
mod client;
mod sentinel;

mod attributes_follow_the_file;
mod direct_io_and_open_flags_reach_the_host;
mod directories_are_listed_whole;
mod files_are_read_and_written;
mod hostile_hosts_and_clients_reach_nothing_outside;
mod locks_conflict_between_owners;
mod locks_wait_until_they_are_free;
mod malformed_requests_are_answered;
mod malformed_requests_of_older_dialects_are_answered;
mod nothing_outside_the_tree_is_reached;
mod older_dialects_list_directories;
mod older_dialects_stat_and_wstat;
mod qids_name_one_file_each;
mod sessions_and_fids;
mod synthetic_files_are_what_closures_say;
mod two_clients_behave_as_on_the_host;
mod walks_follow_the_names_of_now;
