//! The messages that the work needs.

use calgary_tests::guest::PageBuffer;
use calgary_tests::guest::ninep::{Call, NOFID, message};

/// All that Tgetattr can ask for but the last two, as Linux does (`P9_STATS_BASIC`).
pub(super) const BASIC_ATTRIBUTES: u64 = 0x7ff;

/// A T-message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op<'a> {
    /// Tversion.
    Version { msize: u32 },
    /// Tattach.
    Attach { fid: u32, tree: &'a [u8], uid: u32 },
    /// Tgetattr.
    Getattr { fid: u32 },
    /// Twalk.
    Walk { fid: u32, new_fid: u32, names: &'a [&'a [u8]] },
    /// Tlopen.
    Open { fid: u32, flags: u32 },
    /// Tlcreate.
    Create { fid: u32, name: &'a [u8], flags: u32 },
    /// Tremove.
    Remove { fid: u32 },
    /// Tunlinkat of a file.
    Unlink { directory: u32, name: &'a [u8] },
    /// Tclunk.
    Clunk { fid: u32 },
    /// Tread.
    Read { fid: u32, offset: u64, bytes: u32 },
    /// Twrite of the slot's buffer.
    Write { fid: u32, offset: u64, bytes: u32 },
    /// Treaddir.
    Readdir { fid: u32, offset: u64, bytes: u32 },
    /// Tfsync.
    Fsync { fid: u32 },
}

/// Mode of new files.
const MODE: u32 = 0o600;

/// Group of new files: one that a server without privileges may give them.
fn group() -> u32 {
    rustix::process::getegid().as_raw()
}

impl Op<'_> {
    /// Its type.
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Version { .. } => message::VERSION,
            Self::Attach { .. } => message::ATTACH,
            Self::Getattr { .. } => message::GETATTR,
            Self::Walk { .. } => message::WALK,
            Self::Open { .. } => message::LOPEN,
            Self::Create { .. } => message::LCREATE,
            Self::Remove { .. } => message::REMOVE,
            Self::Unlink { .. } => message::UNLINKAT,
            Self::Clunk { .. } => message::CLUNK,
            Self::Read { .. } => message::READ,
            Self::Write { .. } => message::WRITE,
            Self::Readdir { .. } => message::READDIR,
            Self::Fsync { .. } => message::FSYNC,
        }
    }

    /// The tag it must have, if that is not free.
    pub(super) fn tag(&self, slot: usize) -> u16 {
        if matches!(self, Self::Version { .. }) { u16::MAX } else { u16::try_from(slot).unwrap_or(0) }
    }

    /// As a request of the user-space guest, with file data in `buffer`.
    pub(super) fn call(&self, buffer: &PageBuffer) -> Call {
        let size = |bytes: u32| 0..usize::try_from(bytes).unwrap_or(usize::MAX);
        match *self {
            Self::Version { msize } => Call::version(msize, b"9P2000.L"),
            Self::Attach { fid, tree, uid } => Call::attach(fid, b"", tree, uid),
            Self::Getattr { fid } => Call::getattr(fid, BASIC_ATTRIBUTES),
            Self::Walk { fid, new_fid, names } => Call::walk(fid, new_fid, names),
            Self::Open { fid, flags } => Call::lopen(fid, flags),
            Self::Create { fid, name, flags } => Call::lcreate(fid, name, flags, MODE, group()),
            Self::Remove { fid } => Call::remove(fid),
            Self::Unlink { directory, name } => Call::unlinkat(directory, name, 0),
            Self::Clunk { fid } => Call::clunk(fid),
            Self::Read { fid, offset, bytes } => Call::read_pages(fid, offset, buffer, size(bytes)),
            Self::Write { fid, offset, bytes } => Call::write_pages(fid, offset, buffer, size(bytes)),
            Self::Readdir { fid, offset, bytes } => Call::readdir_pages(fid, offset, buffer, size(bytes)),
            Self::Fsync { fid } => Call::fsync(fid, false),
        }
    }

    /// Appends the message to `to`, with `data` behind a Twrite.
    pub(super) fn encode(&self, tag: u16, data: &[u8], to: &mut Vec<u8>) {
        let start = to.len();
        to.extend([0; 4]);
        to.push(self.kind());
        to.extend(tag.to_le_bytes());
        match *self {
            Self::Version { msize } => {
                to.extend(msize.to_le_bytes());
                string(to, b"9P2000.L");
            }
            Self::Attach { fid, tree, uid } => {
                numbers(to, &[fid, NOFID]);
                string(to, b"");
                string(to, tree);
                numbers(to, &[uid]);
            }
            Self::Getattr { fid } => {
                numbers(to, &[fid]);
                to.extend(BASIC_ATTRIBUTES.to_le_bytes());
            }
            Self::Walk { fid, new_fid, names } => {
                numbers(to, &[fid, new_fid]);
                to.extend(u16::try_from(names.len()).unwrap_or(u16::MAX).to_le_bytes());
                names.iter().for_each(|name| string(to, name));
            }
            Self::Open { fid, flags } => numbers(to, &[fid, flags]),
            Self::Create { fid, name, flags } => {
                numbers(to, &[fid]);
                string(to, name);
                numbers(to, &[flags, MODE, group()]);
            }
            Self::Unlink { directory, name } => {
                numbers(to, &[directory]);
                string(to, name);
                numbers(to, &[0]);
            }
            Self::Remove { fid } | Self::Clunk { fid } => numbers(to, &[fid]),
            Self::Read { fid, offset, bytes } | Self::Readdir { fid, offset, bytes } => {
                numbers(to, &[fid]);
                to.extend(offset.to_le_bytes());
                numbers(to, &[bytes]);
            }
            Self::Write { fid, offset, bytes } => {
                numbers(to, &[fid]);
                to.extend(offset.to_le_bytes());
                numbers(to, &[bytes]);
                to.extend(data);
            }
            Self::Fsync { fid } => numbers(to, &[fid, 0]),
        }
        let size = u32::try_from(to.len() - start).unwrap_or(u32::MAX);
        to[start..start + 4].copy_from_slice(&size.to_le_bytes());
    }

    /// Bytes of data that its reply may have.
    pub(super) fn received(&self) -> usize {
        match self {
            Self::Read { bytes, .. } | Self::Readdir { bytes, .. } => usize::try_from(*bytes).unwrap_or(usize::MAX),
            _ => 0,
        }
    }

    /// Bytes of file data it sends.
    pub(super) fn sent(&self) -> usize {
        match self {
            Self::Write { bytes, .. } => usize::try_from(*bytes).unwrap_or(usize::MAX),
            _ => 0,
        }
    }
}

