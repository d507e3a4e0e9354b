//! The FUSE messages that the work needs, as Linux' `fuse.h` lays them out.

use crate::failure::Failure;

/// Bytes before the rest of a reply.
pub(super) const OUT_HEADER: usize = 16;
/// Bytes of `fuse_attr`.
pub(super) const ATTR: usize = 88;
/// Bytes of `fuse_entry_out`.
pub(super) const ENTRY: usize = 40 + ATTR;
/// Bytes of `fuse_open_out`.
pub(super) const OPEN: usize = 16;
/// The node of the root.
pub(super) const ROOT: u64 = 1;

const ASYNC_READ: u32 = 1 << 0;
const BIG_WRITES: u32 = 1 << 5;
const MAX_PAGES: u32 = 1 << 22;

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op<'a> {
    Init,
    Lookup {
        parent: u64,
        name: &'a str,
    },
    /// One lookup of each node forgotten; has no reply.
    Forget {
        nodes: &'a [u64],
    },
    Getattr {
        node: u64,
    },
    Open {
        node: u64,
        flags: u32,
    },
    OpenDirectory {
        node: u64,
    },
    Create {
        parent: u64,
        name: &'a str,
        flags: u32,
    },
    Unlink {
        parent: u64,
        name: &'a str,
    },
    Release {
        node: u64,
        handle: u64,
    },
    Read {
        node: u64,
        handle: u64,
        offset: u64,
        bytes: u32,
    },
    Write {
        node: u64,
        handle: u64,
        offset: u64,
        bytes: u32,
    },
    Readdir {
        node: u64,
        handle: u64,
        offset: u64,
        bytes: u32,
    },
    Fsync {
        node: u64,
        handle: u64,
    },
}

impl Op<'_> {
    pub(super) fn code(&self) -> u32 {
        match self {
            Self::Lookup { .. } => 1,
            Self::Getattr { .. } => 3,
            Self::Unlink { .. } => 10,
            Self::Open { .. } => 14,
            Self::Read { .. } => 15,
            Self::Write { .. } => 16,
            Self::Release { .. } => 18,
            Self::Fsync { .. } => 20,
            Self::Init => 26,
            Self::OpenDirectory { .. } => 27,
            Self::Readdir { .. } => 28,
            Self::Create { .. } => 35,
            Self::Forget { .. } => 42,
        }
    }

    fn node(&self) -> u64 {
        match *self {
            Self::Init | Self::Forget { .. } => 0,
            Self::Lookup { parent, .. } | Self::Create { parent, .. } | Self::Unlink { parent, .. } => parent,
            Self::Getattr { node }
            | Self::Open { node, .. }
            | Self::OpenDirectory { node }
            | Self::Release { node, .. }
            | Self::Read { node, .. }
            | Self::Write { node, .. }
            | Self::Readdir { node, .. }
            | Self::Fsync { node, .. } => node,
        }
    }

    /// Bytes of file data that it sends.
    pub(super) fn sent(&self) -> u32 {
        if let Self::Write { bytes, .. } = self { *bytes } else { 0 }
    }

    /// Bytes of file data or names that it may receive.
    pub(super) fn received(&self) -> u32 {
        if let Self::Read { bytes, .. } | Self::Readdir { bytes, .. } = self { *bytes } else { 0 }
    }

    /// Bytes of the reply behind its header, without file data; `None` if there is no reply.
    pub(super) fn reply(&self) -> Option<usize> {
        match self {
            Self::Forget { .. } => None,
            Self::Init => Some(64),
            Self::Lookup { .. } => Some(ENTRY),
            Self::Getattr { .. } => Some(16 + ATTR),
            Self::Open { .. } | Self::OpenDirectory { .. } => Some(OPEN),
            Self::Create { .. } => Some(ENTRY + OPEN),
            Self::Write { .. } => Some(8),
            Self::Unlink { .. }
            | Self::Release { .. }
            | Self::Read { .. }
            | Self::Readdir { .. }
            | Self::Fsync { .. } => Some(0),
        }
    }

    /// The request up to its file data.
    pub(super) fn encode(&self, unique: u64, to: &mut Vec<u8>) {
        to.clear();
        to.extend([0; 4]);
        to.extend(self.code().to_le_bytes());
        to.extend(unique.to_le_bytes());
        to.extend(self.node().to_le_bytes());
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        // Padding ends the header.
        numbers(to, &[uid, gid, 1, 0]);
        match *self {
            Self::Init => {
                numbers(to, &[7, 38, 1 << 17, ASYNC_READ | BIG_WRITES | MAX_PAGES]);
                to.extend([0; 48]);
            }
            Self::Lookup { name, .. } | Self::Unlink { name, .. } => string(to, name),
            Self::Forget { nodes } => {
                numbers(to, &[u32::try_from(nodes.len()).unwrap_or(0), 0]);
                for node in nodes {
                    to.extend(node.to_le_bytes());
                    to.extend(1_u64.to_le_bytes());
                }
            }
            Self::Getattr { .. } => to.extend([0; 16]),
            Self::Open { flags, .. } => numbers(to, &[flags, 0]),
            Self::OpenDirectory { .. } => numbers(to, &[0, 0]),
            Self::Create { name, flags, .. } => {
                numbers(to, &[flags, 0o100_600, 0, 0]);
                string(to, name);
            }
            Self::Release { handle, .. } => {
                to.extend(handle.to_le_bytes());
                to.extend([0; 16]);
            }
            Self::Read { handle, offset, bytes, .. }
            | Self::Write { handle, offset, bytes, .. }
            | Self::Readdir { handle, offset, bytes, .. } => {
                to.extend(handle.to_le_bytes());
                to.extend(offset.to_le_bytes());
                numbers(to, &[bytes, 0]);
                to.extend([0; 16]);
            }
            Self::Fsync { handle, .. } => {
                to.extend(handle.to_le_bytes());
                to.extend([0; 8]);
            }
        }
        let size = u32::try_from(to.len()).unwrap_or(u32::MAX).saturating_add(self.sent());
        to[..4].copy_from_slice(&size.to_le_bytes());
    }
}

