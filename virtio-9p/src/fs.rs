//! What a server serves.

use crate::errno::Errno;
use crate::name::Name;
use crate::segment::{Readable, Writable};
use crate::wire::{AttrMask, DirEntry, LockType, OpenFlags, Qid, Rgetattr, Rstatfs, Time, XattrFlags};

/// How long a call may keep its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Patience {
    /// As long as memory and processors take; nothing else is waited for.
    None,
    /// As long as a disk of this machine takes to find and change names and attributes, or to take written data.
    Disk,
    /// For whatever comes: data that no cache holds, stable storage, another machine, another program.
    Endless,
}

/// What keeps a call from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    /// It failed.
    Failed(Errno),
    /// It would have to wait longer than was allowed, and has not begun: this much patience is needed.
    Waits(Patience),
}

impl From<Errno> for Hindrance {
    fn from(error: Errno) -> Hindrance {
        Hindrance::Failed(error)
    }
}

/// Calls that wait for the same things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Everything about names and attributes: all calls but those on an open file's data.
    Names,
    /// [`FileSystem::fsync`].
    Sync,
}

/// A tree of files, in 9P's own terms.
///
/// The server turns fids into nodes and handles, checks names, keeps the rules of the protocol and moves the replies; a
/// file system answers what is left. It is called from any thread, possibly several at once, so every method takes
/// `&self`.
///
/// A `Node` is a file that was reached: it stays that file whatever happens to its name. A `Handle` is a file that was
/// opened. Both are cheap to clone (an `Arc` or an index) and free what they hold when the last clone is dropped.
///
/// Errors are the client's errnos. A file system that leaves out the methods with a default is read-only (`EROFS`) and
/// has neither symbolic links, attributes nor locks.
pub trait FileSystem: Send + Sync + 'static {
    /// A file that was reached.
    type Node: Clone + Send + Sync + 'static;
    /// A file that was opened.
    type Handle: Clone + Send + Sync + 'static;

    /// The root of a tree, for a user.
    fn attach(&self, attach: &Attach<'_>) -> Result<Entry<Self::Node>, Errno>;

    /// The file `name` in the directory `dir`. A symbolic link is returned as itself. `ENOTDIR`, `ENOENT`.
    fn lookup(&self, dir: &Self::Node, name: Name<'_>) -> Result<Entry<Self::Node>, Errno>;

    /// The directory above `dir`; the root's is the root. `ENOTDIR`.
    fn parent(&self, dir: &Self::Node) -> Result<Entry<Self::Node>, Errno>;

    /// Attributes. `wanted` is what the client asks for; `valid` of the answer must tell what it got.
    fn getattr(&self, node: &Self::Node, wanted: AttrMask) -> Result<Rgetattr, Errno>;

    /// The file system that holds a file.
    fn statfs(&self, node: &Self::Node) -> Result<Rstatfs, Errno>;

    /// Opens a file. `flags` never holds `CREATE` or `EXCL`.
    fn open(&self, node: &Self::Node, flags: OpenFlags) -> Result<Opened<Self::Handle>, Errno>;

    /// Reads from `offset` (below 2^63) into `data`; returns how many bytes, 0 at the end. An empty `data`
    /// asks whether the file can be read at all.
    fn read(&self, handle: &Self::Handle, offset: u64, data: &Writable<'_>) -> Result<usize, Errno>;

    /// As [`FileSystem::read`], for a thread that must not wait longer than `patience` allows.
    fn read_within(
        &self,
        handle: &Self::Handle,
        offset: u64,
        data: &Writable<'_>,
        _patience: Patience,
    ) -> Result<usize, Hindrance> {
        Ok(self.read(handle, offset, data)?)
    }

    /// How much patience `work` needs.
    fn needs(&self, _work: Work) -> Patience {
        Patience::None
    }

    /// Hands the entries after `cookie` (below 2^63; 0 is the start) to `emit`, `.` and `..` among them, until there
    /// are no more or `emit` returns false. The entry that was refused comes first when the client asks with the cookie
    /// before it.
    fn readdir(
        &self,
        handle: &Self::Handle,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno>;

    /// What a symbolic link says. `EINVAL` if it is not one.
    fn readlink(&self, _node: &Self::Node) -> Result<Vec<u8>, Errno> {
        Err(Errno::EINVAL)
    }

    /// Writes `data`, possibly nothing, at `offset` (below 2^63), or at the end if the file was opened for appending.
    fn write(&self, _handle: &Self::Handle, _offset: u64, _data: &Readable<'_>) -> Result<usize, Errno> {
        Err(Errno::EROFS)
    }

    /// As [`FileSystem::write`], for a thread that must not wait longer than `patience` allows.
    fn write_within(
        &self,
        handle: &Self::Handle,
        offset: u64,
        data: &Readable<'_>,
        _patience: Patience,
    ) -> Result<usize, Hindrance> {
        Ok(self.write(handle, offset, data)?)
    }

    /// Brings an open file to stable storage; its data alone if `data_only`.
    fn fsync(&self, _handle: &Self::Handle, _data_only: bool) -> Result<(), Errno> {
        Ok(())
    }

    /// Changes attributes. `handle` is the fid's, if it is open: it may allow a change of size that the mode would not.
    fn setattr(&self, _node: &Self::Node, _handle: Option<&Self::Handle>, _change: &SetAttr) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }

    /// Creates and opens a regular file. Without `EXCL` in `flags` an existing regular file is opened instead.
    fn create(
        &self,
        _dir: &Self::Node,
        _name: Name<'_>,
        _flags: OpenFlags,
        _mode: u32,
        _owner: Owner,
    ) -> Result<Created<Self::Node, Self::Handle>, Errno> {
        Err(Errno::EROFS)
    }

    /// Makes a directory.
    fn mkdir(&self, _dir: &Self::Node, _name: Name<'_>, _mode: u32, _owner: Owner) -> Result<Qid, Errno> {
        Err(Errno::EROFS)
    }

    /// Makes a symbolic link. `target` is not empty, holds no NUL and is at most 4,095 bytes.
    fn symlink(&self, _dir: &Self::Node, _name: Name<'_>, _target: &[u8], _owner: Owner) -> Result<Qid, Errno> {
        Err(Errno::EROFS)
    }

    /// Makes a regular file, FIFO, socket or device, by the type in `mode`; `device` is major and minor number.
    fn mknod(
        &self,
        _dir: &Self::Node,
        _name: Name<'_>,
        _mode: u32,
        _device: (u32, u32),
        _owner: Owner,
    ) -> Result<Qid, Errno> {
        Err(Errno::EROFS)
    }

    /// Gives `node` the further name `name` in `dir`.
    fn link(&self, _node: &Self::Node, _dir: &Self::Node, _name: Name<'_>) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }

    /// Moves a name, replacing the new one if it exists.
    fn rename(
        &self,
        _old_dir: &Self::Node,
        _old: Name<'_>,
        _new_dir: &Self::Node,
        _new: Name<'_>,
    ) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }

    /// Removes a name: a directory's if `directory`, any other file's if not.
    fn unlink(&self, _dir: &Self::Node, _name: Name<'_>, _directory: bool) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }

    /// Moves the name by which `node` was reached.
    fn rename_node(&self, _node: &Self::Node, _dir: &Self::Node, _name: Name<'_>) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }

    /// Removes the name by which `node` was reached.
    fn remove_node(&self, _node: &Self::Node) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }

    /// The last name of the path by which a file is reached now, or was when it had one; `/` for the root. The older
    /// dialects tell it in stat records.
    fn name(&self, _node: &Self::Node) -> Result<Vec<u8>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Gives `node` another name in the directory where it is (older dialects). An existing file of that name is an
    /// error (`EEXIST`), or replaced if `replace`.
    fn rename_in_place(&self, _node: &Self::Node, _name: Name<'_>, _replace: bool) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }

    /// The value of an attribute, at most 65,536 bytes. `name` is 1 to 255 bytes without NUL. `ENODATA` if there is
    /// none.
    fn getxattr(&self, _node: &Self::Node, _name: &[u8]) -> Result<Vec<u8>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The names of all attributes, each followed by a zero byte.
    fn listxattr(&self, _node: &Self::Node) -> Result<Vec<u8>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Sets an attribute to a value that is not empty. `name` as for [`FileSystem::getxattr`].
    fn setxattr(&self, _node: &Self::Node, _name: &[u8], _value: &[u8], _flags: XattrFlags) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Removes an attribute.
    fn removexattr(&self, _node: &Self::Node, _name: &[u8]) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Takes, changes or releases a lock without waiting; false if another owner stands in the way.
    fn lock(&self, _handle: &Self::Handle, _request: &LockRequest<'_>) -> Result<bool, Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The lock that stands in the way of `request`, if any.
    fn getlock(&self, _handle: &Self::Handle, _request: &LockRequest<'_>) -> Result<Option<LockConflict>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
}

/// Who attaches, and to what.
#[derive(Debug, Clone, Copy)]
pub struct Attach<'a> {
    /// User name, often empty.
    pub uname: &'a [u8],
    /// Name of the tree.
    pub aname: &'a [u8],
    /// User id, if one was given.
    pub uid: Option<u32>,
}

/// A file that was reached.
#[derive(Debug, Clone)]
pub struct Entry<N> {
    /// The file.
    pub node: N,
    /// Its qid.
    pub qid: Qid,
}

/// A file that was opened.
#[derive(Debug, Clone)]
pub struct Opened<H> {
    /// The open file.
    pub handle: H,
    /// Its qid.
    pub qid: Qid,
}

/// A file that was created and opened.
#[derive(Debug, Clone)]
pub struct Created<N, H> {
    /// The file.
    pub node: N,
    /// The open file.
    pub handle: H,
    /// Its qid.
    pub qid: Qid,
}

/// To whom a new file shall belong, as the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user that attached (`n_uname`), if it gave a number.
    pub uid: Option<u32>,
    /// The group that the request names, if it is valid.
    pub gid: Option<u32>,
}

/// A new value for a time stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The server's time now.
    Now,
    /// This time; nanoseconds are below 10^9.
    At(Time),
}

/// The attributes to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permission bits, at most 0o7777.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes, below 2^63.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last modification.
    pub mtime: Option<SetTime>,
    /// Last change, to now. Any other change does so by itself.
    pub ctime: bool,
}

/// Who holds or wants a lock: locks of one owner never conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LockOwner<'a> {
    /// The process, within the client.
    pub proc_id: u32,
    /// The client, at most 255 bytes.
    pub client_id: &'a [u8],
}

/// The bytes that a lock covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockRange {
    /// The first byte, below 2^63.
    pub start: u64,
    /// One past the last byte, at most 2^63 and above `start`; 2^63 reaches to the end of the file however it grows.
    pub end: u64,
}

