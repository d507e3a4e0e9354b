//! The kinds of work.

use std::fmt;

use serde::Serialize;

/// Bytes of a small read or write.
pub(crate) const SMALL: u32 = 4096;
/// Bytes of a large read or write: what a Linux client sends at most, in whole pages.
pub(crate) const LARGE: u32 = 496 << 10;

/// One operation. Reads and writes of up to 4 KiB are at random places, larger ones in sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    /// The attributes of a file that is not open.
    Getattr,
    /// A file three levels down: found, its attributes read, forgotten.
    Walk,
    /// A file of a known directory: found, opened, 4 KiB read, closed.
    OpenRead,
    /// A file made in a known directory, 4 KiB written, removed.
    Create,
    /// All names of an open directory of so many entries, from its start.
    Readdir(u32),
    /// So many bytes read from an open file.
    Read(u32),
    /// So many bytes written to an open file.
    Write(u32),
    /// An open file written through.
    Fsync,
}

impl Work {
    /// Bytes of file data that one operation moves.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Read(bytes) | Self::Write(bytes) => u64::from(bytes),
            Self::OpenRead | Self::Create => u64::from(SMALL),
            Self::Getattr | Self::Walk | Self::Readdir(_) | Self::Fsync => 0,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u32| if bytes < 1024 { format!("{bytes} B") } else { format!("{} KiB", bytes >> 10) };
        match *self {
            Self::Getattr => f.write_str("getattr"),
            Self::Walk => f.write_str("walk 3 + getattr + clunk"),
            Self::OpenRead => f.write_str("walk + open + read + clunk"),
            Self::Create => f.write_str("create + write + remove"),
            Self::Readdir(entries) => write!(f, "readdir of {entries}"),
            Self::Read(bytes) => write!(f, "read {}", size(bytes)),
            Self::Write(bytes) => write!(f, "write {}", size(bytes)),
            Self::Fsync => f.write_str("fsync"),
        }
    }
}
