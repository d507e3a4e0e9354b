//! Owners and modes of what is made, in a process whose umask takes nothing away.

#[path = "../client/mod.rs"]
mod client;

mod older_dialects_open_and_create;
mod owners_and_modes_by_security_model;
