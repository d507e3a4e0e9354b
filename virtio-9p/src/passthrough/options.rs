//! How a folder is passed through.

use std::path::PathBuf;

use thiserror::Error;

use super::identity::{IdRange, Security};
use crate::errno::Errno;

/// Choices about a passed-through folder.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassthroughOptions {
    /// Use `openat2` where the kernel has it. Turn it off only where a sandbox forbids the call by killing the process;
    /// a plain refusal (`ENOSYS`, `EPERM`) is noticed at start.
    pub openat2: bool,
    /// Give new files to the user that attached when the process is root.
    pub chown_new_files: bool,
    /// Where owners and modes are kept.
    pub security: Security,
    /// With [`Security::MappedXattr`]: symbolic links are links on the host too, which the host's programs can follow.
    /// Their owner is the server's, and a change of it is accepted without effect. Links that QEMU stored as files are
    /// still shown as links.
    pub keep_symlinks: bool,
    /// User ids of the client and of the host; empty leaves them as they are. An id of the client without a counterpart
    /// is refused (`EOVERFLOW` for a new file, `EINVAL` for a change of owner), one of the host is shown as 65,534. Ids
    /// that are kept in attributes are not mapped.
    pub uid_map: Vec<IdRange>,
    /// Group ids of the client and of the host, as for `uid_map`.
    pub gid_map: Vec<IdRange>,
    /// One user and group of the host for all: the owner of every new file, the user as whom all requests act (with
    /// `per_user`), and the only owner that a file can be given to (`EPERM`).
    pub squash: Option<(u32, u32)>,
    /// Permission bits that new files never have, at most 0o777. The client has applied its own umask already.
    pub umask: u32,
    /// Carry out each request with the file system user and groups (`setfsuid`) of the user that attached, by the
    /// host's user database; the host's kernel then checks permissions and owns new files. The process must be root. An
    /// attachment without a user number acts as 65,534.
    pub per_user: bool,
    /// Open files for direct I/O (`O_DIRECT`) if the client asks for it and the host's file system has it: past the
    /// page cache, for buffers that are aligned as the device wants. An open file whose client comes with others goes
    /// through the page cache from then on. Off, all do.
    pub direct_io: bool,
    /// Most descriptors for nodes, open files and locks together, at least 8; those that were not used for longest are
    /// closed when more are needed. Unlinked files keep theirs: beyond this and 128 for requests under way `ENFILE`. 0
    /// is the soft `RLIMIT_NOFILE` at the start, less an eighth. Several folders in one process share that limit.
    pub max_descriptors: usize,
    /// Most lock owners (a process of a client on one file) at a time, each with a descriptor that stays open; beyond
    /// it `ENOLCK`. 0 is a quarter of the descriptors, at least 16 and at most 4,096.
    pub max_lock_owners: usize,
}

impl Default for PassthroughOptions {
    fn default() -> PassthroughOptions {
        PassthroughOptions {
            openat2: true,
            chown_new_files: true,
            security: Security::default(),
            keep_symlinks: false,
            uid_map: Vec::new(),
            gid_map: Vec::new(),
            squash: None,
            umask: 0,
            per_user: false,
            direct_io: false,
            max_descriptors: 0,
            max_lock_owners: 0,
        }
    }
}

/// Why a folder cannot be served.
#[derive(Debug, Error)]
pub enum PassthroughError {
    /// The folder cannot be opened.
    #[error("cannot open the shared folder {path}: {source}; name an existing folder that this process may enter")]
    Root {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// There is no usable `/proc/self/fd`.
    #[error("cannot use /proc/self/fd: {0}; mount procfs at /proc before the folder is opened")]
    Proc(Errno),
    /// The options contradict each other.
    #[error("cannot serve the folder as asked: {0}")]
    Options(&'static str),
}
