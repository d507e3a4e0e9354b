//! The operations straight on a folder of the host, by the calls that a program would make.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawDir, SeekFrom, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
    XattrFlags,
};
use virtio_9p::Errno;

use crate::found::{Found, Stat, done, names, number};
use crate::operation::{Kind, Op, SLOTS, Spot};

/// A file at hand: a path descriptor, and the open file if it is open.
struct Slot {
    node: OwnedFd,
    open: Option<File>,
}

/// A lock owner on a file: an open file description of its own, and the slots through which it locked.
struct Owner {
    file: File,
    slots: Vec<usize>,
    ranges: Vec<(u64, u64)>,
}

/// A folder and the files at hand.
pub(crate) struct Straight {
    root: PathBuf,
    slots: [Option<Slot>; SLOTS],
    owners: HashMap<(u64, u64, u32), Owner>,
}

/// A device number as a 9P client gets it.
fn device(number: u64) -> u64 {
    let (major, minor) = (u64::from(rustix::fs::major(number)), u64::from(rustix::fs::minor(number)));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

pub(crate) fn stat(found: &Metadata) -> Stat {
    Stat {
        mode: found.mode(),
        nlink: found.nlink(),
        uid: found.uid(),
        gid: found.gid(),
        device: device(found.rdev()),
        size: found.size(),
        atime: found.atime(),
        mtime: found.mtime(),
    }
}

pub(crate) fn attribute_names(path: &Path) -> Result<Vec<String>, Errno> {
    let mut list = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, list.as_mut_slice())?;
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

fn flags(number: u32) -> Result<OFlags, Errno> {
    if number & 3 == 3 {
        return Err(Errno::EINVAL);
    }
    let known = 0o3 | 0o1000 | 0o2000 | 0o4000 | 0o4_010_000 | 0o200_000 | 0o1_000_000;
    assert_eq!(number & !known, 0);
    let mut flags = OFlags::CLOEXEC;
    for (theirs, ours) in [
        (0o1, OFlags::WRONLY),
        (0o2, OFlags::RDWR),
        (0o1000, OFlags::TRUNC),
        (0o2000, OFlags::APPEND),
        (0o4000, OFlags::NONBLOCK),
        (0o4_010_000, OFlags::SYNC),
        (0o200_000, OFlags::DIRECTORY),
        (0o1_000_000, OFlags::NOATIME),
    ] {
        flags.set(ours, number & theirs == theirs);
    }
    Ok(flags)
}

fn open(path: &Path, flags: OFlags, mode: u32) -> Result<File, Errno> {
    // A FIFO, a socket or a device is the client's own to open.
    if let Ok(status) = std::fs::symlink_metadata(path) {
        let kind = FileType::from_raw_mode(status.mode());
        if !flags.contains(OFlags::EXCL)
            && !matches!(kind, FileType::RegularFile | FileType::Directory | FileType::Symlink)
        {
            return Err(Errno::ENXIO);
        }
    }
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?.into())
}

fn read(file: &File, offset: u64) -> Found {
    let mut data = vec![0; 1000];
    let len = file.read_at(&mut data, offset)?;
    data.truncate(len);
    Ok(format!("{data:?}"))
}

fn list(file: &File) -> Found {
    rustix::fs::seek(file, SeekFrom::Start(0))?;
    let mut room = Vec::with_capacity(1 << 15);
    let mut entries = RawDir::new(file, room.spare_capacity_mut());
    let mut found = Vec::new();
    while let Some(entry) = entries.next() {
        found.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names(found))
}

fn times(access: Option<i64>, modification: Option<i64>) -> Timestamps {
    let stamp = |time| match time {
        Some(0) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(seconds) => Timespec { tv_sec: seconds, tv_nsec: 5 },
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    Timestamps { last_access: stamp(access), last_modification: stamp(modification) }
}

fn set_times(path: &Path, access: Option<i64>, modification: Option<i64>, flags: AtFlags) -> Found {
    Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times(access, modification), flags).map(done)?)
}

