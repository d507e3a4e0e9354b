//! A folder of the host, served as it is.
//!
//! A node is an `O_PATH` descriptor that was reached one component at a time, so it stays the same file whatever
//! happens to its name, and no path that the client sends is ever resolved by the host. What needs an open file
//! (reading, truncating) opens the node again through `/proc/self/fd`, after its type is known to be regular or
//! directory.
//!
//! **Confinement.** Every component is looked up with `openat2` under `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and
//! `RESOLVE_NO_MAGICLINKS`; where the kernel has no `openat2` (before 5.6), `O_NOFOLLOW` on a single checked name has
//! the same effect. A directory that is kept from an earlier walk is taken only if the name leads to that very
//! directory now (see the `directories` source file). A walk to `..` is only believed after climbing on from there has
//! met the root. A symbolic link is an object that the client reads and interprets itself.
//!
//! **Identity.** By default requests act as the process does. If that is root (user id 0), a new file is given to the
//! user that attached (`n_uname`) and to the group that the request names; otherwise it stays the process's. The
//! client's kernel is trusted to check permissions (Linux `access=client`). [`PassthroughOptions`] has the other ways:
//! owners and modes kept in extended attributes ([`Security::MappedXattr`]), ids mapped by ranges, all users squashed
//! to one, or each request carried out with the file system ids of the user that attached, so that the host's kernel
//! checks permissions (Linux `access=user`).
//!
//! **Umask.** Modes are used as the client sends them, which has applied its own umask, less
//! [`PassthroughOptions::umask`]: the process must set its own umask to 0.
//!
//! **Descriptors.** Those that were not used for longest are closed when they become too many, and opened again when
//! they are needed. See the `pool` source file for the rules.
//!
//! **Locks** are the kernel's own open-file-description locks, one description for each owner, so that owners conflict
//! with each other, with other sessions and with programs of the host. See the `lock` source file for when they end.

mod attr;
mod create;
mod descriptor;
mod directories;
mod directory;
mod host;
mod identity;
mod lock;
mod mapped;
mod mounts;
mod namespace;
mod node;
mod open;
mod options;
mod places;
mod pool;
mod procfd;
mod qid;
mod ranges;
mod rawio;
mod resolve;
mod status;
mod user;
mod xattr;

pub use identity::{IdRange, Security};
pub use options::{PassthroughError, PassthroughOptions};

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::errno::Errno;
use crate::fs::{
    Attach, Created, Entry, FileSystem, Hindrance, LockConflict, LockRequest, Opened, Owner, Patience, SetAttr, Work,
};
use crate::name::Name;
use crate::segment::{Readable, Writable};
use crate::wire::{AttrMask, DirEntry, OpenFlags, Qid, Rgetattr, Rstatfs, XattrFlags};

use directories::WhileServed;
use directory::Buffers;
use host::Host;
use identity::Identity;
use lock::LockTable;
use node::Inode;
use open::OpenFile;
use procfd::ProcFds;
use user::{AsUser, User};

/// A [`FileSystem`] that passes a folder of the host through.
///
/// What the process must see to:
/// - **umask 0**: modes are used as the client sends them, which has applied its own umask;
/// - **`/proc`** mounted, now and later, with `/proc/self/fd` at its place (extended attributes are reached by that
///   path);
/// - made **after the last `fork`**, since it holds on to this process's `/proc/self/fd`, and after `RLIMIT_NOFILE` is
///   set.
///
/// Requests act as the process does, unless the options say otherwise. If that is root, a new file is given to the user
/// that attached and to the group that the request names, and the client can make device nodes and set-user-id files in
/// the folder: keep it on a mount with `nodev` and `nosuid`, or out of reach of the host's users, or use
/// [`Security::MappedXattr`].
pub struct Passthrough {
    root: Arc<Inode>,
    host: Arc<Host>,
    buffers: Arc<Buffers>,
    locks: Arc<LockTable>,
    direct_io: bool,
    session: u64,
    while_served: Arc<WhileServed>,
}

