//! The [`FileSystem`] of a synthetic tree.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::tree::{Directory, Item};
use crate::errno::Errno;
use crate::fs::{Attach, Entry, FileSystem, Hindrance, Opened, Patience, SetAttr, Work};
use crate::limits::MAX_SYNTHETIC_BYTES;
use crate::name::Name;
use crate::segment::{Readable, Writable};
use crate::session::{Budget, Held};
use crate::wire::{AttrMask, DirEntry, OpenFlags, Qid, QidType, Rgetattr, Rstatfs, Time};

/// Most bytes of one write: what a closure is handed at a time.
const WRITE_MAX: usize = 1 << 16;

/// A [`FileSystem`] of closures. A clone is the same tree, for the server of another session.
#[derive(Debug, Clone)]
pub struct Synthetic {
    root: Arc<Reached>,
    made: Time,
    contents: Budget,
}

/// A file of a synthetic tree.
#[derive(Debug, Clone)]
pub struct SyntheticNode(Arc<Reached>);

#[derive(Debug)]
struct Reached {
    item: Item,
    /// Its number: the way to it, hashed.
    id: u64,
    name: String,
    parent: Option<Arc<Reached>>,
}

/// An open file of a synthetic tree, with the content or the entries that it had.
#[derive(Debug, Clone)]
pub struct SyntheticHandle(Arc<Open>);

#[derive(Debug)]
struct Open {
    node: Arc<Reached>,
    content: Vec<u8>,
    entries: Vec<(String, Option<bool>)>,
    access: u32,
    _held: Held,
}

impl Reached {
    fn qid(&self) -> Qid {
        match self.item {
            Item::File(_) => Qid { kind: QidType::FILE, version: 0, path: self.id },
            Item::Directory(_) => Qid { kind: QidType::DIRECTORY, version: 0, path: self.id },
        }
    }

    fn directory(&self) -> Result<&Directory, Errno> {
        match &self.item {
            Item::Directory(directory) => Ok(directory),
            Item::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn child_id(&self, name: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.id, name).hash(&mut hasher);
        hasher.finish()
    }
}

impl Synthetic {
    /// The tree below `root`.
    pub fn new(root: Directory) -> Synthetic {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let made = Time { seconds: since.as_secs(), nanoseconds: u64::from(since.subsec_nanos()) };
        let root = Arc::new(Reached { item: root.into(), id: 1, name: "/".into(), parent: None });
        Synthetic { root, made, contents: Budget::new(MAX_SYNTHETIC_BYTES) }
    }
}

impl FileSystem for Synthetic {
    type Node = SyntheticNode;
    type Handle = SyntheticHandle;

    fn attach(&self, _attach: &Attach<'_>) -> Result<Entry<SyntheticNode>, Errno> {
        Ok(Entry { node: SyntheticNode(self.root.clone()), qid: self.root.qid() })
    }

    fn lookup(&self, dir: &SyntheticNode, name: Name<'_>) -> Result<Entry<SyntheticNode>, Errno> {
        let directory = dir.0.directory()?;
        let name = std::str::from_utf8(name.as_bytes()).map_err(|_| Errno::ENOENT)?;
        let item = directory.find(name).ok_or(Errno::ENOENT)?;
        let node =
            Arc::new(Reached { item, id: dir.0.child_id(name), name: name.to_owned(), parent: Some(dir.0.clone()) });
        let qid = node.qid();
        Ok(Entry { node: SyntheticNode(node), qid })
    }

    fn parent(&self, dir: &SyntheticNode) -> Result<Entry<SyntheticNode>, Errno> {
        dir.0.directory()?;
        let parent = dir.0.parent.as_ref().unwrap_or(&self.root);
        Ok(Entry { node: SyntheticNode(parent.clone()), qid: parent.qid() })
    }

    fn getattr(&self, node: &SyntheticNode, _wanted: AttrMask) -> Result<Rgetattr, Errno> {
        let (mode, nlink, size) = match &node.0.item {
            Item::Directory(directory) => (0o040_555, 2 + directory.directories(), 0),
            Item::File(file) => (if file.is_writable() { 0o100_644 } else { 0o100_444 }, 1, file.content().len()),
        };
        let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Ok(Rgetattr {
            valid: AttrMask::BASIC,
            qid: node.0.qid(),
            mode,
            uid: 0,
            gid: 0,
            nlink: wide(nlink),
            rdev: 0,
            size: wide(size),
            blksize: 4096,
            blocks: wide(size.div_ceil(512)),
            atime: self.made,
            mtime: self.made,
            ctime: self.made,
            btime: Time::default(),
            generation: 0,
            data_version: 0,
        })
    }

    fn statfs(&self, _node: &SyntheticNode) -> Result<Rstatfs, Errno> {
        /// `V9FS_MAGIC` of Linux.
        const MAGIC: u32 = 0x0102_1997;
        Ok(Rstatfs {
            kind: MAGIC,
            bsize: 4096,
            blocks: 0,
            bfree: 0,
            bavail: 0,
            files: 0,
            ffree: 0,
            fsid: 0,
            namelen: 255,
        })
    }

