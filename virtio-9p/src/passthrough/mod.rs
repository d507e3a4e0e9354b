//! A folder of the host, served as it is.
//!
//! A node is an `O_PATH` descriptor that was reached one component at a time, so it stays the same file whatever happens to
//! its name, and no path that the client sends is ever resolved by the host. What needs an open file (reading, truncating)
//! opens the node again through `/proc/self/fd`, after its type is known to be regular or directory.
//!
//! **Confinement.** Every component is looked up with `openat2` under `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and
//! `RESOLVE_NO_MAGICLINKS`; where the kernel has no `openat2` (before 5.6), `O_NOFOLLOW` on a single checked name has the
//! same effect. A walk to `..` is only believed after climbing on from there has met the root. A symbolic link is an object
//! that the client reads and interprets itself.
//!
//! **Identity.** Requests act as the process does. If that is root (user id 0), a new file is given to the user that attached
//! (`n_uname`) and to the group that the request names; otherwise it stays the process's. The client's kernel is trusted to
//! check permissions (Linux `access=client`).
//!
//! **Umask.** Modes are used as the client sends them, which has applied its own umask: the process must set its umask to 0.
//!
//! **Locks** are the kernel's own open-file-description locks, one description for each owner, so that owners conflict with
//! each other, with other sessions and with programs of the host. See the `lock` source file for when they end.

mod attr;
mod create;
mod directory;
mod lock;
mod namespace;
mod node;
mod open;
mod procfd;
mod qid;
mod ranges;
mod rawio;
mod resolve;
mod xattr;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use crate::errno::Errno;
use crate::fs::{Attach, Created, Entry, FileSystem, LockConflict, LockRequest, Opened, Owner, SetAttr};
use crate::name::Name;
use crate::segment::{Readable, Writable};
use crate::wire::{AttrMask, DirEntry, OpenFlags, Qid, Rgetattr, Rstatfs, XattrFlags};

use directory::Buffers;
use lock::LockTable;
use node::Inode;
use open::OpenFile;
use procfd::ProcFds;
use resolve::Resolver;

/// Choices about a passed-through folder.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassthroughOptions {
    /// Use `openat2` where the kernel has it. Turn it off only where a sandbox forbids the call by killing the process; a
    /// plain refusal (`ENOSYS`, `EPERM`) is noticed at start.
    pub openat2: bool,
    /// Give new files to the user that attached when the process is root.
    pub chown_new_files: bool,
}

impl Default for PassthroughOptions {
    fn default() -> PassthroughOptions {
        PassthroughOptions { openat2: true, chown_new_files: true }
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
}

/// A [`FileSystem`] that passes a folder of the host through.
///
/// What the process must see to:
/// - **umask 0**: modes are used as the client sends them, which has applied its own umask;
/// - **`/proc`** mounted, now and later, with `/proc/self/fd` at its place (extended attributes are reached by that path);
/// - made **after the last `fork`**, since it holds on to this process's `/proc/self/fd`;
/// - **descriptors**: one for each fid, a second for each open one, one for each lock owner (at most
///   [`MAX_LOCK_OWNERS`](crate::limits::MAX_LOCK_OWNERS)).
///
/// Requests act as the process does. If that is root, a new file is given to the user that attached and to the group that the
/// request names, and the client can make device nodes and set-user-id files in the folder: keep it on a mount with `nodev`
/// and `nosuid`, or out of reach of the host's users.
pub struct Passthrough {
    root: Arc<Inode>,
    resolver: Resolver,
    proc_fds: ProcFds,
    buffers: Arc<Buffers>,
    locks: Arc<LockTable>,
    gives_files_away: bool,
}

impl Passthrough {
    /// Opens the folder `root` (symbolic links in this path are followed, once) and checks what the kernel offers.
    pub fn new(root: &Path, options: PassthroughOptions) -> Result<Passthrough, PassthroughError> {
        let failed = |source: Errno| PassthroughError::Root { path: root.to_path_buf(), source };
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed(error.into()))?;
        let (inode, _) = Inode::new(fd).map_err(failed)?;
        Ok(Passthrough {
            resolver: Resolver::new(&inode, options.openat2),
            proc_fds: ProcFds::open().map_err(PassthroughError::Proc)?,
            buffers: Arc::default(),
            locks: Arc::default(),
            gives_files_away: options.chown_new_files && rustix::process::geteuid().is_root(),
            root: Arc::new(inode),
        })
    }
}

impl FileSystem for Passthrough {
    type Node = PassthroughNode;
    type Handle = PassthroughHandle;

    fn attach(&self, _attach: &Attach<'_>) -> Result<Entry<PassthroughNode>, Errno> {
        let qid = self.qid_of(&self.root.status()?);
        Ok(Entry { node: PassthroughNode(self.root.clone()), qid })
    }

    fn lookup(&self, dir: &PassthroughNode, name: Name<'_>) -> Result<Entry<PassthroughNode>, Errno> {
        let (inode, status) = Inode::new(self.resolver.child(dir.0.as_dir()?, name)?)?;
        Ok(Entry { node: PassthroughNode(Arc::new(inode)), qid: self.qid_of(&status) })
    }