impl Passthrough {
    /// Opens the folder `root` (symbolic links in this path are followed, once) and checks what the kernel offers.
    pub fn new(root: &Path, options: PassthroughOptions) -> Result<Passthrough, PassthroughError> {
        let failed = |source: Errno| PassthroughError::Root { path: root.to_path_buf(), source };
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed(error.into()))?;
        let copy = rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 0).map_err(|error| failed(error.into()))?;
        let proc_fds = ProcFds::open().map_err(PassthroughError::Proc)?;
        let direct_io = options.direct_io;
        let (openat2, limits) = (options.openat2, (options.max_descriptors, options.max_lock_owners));
        let identity = Identity::new(options).map_err(PassthroughError::Options)?;
        let host = Arc::new(Host::new(copy, proc_fds, openat2, limits, identity).map_err(failed)?);
        let (inode, _) = Inode::new(&host, fd).map_err(failed)?;
        inode.pin();
        let locks = Arc::<LockTable>::default();
        let session = locks.new_session();
        let while_served = Arc::new(WhileServed(host.clone()));
        Ok(Passthrough { root: inode, host, buffers: Arc::default(), locks, direct_io, session, while_served })
    }

    /// The same folder for the server of another session. Both keep to one budget of descriptors and locks, and locks
    /// of the two conflict, whatever their clients call themselves.
    #[must_use]
    pub fn for_another_session(&self) -> Passthrough {
        Passthrough {
            root: self.root.clone(),
            host: self.host.clone(),
            buffers: self.buffers.clone(),
            locks: self.locks.clone(),
            direct_io: self.direct_io,
            session: self.locks.new_session(),
            while_served: self.while_served.clone(),
        }
    }

    /// Acts as the user of a node until the result is dropped.
    #[inline]
    fn act_as<'a>(&self, node: &'a PassthroughNode) -> Result<Option<AsUser<'a>>, Errno> {
        self.host.identity.act_as(node.user.as_ref(), None)
    }

    /// As [`Passthrough::act_as`], for making a file that shall have a group.
    fn act_for<'a>(&self, node: &'a PassthroughNode, owner: Owner) -> Result<Option<AsUser<'a>>, Errno> {
        self.host.identity.act_as(node.user.as_ref(), owner.gid)
    }

    #[cfg(test)]
    fn root_node(&self) -> PassthroughNode {
        PassthroughNode { inode: self.root.clone(), user: None }
    }
}

impl FileSystem for Passthrough {
    type Node = PassthroughNode;
    type Handle = PassthroughHandle;

    fn attach(&self, attach: &Attach<'_>) -> Result<Entry<PassthroughNode>, Errno> {
        let user = self.host.identity.user(attach)?;
        let qid = self.qid_of(&self.root.status()?);
        Ok(Entry { node: PassthroughNode { inode: self.root.clone(), user }, qid })
    }

    #[inline]
    fn lookup(&self, dir: &PassthroughNode, name: Name<'_>) -> Result<Entry<PassthroughNode>, Errno> {
        let _user = self.act_as(dir)?;
        let (inode, status) = self.host.reach(&dir.inode, name)?;
        Ok(Entry { node: dir.beside(inode), qid: self.qid_of(&status) })
    }

    fn parent(&self, dir: &PassthroughNode) -> Result<Entry<PassthroughNode>, Errno> {
        dir.inode.as_dir()?;
        let parent = self.host.parent(&dir.inode)?.unwrap_or_else(|| self.root.clone());
        let qid = self.qid_of(&parent.status()?);
        Ok(Entry { node: dir.beside(parent), qid })
    }

    #[inline]
    fn getattr(&self, node: &PassthroughNode, wanted: AttrMask) -> Result<Rgetattr, Errno> {
        self.attributes(&node.inode, wanted)
    }

    fn statfs(&self, node: &PassthroughNode) -> Result<Rstatfs, Errno> {
        attr::statfs(&node.inode)
    }

    fn setattr(
        &self,
        node: &PassthroughNode,
        handle: Option<&PassthroughHandle>,
        change: &SetAttr,
    ) -> Result<(), Errno> {
        let _user = self.act_as(node)?;
        self.change(&node.inode, handle.map(|handle| &*handle.file), change)
    }

    #[inline]
    fn open(&self, node: &PassthroughNode, flags: OpenFlags) -> Result<Opened<PassthroughHandle>, Errno> {
        let _user = self.act_as(node)?;
        let (file, qid) = self.open_inode(&node.inode, flags)?;
        Ok(Opened { handle: PassthroughHandle { file, user: node.user.clone() }, qid })
    }

    #[inline]
    fn create(
        &self,
        dir: &PassthroughNode,
        name: Name<'_>,
        flags: OpenFlags,
        mode: u32,
        owner: Owner,
    ) -> Result<Created<PassthroughNode, PassthroughHandle>, Errno> {
        let _user = self.act_for(dir, owner)?;
        let (inode, file, qid) = self.create_file(&dir.inode, name, flags, mode, owner)?;
        Ok(Created { node: dir.beside(inode), handle: PassthroughHandle { file, user: dir.user.clone() }, qid })
    }

    fn read(&self, handle: &PassthroughHandle, offset: u64, data: &Writable<'_>) -> Result<usize, Errno> {
        handle.file.read(offset, data)
    }

    #[inline]
    fn read_within(
        &self,
        handle: &PassthroughHandle,
        offset: u64,
        data: &Writable<'_>,
        patience: Patience,
    ) -> Result<usize, Hindrance> {
        handle.file.read_within(offset, data, patience)
    }

    fn needs(&self, work: Work) -> Patience {
        self.host.mounts.needs(work)
    }

    fn write(&self, handle: &PassthroughHandle, offset: u64, data: &Readable<'_>) -> Result<usize, Errno> {
        // So that the kernel takes away set-user-id bits as for this user.
        let _user = self.host.identity.act_as(handle.user.as_ref(), None)?;
        handle.file.write(offset, data)
    }