fn truncate(path: &Path, status: &Metadata, size: u64) -> Found {
    match FileType::from_raw_mode(status.mode()) {
        FileType::Directory => Err(Errno::EISDIR),
        FileType::RegularFile => {
            Ok(File::from(rustix::fs::open(path, OFlags::WRONLY, Mode::empty())?).set_len(size).map(done)?)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn chmod(path: &Path, status: &Metadata, mode: u32) -> Found {
    if status.is_symlink() {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode)).map(done)?)
}

fn magic(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// A lock of the host: 0 for reading, 1 for writing, 2 to release; what the kernel answers, with what it says is in the way.
fn fcntl(file: &File, command: libc::c_int, kind: u8, (start, length): (u64, u64)) -> Result<libc::flock, Errno> {
    let kind = [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK][usize::from(kind)];
    // SAFETY: all-zero bytes are a valid `flock`.
    let mut flock: libc::flock = unsafe { std::mem::zeroed() };
    flock.l_type = kind.try_into().unwrap();
    flock.l_start = start.try_into().unwrap();
    flock.l_len = length.try_into().unwrap();
    // SAFETY: the call reads and writes the struct alone.
    if unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut flock) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(flock)
}

impl Slot {
    fn path(&self) -> PathBuf {
        magic(self.node.as_fd())
    }

    fn status(&self) -> Result<Metadata, Errno> {
        // The path descriptor's own status, through a file that is closed without closing the descriptor.
        let file = std::mem::ManuallyDrop::new(File::from(self.node.try_clone()?));
        let status = file.metadata();
        drop(std::mem::ManuallyDrop::into_inner(file));
        Ok(status?)
    }

    fn file(&self) -> Result<&File, Errno> {
        self.open.as_ref().ok_or(Errno::EBADF)
    }

    fn directory(&self) -> Result<BorrowedFd<'_>, Errno> {
        if self.status()?.is_dir() { Ok(self.node.as_fd()) } else { Err(Errno::ENOTDIR) }
    }
}

impl Straight {
    pub(crate) fn new(root: &Path) -> Straight {
        Straight { root: root.to_path_buf(), slots: Default::default(), owners: HashMap::new() }
    }