fn numbers(to: &mut Vec<u8>, numbers: &[u32]) {
    numbers.iter().for_each(|number| to.extend(number.to_le_bytes()));
}

fn string(to: &mut Vec<u8>, text: &str) {
    to.extend(text.as_bytes());
    to.push(0);
}

/// The 64-bit field at `at` of a reply whose length has been checked.
pub(super) fn field(peer: &'static str, reply: &[u8], at: usize) -> Result<u64, Failure> {
    let bytes = reply.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map(|bytes| u64::from_le_bytes(*bytes)).ok_or_else(|| Failure::wrong(peer, "a reply is too short"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes before the arguments of a request.
    const IN_HEADER: usize = 40;

    #[test]
    fn requests_have_the_sizes_of_fuse_h() {
        let size = |op: Op<'_>| {
            let mut bytes = Vec::new();
            op.encode(1, &mut bytes);
            assert_eq!(bytes[..4], u32::try_from(bytes.len()).unwrap().saturating_add(op.sent()).to_le_bytes());
            bytes.len() - IN_HEADER
        };
        assert_eq!(size(Op::Init), 64);
        assert_eq!(size(Op::Lookup { parent: 1, name: "abc" }), 4);
        assert_eq!(size(Op::Forget { nodes: &[2, 3] }), 8 + 32);
        assert_eq!(size(Op::Getattr { node: 1 }), 16);
        assert_eq!(size(Op::Open { node: 1, flags: 0 }), 8);
        assert_eq!(size(Op::Create { parent: 1, name: "a", flags: 0 }), 18);
        assert_eq!(size(Op::Read { node: 1, handle: 0, offset: 0, bytes: 9 }), 40);
        assert_eq!(size(Op::Write { node: 1, handle: 0, offset: 0, bytes: 9 }), 40);
        assert_eq!(size(Op::Release { node: 1, handle: 0 }), 24);
        assert_eq!(size(Op::Fsync { node: 1, handle: 0 }), 16);
    }
}