    #[inline]
    fn write_within(
        &self,
        handle: &PassthroughHandle,
        offset: u64,
        data: &Readable<'_>,
        patience: Patience,
    ) -> Result<usize, Hindrance> {
        let _user = self.host.identity.act_as(handle.user.as_ref(), None)?;
        handle.file.write_within(offset, data, patience)
    }

    #[inline]
    fn readdir(
        &self,
        handle: &PassthroughHandle,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        self.read_directory(&handle.file, cookie, emit)
    }

    fn fsync(&self, handle: &PassthroughHandle, data_only: bool) -> Result<(), Errno> {
        handle.file.sync(data_only)
    }

    fn readlink(&self, node: &PassthroughNode) -> Result<Vec<u8>, Errno> {
        node.inode.target()
    }

    fn mkdir(&self, dir: &PassthroughNode, name: Name<'_>, mode: u32, owner: Owner) -> Result<Qid, Errno> {
        let _user = self.act_for(dir, owner)?;
        self.make_directory(&dir.inode, name, mode, owner)
    }

    fn symlink(&self, dir: &PassthroughNode, name: Name<'_>, target: &[u8], owner: Owner) -> Result<Qid, Errno> {
        let _user = self.act_for(dir, owner)?;
        self.make_symlink(&dir.inode, name, target, owner)
    }

    fn mknod(
        &self,
        dir: &PassthroughNode,
        name: Name<'_>,
        mode: u32,
        device: (u32, u32),
        owner: Owner,
    ) -> Result<Qid, Errno> {
        let _user = self.act_for(dir, owner)?;
        self.make_node(&dir.inode, name, mode, device, owner)
    }

    fn link(&self, node: &PassthroughNode, dir: &PassthroughNode, name: Name<'_>) -> Result<(), Errno> {
        let _user = self.act_as(dir)?;
        let to = dir.inode.as_dir()?;
        self.host.proc_fds.link(node.inode.fd()?.as_fd(), to.as_fd(), name)
    }

    fn rename(
        &self,
        old_dir: &PassthroughNode,
        old: Name<'_>,
        new_dir: &PassthroughNode,
        new: Name<'_>,
    ) -> Result<(), Errno> {
        let _user = self.act_as(new_dir)?;
        self.rename_in(&old_dir.inode, old, &new_dir.inode, new)
    }

    #[inline]
    fn unlink(&self, dir: &PassthroughNode, name: Name<'_>, directory: bool) -> Result<(), Errno> {
        let _user = self.act_as(dir)?;
        self.unlink_in(&dir.inode, name, directory)
    }

    fn rename_node(&self, node: &PassthroughNode, dir: &PassthroughNode, name: Name<'_>) -> Result<(), Errno> {
        let _user = self.act_as(node)?;
        self.rename_inode(&node.inode, &dir.inode, name)
    }

    fn remove_node(&self, node: &PassthroughNode) -> Result<(), Errno> {
        let _user = self.act_as(node)?;
        self.remove_inode(&node.inode)
    }

    fn name(&self, node: &PassthroughNode) -> Result<Vec<u8>, Errno> {
        self.name_of(&node.inode)
    }

    fn rename_in_place(&self, node: &PassthroughNode, name: Name<'_>, replace: bool) -> Result<(), Errno> {
        let _user = self.act_as(node)?;
        self.rename_inode_in_place(&node.inode, name, replace)
    }

    fn getxattr(&self, node: &PassthroughNode, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let _user = self.act_as(node)?;
        self.get_attribute(&node.inode, name)
    }

    fn listxattr(&self, node: &PassthroughNode) -> Result<Vec<u8>, Errno> {
        let _user = self.act_as(node)?;
        self.list_attributes(&node.inode)
    }

    fn setxattr(&self, node: &PassthroughNode, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        let _user = self.act_as(node)?;
        self.set_attribute(&node.inode, name, value, flags)
    }

    fn removexattr(&self, node: &PassthroughNode, name: &[u8]) -> Result<(), Errno> {
        let _user = self.act_as(node)?;
        self.remove_attribute(&node.inode, name)
    }

    fn lock(&self, handle: &PassthroughHandle, request: &LockRequest<'_>) -> Result<bool, Errno> {
        let _user = self.host.identity.act_as(handle.user.as_ref(), None)?;
        self.set_lock(&handle.file, request)
    }

    fn getlock(&self, handle: &PassthroughHandle, request: &LockRequest<'_>) -> Result<Option<LockConflict>, Errno> {
        self.test_lock(&handle.file, request)
    }
}

/// A file of the folder, and the user as whom it was reached.
#[derive(Clone)]
pub struct PassthroughNode {
    inode: Arc<Inode>,
    user: Option<Arc<User>>,
}

impl PassthroughNode {
    /// Another file, for the same user.
    fn beside(&self, inode: Arc<Inode>) -> PassthroughNode {
        PassthroughNode { inode, user: self.user.clone() }
    }
}

/// An open file of the folder.
#[derive(Clone)]
pub struct PassthroughHandle {
    file: Arc<OpenFile>,
    user: Option<Arc<User>>,
}