    pub(crate) fn slots_in_use(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    fn slot(&self, at: usize) -> Result<&Slot, Errno> {
        self.slots[at].as_ref().ok_or(Errno::EBADF)
    }

    /// The directory of a spot; a server's client must reach it.
    fn enter(&self, at: Spot) -> Result<PathBuf, Errno> {
        let path = self.root.join(at.parent());
        std::fs::symlink_metadata(&path)?;
        Ok(path)
    }

    fn find(&self, at: Spot) -> Result<(PathBuf, Metadata), Errno> {
        let path = at.path(&self.root);
        let status = std::fs::symlink_metadata(&path)?;
        Ok((path, status))
    }

    fn node(path: &Path) -> Result<OwnedFd, Errno> {
        Ok(rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Forgets a slot, and with the last slot of an owner its locks.
    fn clunk(&mut self, at: usize) -> Result<(), Errno> {
        let old = self.slots[at].take();
        self.forget_locks(at);
        old.map(drop).ok_or(Errno::EBADF)
    }

    fn forget_locks(&mut self, at: usize) {
        for owner in self.owners.values_mut() {
            owner.slots.retain(|slot| *slot != at);
        }
        self.owners.retain(|_, owner| !owner.slots.is_empty());
    }

    fn create(&self, op: &Op, more: OFlags, gid: Option<u32>) -> Found {
        let flags = OFlags::CREATE | more;
        let mode = op.mode() | 0o600;
        let path = op.file().path(&self.root);
        self.enter(op.file())?;
        let fresh = std::fs::symlink_metadata(&path).is_err();
        let file = open(&path, flags, mode)?;
        if fresh {
            adopt(&magic(file.as_fd()), mode, gid)?;
        }
        file.write_all_at(&op.data, op.offset())?;
        if flags.contains(OFlags::RDWR) { read(&file, 0) } else { Ok(String::new()) }
    }

    fn write(&self, op: &Op, flags: OFlags, offset: u64) -> Found {
        let (path, _) = self.find(op.at())?;
        let file = open(&path, OFlags::WRONLY | flags, 0)?;
        file.write_all_at(&op.data, offset)?;
        Ok(stat(&file.metadata()?).text())
    }

    /// Where the file of a slot is by the kernel's idea of its path, as a server must find it; and whether it is there.
    fn locate(&self, at: usize) -> Result<PathBuf, Errno> {
        let slot = self.slot(at)?;
        let path = std::fs::read_link(slot.path())?;
        if path == self.root {
            return Err(Errno::EBUSY);
        }
        let (here, there) = (slot.status()?, std::fs::symlink_metadata(&path)?);
        if here.ino() == there.ino() { Ok(path) } else { Err(Errno::ENOENT) }
    }

    pub(crate) fn perform(&mut self, op: &Op) -> Found {
        let at = op.at();
        match op.kind {
            Kind::Create => self.create(op, OFlags::RDWR, None),
            Kind::CreateExclusive => self.create(op, OFlags::RDWR | OFlags::EXCL, None),
            Kind::CreateForGroup => self.create(op, OFlags::WRONLY | OFlags::EXCL, Some(100)),
            Kind::CreateAndTruncate => self.create(op, OFlags::RDWR | OFlags::TRUNC, None),
            Kind::CreateForAppending => self.create(op, OFlags::RDWR | OFlags::APPEND, None),
            Kind::Write => self.write(op, OFlags::empty(), op.offset()),
            Kind::WriteAppending => self.write(op, OFlags::APPEND, op.offset()),
            Kind::WriteTruncating => self.write(op, OFlags::TRUNC, op.offset()),
            Kind::WriteSynchronous => self.write(op, OFlags::DSYNC, op.offset()),
            Kind::WriteFarOut => self.write(op, OFlags::empty(), u64::from(op.number) << 30),
            Kind::Read => read(&open(&self.find(at)?.0, OFlags::RDONLY, 0)?, 0),
            Kind::ReadBehindStart => read(&open(&self.find(at)?.0, OFlags::RDONLY, 0)?, op.number.into()),
            Kind::ReadWithoutAtime => read(&open(&self.find(at)?.0, OFlags::NOATIME, 0)?, 0),
            Kind::Mkdir | Kind::MkdirForGroup => {
                self.enter(op.file())?;
                let (path, mode) = (op.file().path(&self.root), op.mode() | 0o700);
                rustix::fs::mkdir(&path, Mode::from_raw_mode(mode))?;
                adopt(&path, mode, (op.kind == Kind::MkdirForGroup).then_some(100)).map(done)
            }
            Kind::Symlink => {
                self.enter(op.link())?;
                Ok(rustix::fs::symlink("nowhere/at/all", op.link().path(&self.root)).map(done)?)
            }
            Kind::Readlink => Ok(format!("{:?}", rustix::fs::readlink(self.find(at)?.0, Vec::new())?.into_bytes())),
            Kind::Link => {
                let (from, to) = op.pair();
                let (path, _) = self.find(from)?;
                self.enter(to)?;
                Ok(rustix::fs::link(path, to.path(&self.root)).map(done)?)
            }
            Kind::Rename | Kind::RenameByFid => {
                let (from, to) = op.pair();
                self.enter(from)?;
                self.enter(to)?;
                if op.kind == Kind::RenameByFid {
                    self.find(from)?;
                }
                Ok(rustix::fs::rename(from.path(&self.root), to.path(&self.root)).map(done)?)
            }
            Kind::Unlink => {
                self.enter(at)?;
                Ok(rustix::fs::unlink(at.path(&self.root)).map(done)?)
            }
            Kind::Rmdir => {
                self.enter(at)?;
                Ok(rustix::fs::rmdir(at.path(&self.root)).map(done)?)
            }
            Kind::Remove => remove(&self.find(at)?.0),
            Kind::MknodRegular | Kind::MknodFifo | Kind::MknodSocket | Kind::MknodDevice => {
                self.enter(op.file())?;
                let (kind, device) = match op.kind {
                    Kind::MknodRegular => (FileType::RegularFile, 0),
                    Kind::MknodFifo => (FileType::Fifo, 0),
                    Kind::MknodSocket => (FileType::Socket, 0),
                    _ => (FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
                };
                let (path, mode) = (op.file().path(&self.root), Mode::from_raw_mode(op.mode()));
                rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, device)?;
                adopt(&path, op.mode(), None).map(done)
            }
            Kind::List => {
                let path = self.enter(at)?;
                list(&open(&path, OFlags::DIRECTORY, 0)?)
            }
            Kind::OpenAsDirectory => {
                let (path, status) = self.find(at)?;
                if status.is_symlink() {
                    return Err(Errno::ELOOP);
                }
                list(&open(&path, OFlags::DIRECTORY, 0)?)
            }
            Kind::Stat => Ok(stat(&self.find(at)?.1).text()),
            Kind::Statfs => {
                let node = Self::node(&self.find(at)?.0)?;
                let found = rustix::fs::fstatfs(node)?;
                Ok(format!("{:x} {} {} {}", found.f_type, found.f_bsize, found.f_blocks, found.f_namelen))
            }
            Kind::SetAttribute => self.set_attribute(op, op.attribute(), &op.value(), XattrFlags::empty()),
            Kind::CreateAttribute => self.set_attribute(op, op.attribute(), &op.value(), XattrFlags::CREATE),
            Kind::ReplaceAttribute => self.set_attribute(op, op.attribute(), &op.value(), XattrFlags::REPLACE),
            Kind::SetLargeAttribute => self.set_attribute(op, "user.large", &op.large_value(), XattrFlags::empty()),
            Kind::SetAccessList => {
                self.set_attribute(op, "system.posix_acl_access", &op.access_list(), XattrFlags::empty())
            }
            Kind::GetAttribute => {
                let (path, _) = self.find(at)?;
                let mut value = vec![0; 1 << 16];
                let len = rustix::fs::lgetxattr(path, op.attribute(), value.as_mut_slice())?;
                Ok(format!("{:?}", &value[..len]))
            }
            Kind::ListAttributes => {
                let (path, _) = self.find(at)?;
                let all = attribute_names(&path)?;
                Ok(names(all.iter().map(|name| format!("{:?}", [name.as_bytes(), b"\0"].concat())).collect()))
            }
            Kind::RemoveAttribute => Ok(rustix::fs::lremovexattr(self.find(at)?.0, op.attribute()).map(done)?),
            Kind::WalkDeep => {
                let mut path = self.root.clone();
                let mut count = 0;
                for name in [at.parent(), op.middle(), at.name()] {
                    if name.is_empty() {
                        continue;
                    }
                    path.push(name);
                    match std::fs::symlink_metadata(&path) {
                        Ok(_) => count += 1,
                        Err(error) if count == 0 => return Err(error.into()),
                        Err(_) => break,
                    }
                }
                Ok(number(count))
            }
            Kind::LongName => {
                let path = self.enter(at)?.join(op.long_name());
                if op.long_name().len() > 255 {
                    // A server sees the name before it looks at the directory.
                    return Err(Errno::ENAMETOOLONG);
                }
                open(&path, OFlags::RDWR | OFlags::CREATE, 0o600)?;
                Ok(rustix::fs::unlink(path).map(done)?)
            }
            _ if op.kind < Kind::Reach => self.change_named(op),
            _ => self.perform_on_slot(op),
        }
    }

    fn set_attribute(&self, op: &Op, name: &str, value: &[u8], flags: XattrFlags) -> Found {
        Ok(rustix::fs::lsetxattr(self.find(op.at())?.0, name, value, flags).map(done)?)
    }

    fn change_named(&self, op: &Op) -> Found {
        let (path, status) = self.find(op.at())?;
        let seconds = op.seconds();
        let times = |access, modification| set_times(&path, access, modification, AtFlags::SYMLINK_NOFOLLOW);
        match op.kind {
            Kind::Truncate => truncate(&path, &status, op.number.into()),
            Kind::Chmod => chmod(&path, &status, op.mode()),
            Kind::Chown => Ok(rustix::fs::chownat(
                rustix::fs::CWD,
                &path,
                Some(Uid::from_raw(op.id())),
                None,
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map(done)?),
            Kind::Chgrp => Ok(rustix::fs::chownat(
                rustix::fs::CWD,
                &path,
                None,
                Some(Gid::from_raw(op.id())),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map(done)?),
            Kind::SetBothTimes => times(Some(seconds), Some(seconds + 7)),
            Kind::SetAccessTime => times(Some(seconds), None),
            Kind::SetModificationTime => times(None, Some(seconds + 7)),
            Kind::TouchNow => times(Some(0), Some(0)),
            Kind::TouchChangeTime => Ok(String::new()),
            Kind::SetModeSizeAndTime => {
                truncate(&path, &status, op.number.into())?;
                chmod(&path, &status, op.mode())?;
                times(None, Some(seconds + 7))
            }
            other => panic!("{other:?}"),
        }
    }

    fn perform_on_slot(&mut self, op: &Op) -> Found {
        let at = op.at();
        match op.kind {
            Kind::Reach => {
                let _ = self.clunk(op.slot);
                let node = Self::node(&at.path(&self.root))?;
                self.slots[op.slot] = Some(Slot { node, open: None });
                Ok(String::new())
            }
            Kind::Clone => {
                let slot = self.slot(op.slot)?;
                if op.slot == op.other {
                    return if slot.open.is_some() { Err(Errno::EINVAL) } else { Ok(String::new()) };
                }
                let copy = slot.node.try_clone()?;
                if self.slots[op.other].is_some() {
                    return Err(Errno::EINVAL);
                }
                self.slots[op.other] = Some(Slot { node: copy, open: None });
                Ok(String::new())
            }
            Kind::Open => {
                let slot = self.slots[op.slot].as_mut().ok_or(Errno::EBADF)?;
                if slot.open.is_some() {
                    return Err(Errno::EINVAL);
                }
                let flags = flags(op.flags())?;
                match FileType::from_raw_mode(slot.status()?.mode()) {
                    FileType::RegularFile | FileType::Directory => {}
                    FileType::Symlink => return Err(Errno::ELOOP),
                    _ => return Err(Errno::ENXIO),
                }
                slot.open = Some(rustix::fs::open(slot.path(), flags, Mode::empty())?.into());
                Ok(String::new())
            }
            Kind::CreateInSlot => {
                let _ = self.clunk(op.slot);
                let directory = Self::node(&self.enter(at)?)?;
                let path = self.root.join(at.parent()).join(op.file().name());
                // The slot is the directory until the file is there.
                self.slots[op.slot] = Some(Slot { node: directory, open: None });
                if !std::fs::symlink_metadata(self.root.join(at.parent()))?.is_dir() {
                    return Err(Errno::ENOTDIR);
                }
                let fresh = std::fs::symlink_metadata(&path).is_err();
                let file = open(&path, OFlags::RDWR | OFlags::CREATE, op.mode())?;
                if fresh {
                    adopt(&path, op.mode(), None)?;
                }
                self.slots[op.slot] = Some(Slot { node: Self::node(&path)?, open: Some(file) });
                Ok(String::new())
            }
            Kind::ReadSlot => read(self.slot(op.slot)?.file()?, op.offset()),
            Kind::WriteSlot => Ok(number(self.slot(op.slot)?.file()?.write_at(&op.data, op.offset())?)),
            Kind::StatSlot => Ok(stat(&self.slot(op.slot)?.status()?).text()),
            Kind::TruncateSlot => {
                let slot = self.slot(op.slot)?;
                let status = slot.status()?;
                match &slot.open {
                    Some(file) if status.is_file() && file.set_len(op.number.into()).is_ok() => Ok(String::new()),
                    _ => truncate(&slot.path(), &status, op.number.into()),
                }
            }
            Kind::ChmodSlot => {
                let slot = self.slot(op.slot)?;
                chmod(&slot.path(), &slot.status()?, op.mode())
            }
            Kind::TimesSlot => {
                let path = self.slot(op.slot)?.path();
                set_times(&path, Some(op.seconds()), Some(op.seconds() + 7), AtFlags::empty())
            }
            Kind::ChownSlot => {
                let slot = self.slot(op.slot)?;
                let (uid, gid) = (Some(Uid::from_raw(op.id())), Some(Gid::from_raw(op.id())));
                Ok(rustix::fs::chownat(&slot.node, "", uid, gid, AtFlags::EMPTY_PATH).map(done)?)
            }
            Kind::SyncSlot => Ok(self.slot(op.slot)?.file()?.sync_all().map(done)?),
            Kind::SyncDataSlot => Ok(self.slot(op.slot)?.file()?.sync_data().map(done)?),
            Kind::LockSlot | Kind::UnlockSlot | Kind::TestLockSlot => self.lock(op),
            Kind::ListSlot => {
                let slot = self.slot(op.slot)?;
                slot.file()?;
                slot.directory()?;
                list(slot.file()?)
            }
            Kind::RemoveSlot => {
                let place = self.locate(op.slot);
                self.clunk(op.slot)?;
                remove(&place?)
            }
            Kind::RenameSlot => {
                let directory = self.enter(op.target())?;
                self.slot(op.slot)?;
                if !std::fs::symlink_metadata(directory)?.is_dir() {
                    return Err(Errno::ENOTDIR);
                }
                let from = self.locate(op.slot)?;
                Ok(rustix::fs::rename(from, op.target().path(&self.root)).map(done)?)
            }
            Kind::LinkSlot => {
                let path = op.link().path(&self.root);
                self.enter(op.link())?;
                let slot = self.slot(op.slot)?;
                let flags = AtFlags::SYMLINK_FOLLOW;
                Ok(rustix::fs::linkat(rustix::fs::CWD, slot.path(), rustix::fs::CWD, path, flags).map(done)?)
            }
            Kind::GetAttributeSlot => {
                let mut value = vec![0; 1 << 16];
                let len = rustix::fs::getxattr(self.slot(op.slot)?.path(), op.attribute(), value.as_mut_slice())?;
                Ok(format!("{:?}", &value[..len]))
            }
            Kind::SetAttributeSlot => {
                let path = self.slot(op.slot)?.path();
                Ok(rustix::fs::setxattr(path, op.attribute(), &op.value(), XattrFlags::empty()).map(done)?)
            }
            Kind::MkdirInSlot => {
                let directory = self.slot(op.slot)?.directory()?;
                let name = op.file().name();
                Ok(rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755)).map(done)?)
            }
            Kind::UnlinkInSlot => {
                let flags = op.choose(&[AtFlags::empty(), AtFlags::REMOVEDIR]);
                Ok(rustix::fs::unlinkat(self.slot(op.slot)?.directory()?, at.name(), flags).map(done)?)
            }
            Kind::WalkFromSlot => {
                let directory = self.slot(op.slot)?.directory()?;
                let flags = OFlags::PATH | OFlags::NOFOLLOW;
                let node = rustix::fs::openat(directory, at.name(), flags, Mode::empty())?;
                Ok(stat(&Slot { node, open: None }.status()?).text())
            }
            Kind::ParentOfSlot => {
                let slot = self.slot(op.slot)?;
                slot.directory()?;
                let root = std::fs::metadata(&self.root)?;
                if slot.status()?.ino() == root.ino() {
                    return Ok(stat(&root).text());
                }
                let node = rustix::fs::openat(slot.directory()?, "..", OFlags::PATH, Mode::empty())?;
                Ok(stat(&Slot { node, open: None }.status()?).text())
            }
            Kind::ReadlinkSlot => {
                let slot = self.slot(op.slot)?;
                if !slot.status()?.is_symlink() {
                    return Err(Errno::EINVAL);
                }
                Ok(format!("{:?}", rustix::fs::readlinkat(&slot.node, "", Vec::new())?.into_bytes()))
            }
            Kind::StatfsSlot => Ok(number(rustix::fs::fstatfs(&self.slot(op.slot)?.node)?.f_namelen)),
            Kind::Clunk => self.clunk(op.slot).map(done),
            other => panic!("{other:?}"),
        }
    }

    fn lock(&mut self, op: &Op) -> Found {
        let (start, length, process) = op.lock();
        let slot = self.slot(op.slot)?;
        slot.file()?;
        let status = slot.status()?;
        let key = (status.dev(), status.ino(), process);
        let range = (start, length);
        if op.kind == Kind::TestLockSlot {
            let file = self.owners.get(&key).map_or(slot.file()?, |owner| &owner.file);
            let found = fcntl(file, libc::F_OFD_GETLK, op.choose(&[0, 1]), range)?;
            if libc::c_int::from(found.l_type) == libc::F_UNLCK {
                return Ok("free".into());
            }
            let (from, len) = (found.l_start.cast_unsigned(), found.l_len.cast_unsigned());
            let end = if len == 0 { u64::MAX } else { from + len };
            let holder = self.owners.iter().find(|((device, inode, other), owner)| {
                (*device, *inode) == (key.0, key.1)
                    && *other != process
                    && owner.ranges.iter().any(|(start, stop)| *start < end && *stop > from)
            });
            let holder = holder.map_or(0, |((_, _, process), _)| *process);
            return Ok(format!("{} {from} {len} {holder}", libc::c_int::from(found.l_type) == libc::F_WRLCK));
        }
        if op.kind == Kind::UnlockSlot {
            let Some(owner) = self.owners.get_mut(&key) else { return Ok("true".into()) };
            fcntl(&owner.file, libc::F_OFD_SETLK, 2, range)?;
            note(&mut owner.ranges, range, false);
            if owner.ranges.is_empty() {
                // A server lets go of the description for this slot once nothing is locked.
                owner.slots.retain(|slot| *slot != op.slot);
                if owner.slots.is_empty() {
                    self.owners.remove(&key);
                }
            }
            return Ok("true".into());
        }
        let path = slot.path();
        let kind = op.choose(&[0, 1]);
        let mut fresh = None;
        let file = match self.owners.get(&key) {
            Some(owner) => &owner.file,
            None => {
                let access = if status.is_dir() { OFlags::RDONLY } else { OFlags::RDWR };
                &*fresh.insert(File::from(rustix::fs::open(path, access, Mode::empty())?))
            }
        };
        match fcntl(file, libc::F_OFD_SETLK, kind, range) {
            Ok(_) => {
                if let Some(file) = fresh {
                    self.owners.insert(key, Owner { file, slots: Vec::new(), ranges: Vec::new() });
                }
                let owner = self.owners.get_mut(&key).unwrap();
                note(&mut owner.ranges, range, true);
                if !owner.slots.contains(&op.slot) {
                    owner.slots.push(op.slot);
                }
                Ok("true".into())
            }
            Err(Errno::EAGAIN) => Ok("false".into()),
            Err(error) => Err(error),
        }
    }
}

/// Keeps the list of what an owner holds, byte by byte since all ranges of the test start low.
fn note(ranges: &mut Vec<(u64, u64)>, (start, length): (u64, u64), held: bool) {
    const END: u64 = 40;
    let bytes: Vec<bool> = (0..END)
        .map(|byte| {
            let before = ranges.iter().any(|(start, stop)| (*start..*stop).contains(&byte));
            let inside = byte >= start && (length == 0 || byte < start + length);
            if inside { held } else { before }
        })
        .collect();
    *ranges = (0..END).filter(|byte| bytes[usize::try_from(*byte).unwrap()]).map(|byte| (byte, byte + 1)).collect();
    if let Some(last) = ranges.last_mut().filter(|(_, stop)| *stop == END) {
        last.1 = u64::MAX;
    }
}

/// What a file server does for a new file: gives it to its group, and sets the bits that this or the making cleared.
fn adopt(path: &Path, mode: u32, gid: Option<u32>) -> Result<(), Errno> {
    if let Some(gid) = gid.filter(|_| crate::client::is_root()) {
        rustix::fs::chown(path, None, Some(Gid::from_raw(gid)))?;
    }
    if mode & 0o6000 != 0 {
        rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Found {
    if std::fs::symlink_metadata(path)?.is_dir() {
        Ok(rustix::fs::rmdir(path).map(done)?)
    } else {
        Ok(rustix::fs::unlink(path).map(done)?)
    }
}