impl LockRange {
    /// The end of a range without end.
    pub const UNBOUNDED: u64 = 1 << 63;

    /// The range of a message, where length 0 means no end. `EINVAL` if the start, `EOVERFLOW` if the end is beyond
    /// 2^63.
    pub fn from_wire(start: u64, length: u64) -> Result<LockRange, Errno> {
        if start >= LockRange::UNBOUNDED {
            return Err(Errno::EINVAL);
        }
        let end = match length {
            0 => LockRange::UNBOUNDED,
            length => start.checked_add(length).filter(|end| *end <= LockRange::UNBOUNDED).ok_or(Errno::EOVERFLOW)?,
        };
        Ok(LockRange { start, end })
    }

    /// The length as a message says it: 0 if there is no end.
    pub fn wire_length(self) -> u64 {
        if self.end >= LockRange::UNBOUNDED { 0 } else { self.end - self.start }
    }
}

/// A lock to take, release or test.
#[derive(Debug, Clone, Copy)]
pub struct LockRequest<'a> {
    /// `READ`, `WRITE` or `UNLOCK`; never `UNLOCK` in a test.
    pub kind: LockType,
    /// Which bytes.
    pub range: LockRange,
    /// For whom.
    pub owner: LockOwner<'a>,
}

/// A lock in the way of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockConflict {
    /// `READ` or `WRITE`.
    pub kind: LockType,
    /// Which bytes.
    pub range: LockRange,
    /// The owning process and client, if the lock was taken through this file system.
    pub owner: Option<(u32, Vec<u8>)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_ranges_stay_inside_file_offsets() {
        let unbounded = LockRange::from_wire(5, 0).unwrap();
        assert_eq!((unbounded.end, unbounded.wire_length()), (1 << 63, 0));
        let range = LockRange::from_wire(5, 3).unwrap();
        assert_eq!((range.end, range.wire_length()), (8, 3));
        assert_eq!(LockRange::from_wire(1 << 63, 1), Err(Errno::EINVAL));
        assert_eq!(LockRange::from_wire(1, u64::MAX), Err(Errno::EOVERFLOW));
        assert_eq!(LockRange::from_wire(1, 1 << 63), Err(Errno::EOVERFLOW));
        assert!(LockRange::from_wire((1 << 63) - 1, 1).is_ok());
    }
}