    fn parent(&self, dir: &PassthroughNode) -> Result<Entry<PassthroughNode>, Errno> {
        dir.0.as_dir()?;
        let parent = match self.resolver.parent(&dir.0)? {
            Some(parent) => Arc::new(parent),
            None => self.root.clone(),
        };
        let qid = self.qid_of(&parent.status()?);
        Ok(Entry { node: PassthroughNode(parent), qid })
    }

    fn getattr(&self, node: &PassthroughNode, wanted: AttrMask) -> Result<Rgetattr, Errno> {
        self.attributes(&node.0, wanted)
    }

    fn statfs(&self, node: &PassthroughNode) -> Result<Rstatfs, Errno> {
        attr::statfs(&node.0)
    }

    fn setattr(
        &self,
        node: &PassthroughNode,
        handle: Option<&PassthroughHandle>,
        change: &SetAttr,
    ) -> Result<(), Errno> {
        self.change(&node.0, handle.map(|handle| &*handle.0), change)
    }

    fn open(&self, node: &PassthroughNode, flags: OpenFlags) -> Result<Opened<PassthroughHandle>, Errno> {
        let (file, qid) = self.open_inode(&node.0, flags)?;
        Ok(Opened { handle: PassthroughHandle(Arc::new(file)), qid })
    }

    fn create(
        &self,
        dir: &PassthroughNode,
        name: Name<'_>,
        flags: OpenFlags,
        mode: u32,
        owner: Owner,
    ) -> Result<Created<PassthroughNode, PassthroughHandle>, Errno> {
        let (inode, file, qid) = self.create_file(&dir.0, name, flags, mode, owner)?;
        Ok(Created { node: PassthroughNode(inode), handle: PassthroughHandle(Arc::new(file)), qid })
    }

    fn read(&self, handle: &PassthroughHandle, offset: u64, data: &Writable<'_>) -> Result<usize, Errno> {
        handle.0.read(offset, data)
    }

    fn write(&self, handle: &PassthroughHandle, offset: u64, data: &Readable<'_>) -> Result<usize, Errno> {
        handle.0.write(offset, data)
    }

    fn readdir(
        &self,
        handle: &PassthroughHandle,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        self.read_directory(&handle.0, cookie, emit)
    }

    fn fsync(&self, handle: &PassthroughHandle, data_only: bool) -> Result<(), Errno> {
        handle.0.sync(data_only)
    }

    fn readlink(&self, node: &PassthroughNode) -> Result<Vec<u8>, Errno> {
        node.0.target()
    }

    fn mkdir(&self, dir: &PassthroughNode, name: Name<'_>, mode: u32, owner: Owner) -> Result<Qid, Errno> {
        self.make_directory(&dir.0, name, mode, owner)
    }

    fn symlink(&self, dir: &PassthroughNode, name: Name<'_>, target: &[u8], owner: Owner) -> Result<Qid, Errno> {
        self.make_symlink(&dir.0, name, target, owner)
    }

    fn mknod(
        &self,
        dir: &PassthroughNode,
        name: Name<'_>,
        mode: u32,
        device: (u32, u32),
        owner: Owner,
    ) -> Result<Qid, Errno> {
        self.make_node(&dir.0, name, mode, device, owner)
    }

    fn link(&self, node: &PassthroughNode, dir: &PassthroughNode, name: Name<'_>) -> Result<(), Errno> {
        self.proc_fds.link(node.0.fd(), dir.0.as_dir()?, name)
    }

    fn rename(
        &self,
        old_dir: &PassthroughNode,
        old: Name<'_>,
        new_dir: &PassthroughNode,
        new: Name<'_>,
    ) -> Result<(), Errno> {
        namespace::rename(&old_dir.0, old, &new_dir.0, new)
    }

    fn unlink(&self, dir: &PassthroughNode, name: Name<'_>, directory: bool) -> Result<(), Errno> {
        namespace::unlink(&dir.0, name, directory)
    }

    fn rename_node(&self, node: &PassthroughNode, dir: &PassthroughNode, name: Name<'_>) -> Result<(), Errno> {
        self.rename_inode(&node.0, &dir.0, name)
    }

    fn remove_node(&self, node: &PassthroughNode) -> Result<(), Errno> {
        self.remove_inode(&node.0)
    }

    fn getxattr(&self, node: &PassthroughNode, name: &[u8]) -> Result<Vec<u8>, Errno> {
        xattr::get(&node.0, name)
    }

    fn listxattr(&self, node: &PassthroughNode) -> Result<Vec<u8>, Errno> {
        xattr::list(&node.0)
    }

    fn setxattr(&self, node: &PassthroughNode, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        xattr::set(&node.0, name, value, flags)
    }

    fn removexattr(&self, node: &PassthroughNode, name: &[u8]) -> Result<(), Errno> {
        xattr::remove(&node.0, name)
    }

    fn lock(&self, handle: &PassthroughHandle, request: &LockRequest<'_>) -> Result<bool, Errno> {
        self.set_lock(&handle.0, request)
    }

    fn getlock(&self, handle: &PassthroughHandle, request: &LockRequest<'_>) -> Result<Option<LockConflict>, Errno> {
        self.test_lock(&handle.0, request)
    }
}

/// A file of the folder.
#[derive(Clone)]
pub struct PassthroughNode(Arc<Inode>);

/// An open file of the folder.
#[derive(Clone)]
pub struct PassthroughHandle(Arc<OpenFile>);
