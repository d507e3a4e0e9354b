//! Owners, modes and types kept in extended attributes, in QEMU's format.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, XattrFlags};

use super::procfd::link_path;
use super::status::Status;
use crate::errno::Errno;
use crate::fs::Owner;

/// What all names begin with that the client does not see.
const PREFIX: &[u8] = b"user.virtfs.";
const UID: &str = "user.virtfs.uid";
const GID: &str = "user.virtfs.gid";
const MODE: &str = "user.virtfs.mode";
const DEVICE: &str = "user.virtfs.rdev";

/// What is stored of a file. Nothing is known of the parts that are `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) owner: Option<Owner>,
    /// Type and permission bits.
    pub(super) mode: Option<u32>,
    /// Device number as the C library encodes it.
    pub(super) device: Option<u64>,
}

fn read<const N: usize>(path: &str, name: &str) -> Option<[u8; N]> {
    let mut value = [0; N];
    let len = rustix::fs::getxattr(path, name, value.as_mut_slice()).ok()?;
    (len == N).then_some(value)
}

/// Replaces what the status says by what is stored.
///
/// A stored type is believed of a regular file only: whatever the attribute says, the server opens nothing else.
pub(super) fn overlay(fd: BorrowedFd<'_>, status: &mut Status) {
    let host = status.kind();
    if !matches!(host, FileType::RegularFile | FileType::Directory) {
        // User attributes exist on these two alone.
        return;
    }
    let path = link_path(fd);
    if let Some(uid) = read(&path, UID) {
        status.uid = u32::from_le_bytes(uid);
    }
    if let Some(gid) = read(&path, GID) {
        status.gid = u32::from_le_bytes(gid);
    }
    if let Some(mode) = read(&path, MODE).map(u32::from_le_bytes) {
        let stored = FileType::from_raw_mode(mode);
        let known = !matches!(stored, FileType::Unknown | FileType::Directory);
        let kind = if host == FileType::RegularFile && known { stored } else { host };
        status.mode = kind.as_raw_mode() | (mode & 0o7777);
        if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice)
            && let Some(device) = read(&path, DEVICE).map(u64::from_le_bytes)
        {
            status.device = device;
        }
    }
}

/// Stores what is given, and leaves the rest.
pub(super) fn store(fd: impl AsFd, stored: Stored) -> Result<(), Errno> {
    let path = link_path(fd.as_fd());
    let set = |name: &str, value: &[u8]| rustix::fs::setxattr(&path, name, value, XattrFlags::empty());
    if let Some(owner) = stored.owner {
        if let Some(uid) = owner.uid {
            set(UID, &uid.to_le_bytes())?;
        }
        if let Some(gid) = owner.gid {
            set(GID, &gid.to_le_bytes())?;
        }
    }
    if let Some(mode) = stored.mode {
        set(MODE, &mode.to_le_bytes())?;
    }
    if let Some(device) = stored.device {
        set(DEVICE, &device.to_le_bytes())?;
    }
    Ok(())
}

/// What the client's name of an attribute is on the host; `None` for one that is kept from it.
pub(super) fn host_name(name: &[u8]) -> Option<Vec<u8>> {
    if name.starts_with(PREFIX) {
        None
    } else if is_access_list(name) {
        Some([PREFIX, name].concat())
    } else {
        Some(name.to_vec())
    }
}

/// What the client sees of a list of names, each followed by a zero byte.
pub(super) fn seen_names(list: &[u8]) -> Vec<u8> {
    let mut seen = Vec::with_capacity(list.len());
    for name in list.split_inclusive(|byte| *byte == 0) {
        let shown = match name.strip_prefix(PREFIX) {
            Some(rest) => Some(rest).filter(|rest| is_access_list(rest.strip_suffix(b"\0").unwrap_or(rest))),
            // The host's own access lists are not those that the client set.
            None => Some(name).filter(|name| !is_access_list(name.strip_suffix(b"\0").unwrap_or(name))),
        };
        seen.extend_from_slice(shown.unwrap_or_default());
    }
    seen
}

/// Whether an attribute is a POSIX access list.
pub(super) fn is_access_list(name: &[u8]) -> bool {
    matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hidden_and_access_lists_moved() {
        assert_eq!(host_name(b"user.a").as_deref(), Some(&b"user.a"[..]));
        assert_eq!(host_name(b"user.virtfs.uid"), None);
        assert_eq!(host_name(b"user.virtfs.system.posix_acl_access"), None);
        assert_eq!(
            host_name(b"system.posix_acl_default").as_deref(),
            Some(&b"user.virtfs.system.posix_acl_default"[..])
        );
        let list =
            b"user.a\0user.virtfs.uid\0user.virtfs.system.posix_acl_access\0system.posix_acl_access\0user.virtfsx\0";
        assert_eq!(seen_names(list), b"user.a\0system.posix_acl_access\0user.virtfsx\0");
    }
}