    /// A closure may wait for whatever its program waits for.
    fn needs(&self, _: Work) -> Patience {
        Patience::Endless
    }

    fn open(&self, node: &SyntheticNode, flags: OpenFlags) -> Result<Opened<SyntheticHandle>, Errno> {
        let access = flags.access();
        let (content, entries) = match &node.0.item {
            Item::Directory(_) if flags.writes() => return Err(Errno::EISDIR),
            Item::Directory(directory) => (Vec::new(), directory.entries()),
            Item::File(_) if flags.contains(OpenFlags::DIRECTORY) => return Err(Errno::ENOTDIR),
            Item::File(file) if flags.writes() && !file.is_writable() => return Err(Errno::EACCES),
            Item::File(_) if access == OpenFlags::WRONLY => (Vec::new(), Vec::new()),
            Item::File(_) if access == OpenFlags::ACCESS => return Err(Errno::EINVAL),
            Item::File(file) => (file.content(), Vec::new()),
        };
        let names: usize = entries.iter().map(|(name, _)| name.len()).sum();
        let held = self.contents.reserve(content.len() + names).ok_or(Errno::ENOMEM)?;
        let open = Open { node: node.0.clone(), content, entries, access, _held: held };
        Ok(Opened { handle: SyntheticHandle(Arc::new(open)), qid: node.0.qid() })
    }

    fn read(&self, handle: &SyntheticHandle, offset: u64, data: &Writable<'_>) -> Result<usize, Errno> {
        if handle.0.node.directory().is_ok() {
            return Err(Errno::EISDIR);
        }
        if handle.0.access == OpenFlags::WRONLY {
            return Err(Errno::EBADF);
        }
        let rest = usize::try_from(offset).ok().and_then(|offset| handle.0.content.get(offset..));
        Ok(rest.map_or(0, |rest| data.copy_from(0, rest)))
    }

    fn write(&self, handle: &SyntheticHandle, _offset: u64, data: &Readable<'_>) -> Result<usize, Errno> {
        let Item::File(file) = &handle.0.node.item else { return Err(Errno::EBADF) };
        if handle.0.access == OpenFlags::RDONLY {
            return Err(Errno::EBADF);
        }
        if data.is_empty() {
            return Ok(0);
        }
        let mut bytes = Vec::new();
        data.slice(0, WRITE_MAX).append_to(&mut bytes);
        file.take(&bytes)?;
        Ok(bytes.len())
    }

    fn write_within(
        &self,
        handle: &SyntheticHandle,
        offset: u64,
        data: &Readable<'_>,
        patience: Patience,
    ) -> Result<usize, Hindrance> {
        if patience < Patience::Endless {
            return Err(Hindrance::Waits(Patience::Endless));
        }
        Ok(self.write(handle, offset, data)?)
    }

    /// A file that takes writes can be truncated, as a shell does before it writes: there is nothing to cut.
    fn setattr(&self, node: &SyntheticNode, _handle: Option<&SyntheticHandle>, change: &SetAttr) -> Result<(), Errno> {
        let only_size = SetAttr { size: None, atime: None, mtime: None, ctime: false, ..*change } == SetAttr::default();
        match &node.0.item {
            Item::File(file) if file.is_writable() && only_size => Ok(()),
            _ => Err(Errno::EPERM),
        }
    }

    fn readdir(
        &self,
        handle: &SyntheticHandle,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let open = &handle.0;
        open.node.directory()?;
        let parent = open.node.parent.as_ref().unwrap_or(&self.root);
        let special = [(".", open.node.id), ("..", parent.id)].map(|(name, id)| (name, id, Some(true)));
        let named = open.entries.iter().map(|(name, kind)| (name.as_str(), open.node.child_id(name), *kind));
        let skip = usize::try_from(cookie).unwrap_or(usize::MAX);
        for (offset, (name, path, directory)) in (1_u64..).zip(special.into_iter().chain(named)).skip(skip) {
            let (kind, listed) = match directory {
                Some(true) => (QidType::DIRECTORY, libc::DT_DIR),
                Some(false) => (QidType::FILE, libc::DT_REG),
                None => (QidType::FILE, libc::DT_UNKNOWN),
            };
            let qid = Qid { kind, version: 0, path };
            if !emit(&DirEntry { qid, offset, kind: listed, name: name.as_bytes() }) {
                break;
            }
        }
        Ok(())
    }

    fn name(&self, node: &SyntheticNode) -> Result<Vec<u8>, Errno> {
        Ok(node.0.name.clone().into_bytes())
    }

    fn fsync(&self, _handle: &SyntheticHandle, _data_only: bool) -> Result<(), Errno> {
        Ok(())
    }
}
