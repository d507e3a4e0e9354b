//! The servers: this project's daemon and the peers, each a process of its own on the server's processor.

mod absent;
mod child;
mod daemon;
mod diod;
mod programs;
mod qemu;
mod virtiofsd;

pub(crate) use absent::Absent;
pub(crate) use child::Server;
pub(crate) use daemon::{DAEMON_COMMAND, Daemon, DaemonOptions};
pub(crate) use diod::Diod;
pub(crate) use programs::Programs;
pub(crate) use qemu::{Qemu, QemuOptions};
pub(crate) use virtiofsd::Virtiofsd;
