//! What an operation finds, in a form that both sides can give.

use std::fmt::Display;

use virtio_9p::Errno;

/// An error, or text that tells everything that must agree.
pub(crate) type Found = Result<String, Errno>;

/// The attributes that must agree.
pub(crate) struct Stat {
    pub(crate) mode: u32,
    pub(crate) nlink: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) device: u64,
    pub(crate) size: u64,
    pub(crate) atime: i64,
    pub(crate) mtime: i64,
}

impl Stat {
    pub(crate) fn text(&self) -> String {
        let Stat { mode, nlink, uid, gid, device, .. } = self;
        // The size of a directory is the file system's own affair.
        let size = if mode & 0o170_000 == 0o040_000 { 0 } else { self.size };
        format!("{mode:o} {nlink} {uid}:{gid} {device:x} {size} {} {}", when(self.atime), when(self.mtime))
    }
}

/// A time that the test has set, or that the clock has.
fn when(seconds: i64) -> String {
    if seconds < 1_000_000 { seconds.to_string() } else { "now".into() }
}

pub(crate) fn done<T>(_: T) -> String {
    String::new()
}

pub(crate) fn number(value: impl Display) -> String {
    value.to_string()
}

/// Names in one order, without those of the directory itself and of its parent.
pub(crate) fn names(mut all: Vec<String>) -> String {
    all.retain(|name| !matches!(name.as_str(), "." | ".."));
    all.sort();
    all.join(" ")
}