fn numbers(to: &mut Vec<u8>, numbers: &[u32]) {
    numbers.iter().for_each(|number| to.extend(number.to_le_bytes()));
}

fn string(to: &mut Vec<u8>, text: &[u8]) {
    to.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
    to.extend(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_bytes_of_the_protocol() {
        let encoded = |op: Op<'_>, data: &[u8]| {
            let mut bytes = Vec::new();
            op.encode(3, data, &mut bytes);
            bytes
        };
        assert_eq!(encoded(Op::Clunk { fid: 9 }, &[]), [11, 0, 0, 0, 120, 3, 0, 9, 0, 0, 0]);
        let walk = encoded(Op::Walk { fid: 1, new_fid: 2, names: &[b"ab"] }, &[]);
        assert_eq!(walk[7..], [1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 2, 0, b'a', b'b']);
        let write = encoded(Op::Write { fid: 1, offset: 5, bytes: 2 }, b"xy");
        assert_eq!((write.len(), &write[19..]), (25, &[2, 0, 0, 0, b'x', b'y'][..]));
        assert_eq!(encoded(Op::Getattr { fid: 0 }, &[]).len(), 19);
        assert_eq!(encoded(Op::Create { fid: 0, name: b"abc", flags: 0 }, &[]).len(), 25 + 3);
        assert_eq!(encoded(Op::Attach { fid: 0, tree: b"tr", uid: 0 }, &[]).len(), 23 + 2);
    }
}
