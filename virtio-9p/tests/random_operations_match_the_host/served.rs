//! The operations through a server.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use virtio_9p::Errno;
use virtio_9p::wire::{Fid, LockStatus, LockType, OpenFlags, Rgetattr, SetattrValid, Time};

use crate::client::{Client, ROOT};
use crate::found::{Found, Stat, done, names, number};
use crate::operation::{Kind, Op, Spot};

const PARENT: Fid = Fid(1);
const OTHER: Fid = Fid(2);
const LEAF: Fid = Fid(3);
const ATTRIBUTE: Fid = Fid(4);
const FIRST_SLOT: u32 = 10;

/// More than any file of the test but the sparse ones holds.
const MUCH: u32 = 1000;

fn slot(number: usize) -> Fid {
    Fid(FIRST_SLOT + u32::try_from(number).unwrap())
}

fn stat(found: &Rgetattr) -> Stat {
    Stat {
        mode: found.mode,
        nlink: found.nlink,
        uid: found.uid,
        gid: found.gid,
        device: found.rdev,
        size: found.size,
        atime: found.atime.seconds.cast_signed(),
        mtime: found.mtime.seconds.cast_signed(),
    }
}

fn time(seconds: i64) -> Time {
    Time { seconds: seconds.cast_unsigned(), nanoseconds: 5 }
}

fn enter(client: &Client, fid: Fid, at: Spot) -> Result<(), Errno> {
    client.reach(fid, at.parent())
}

fn find(client: &Client, at: Spot) -> Result<(), Errno> {
    enter(client, PARENT, at)?;
    client.walk(PARENT, LEAF, &[at.name().as_bytes()]).map(drop)
}

/// Carries out an operation through `client`, whose server serves `folder`.
pub(crate) fn serve(client: &Client, folder: &Path, op: &Op) -> Found {
    let found = attempt(client, folder, op);
    for fid in [PARENT, OTHER, LEAF, ATTRIBUTE] {
        let _ = client.clunk(fid);
    }
    found
}

fn create(client: &Client, op: &Op, flags: u32, gid: u32) -> Found {
    enter(client, PARENT, op.file())?;
    client.create_for(PARENT, op.file().name().as_bytes(), OpenFlags::CREATE | flags, op.mode() | 0o600, gid)?;
    client.write(PARENT, op.offset(), &op.data)?;
    if flags & OpenFlags::ACCESS == OpenFlags::WRONLY { Ok(String::new()) } else { read(client, PARENT, 0) }
}

fn write(client: &Client, op: &Op, flags: u32, offset: u64) -> Found {
    find(client, op.at())?;
    client.open(LEAF, OpenFlags::WRONLY | flags)?;
    client.write(LEAF, offset, &op.data)?;
    Ok(stat(&client.getattr(LEAF)?).text())
}

fn read(client: &Client, fid: Fid, offset: u64) -> Found {
    Ok(format!("{:?}", client.read(fid, offset, MUCH)?))
}

fn list(client: &Client, fid: Fid) -> Found {
    Ok(names(client.list(fid, 200)?.into_iter().map(|entry| entry.name).collect()))
}

fn get_attribute(client: &Client, fid: Fid, name: &str) -> Result<Vec<u8>, Errno> {
    let size = client.xattrwalk(fid, ATTRIBUTE, name.as_bytes())?;
    let value = client.read(ATTRIBUTE, 0, u32::try_from(size).unwrap())?;
    client.clunk(ATTRIBUTE)?;
    Ok(value)
}

fn set_attribute(client: &Client, fid: Fid, name: &str, value: &[u8], flags: u32) -> Result<(), Errno> {
    client.walk(fid, ATTRIBUTE, &[])?;
    client.xattrcreate(ATTRIBUTE, name.as_bytes(), value.len().try_into().unwrap(), flags)?;
    for (at, part) in value.chunks(32 << 10).enumerate() {
        client.write(ATTRIBUTE, (at * (32 << 10)).try_into().unwrap(), part)?;
    }
    client.clunk(ATTRIBUTE)
}

fn change(client: &Client, fid: Fid, op: &Op, valid: u32) -> Found {
    client
        .setattr(fid, valid, |change| {
            change.mode = op.mode();
            change.uid = op.id();
            change.gid = op.id();
            change.size = u64::from(op.number);
            change.atime = time(op.seconds());
            change.mtime = time(op.seconds() + 7);
        })
        .map(done)
}

fn attempt(client: &Client, folder: &Path, op: &Op) -> Found {
    const TIMES: u32 = SetattrValid::ATIME | SetattrValid::MTIME | SetattrValid::ATIME_SET | SetattrValid::MTIME_SET;
    let at = op.at();
    let this = slot(op.slot);
    let changed = |valid| {
        find(client, at)?;
        change(client, LEAF, op, valid)
    };
    match op.kind {
        Kind::Create => create(client, op, OpenFlags::RDWR, u32::MAX),
        Kind::CreateExclusive => create(client, op, OpenFlags::RDWR | OpenFlags::EXCL, u32::MAX),
        Kind::CreateForGroup => create(client, op, OpenFlags::WRONLY | OpenFlags::EXCL, 100),
        Kind::CreateAndTruncate => create(client, op, OpenFlags::RDWR | OpenFlags::TRUNC, u32::MAX),
        Kind::CreateForAppending => create(client, op, OpenFlags::RDWR | OpenFlags::APPEND, u32::MAX),
        Kind::Write => write(client, op, 0, op.offset()),
        Kind::WriteAppending => write(client, op, OpenFlags::APPEND, op.offset()),
        Kind::WriteTruncating => write(client, op, OpenFlags::TRUNC, op.offset()),
        Kind::WriteSynchronous => write(client, op, OpenFlags::DSYNC, op.offset()),
        Kind::WriteFarOut => write(client, op, 0, u64::from(op.number) << 30),
        Kind::Read | Kind::ReadBehindStart | Kind::ReadWithoutAtime => {
            find(client, at)?;
            let flags = if op.kind == Kind::ReadWithoutAtime { OpenFlags::NOATIME } else { 0 };
            client.open(LEAF, OpenFlags::RDONLY | flags)?;
            read(client, LEAF, if op.kind == Kind::ReadBehindStart { op.number.into() } else { 0 })
        }
        Kind::Truncate => changed(SetattrValid::SIZE),
        Kind::Mkdir | Kind::MkdirForGroup => {
            enter(client, PARENT, op.file())?;
            let gid = if op.kind == Kind::MkdirForGroup { 100 } else { u32::MAX };
            client.mkdir_for(PARENT, op.file().name().as_bytes(), op.mode() | 0o700, gid).map(done)
        }
        Kind::Symlink => {
            enter(client, PARENT, op.link())?;
            client.symlink(PARENT, op.link().name().as_bytes(), b"nowhere/at/all").map(done)
        }
        Kind::Readlink => {
            find(client, at)?;
            Ok(format!("{:?}", client.readlink(LEAF)?))
        }
        Kind::Link => {
            let (from, to) = op.pair();
            find(client, from)?;
            enter(client, OTHER, to)?;
            client.link(LEAF, OTHER, to.name().as_bytes()).map(done)
        }
        Kind::Rename | Kind::RenameByFid => {
            let (from, to) = op.pair();
            enter(client, PARENT, from)?;
            enter(client, OTHER, to)?;
            if op.kind == Kind::RenameByFid {
                client.walk(PARENT, LEAF, &[from.name().as_bytes()])?;
                client.rename(LEAF, OTHER, to.name().as_bytes()).map(done)
            } else {
                client.renameat(PARENT, from.name().as_bytes(), OTHER, to.name().as_bytes()).map(done)
            }
        }
        Kind::Unlink | Kind::Rmdir => {
            enter(client, PARENT, at)?;
            let flags = if op.kind == Kind::Rmdir { 0x200 } else { 0 };
            client.unlinkat(PARENT, at.name().as_bytes(), flags).map(done)
        }
        Kind::Remove => {
            find(client, at)?;
            client.remove(LEAF).map(done)
        }
        Kind::MknodRegular | Kind::MknodFifo | Kind::MknodSocket | Kind::MknodDevice => {
            enter(client, PARENT, op.file())?;
            let (kind, device) = match op.kind {
                Kind::MknodRegular => (0o100_000, (0, 0)),
                Kind::MknodFifo => (0o010_000, (0, 0)),
                Kind::MknodSocket => (0o140_000, (0, 0)),
                _ => (0o020_000, (1, 3)),
            };
            client.mknod(PARENT, op.file().name().as_bytes(), kind | op.mode(), device, u32::MAX).map(done)
        }
        Kind::Chmod => changed(SetattrValid::MODE),
        Kind::Chown => changed(SetattrValid::UID),
        Kind::Chgrp => changed(SetattrValid::GID),
        Kind::SetBothTimes => changed(TIMES),
        Kind::SetAccessTime => changed(SetattrValid::ATIME | SetattrValid::ATIME_SET),
        Kind::SetModificationTime => changed(SetattrValid::MTIME | SetattrValid::MTIME_SET),
        Kind::TouchNow => changed(SetattrValid::ATIME | SetattrValid::MTIME),
        Kind::TouchChangeTime => changed(SetattrValid::CTIME),
        Kind::SetModeSizeAndTime => {
            changed(SetattrValid::MODE | SetattrValid::SIZE | SetattrValid::MTIME | SetattrValid::MTIME_SET)
        }
        Kind::List | Kind::OpenAsDirectory => {
            let flags = OpenFlags::RDONLY | OpenFlags::DIRECTORY;
            if op.kind == Kind::List {
                enter(client, LEAF, at)?;
            } else {
                find(client, at)?;
            }
            client.open(LEAF, flags)?;
            list(client, LEAF)
        }
        Kind::Stat => {
            find(client, at)?;
            let found = client.getattr(LEAF)?;
            let host = std::fs::symlink_metadata(at.path(folder)).unwrap();
            assert_eq!(found.qid.path, host.ino());
            assert_ne!(found.qid.version, 0);
            Ok(stat(&found).text())
        }
        Kind::Statfs => {
            find(client, at)?;
            let found = client.statfs(LEAF)?;
            Ok(format!("{:x} {} {} {}", found.kind, found.bsize, found.blocks, found.namelen))
        }
        Kind::SetAttribute | Kind::CreateAttribute | Kind::ReplaceAttribute => {
            find(client, at)?;
            let flags = match op.kind {
                Kind::CreateAttribute => 1,
                Kind::ReplaceAttribute => 2,
                _ => 0,
            };
            set_attribute(client, LEAF, op.attribute(), &op.value(), flags).map(done)
        }
        Kind::GetAttribute => {
            find(client, at)?;
            Ok(format!("{:?}", get_attribute(client, LEAF, op.attribute())?))
        }
        Kind::ListAttributes => {
            find(client, at)?;
            let list = get_attribute(client, LEAF, "")?;
            Ok(names(list.split_inclusive(|byte| *byte == 0).map(|name| format!("{name:?}")).collect()))
        }
        Kind::RemoveAttribute => {
            find(client, at)?;
            set_attribute(client, LEAF, op.attribute(), b"", 0).map(done)
        }
        Kind::SetLargeAttribute => {
            find(client, at)?;
            set_attribute(client, LEAF, "user.large", &op.large_value(), 0).map(done)
        }
        Kind::SetAccessList => {
            find(client, at)?;
            set_attribute(client, LEAF, "system.posix_acl_access", &op.access_list(), 0).map(done)
        }
        Kind::WalkDeep => {
            let names = [at.parent(), op.middle(), at.name()];
            let names: Vec<&[u8]> = names.iter().filter(|name| !name.is_empty()).map(|name| name.as_bytes()).collect();
            Ok(number(client.walk(ROOT, LEAF, &names)?.len()))
        }
        Kind::LongName => {
            enter(client, PARENT, at)?;
            client.create(PARENT, op.long_name().as_bytes(), OpenFlags::RDWR, 0o600)?;
            client.unlinkat_path(OTHER, at.parent(), op.long_name().as_bytes()).map(done)
        }
        Kind::Reach => {
            let _ = client.clunk(this);
            enter(client, PARENT, at)?;
            client.walk(PARENT, this, &[at.name().as_bytes()]).map(done)
        }
        Kind::Clone => client.walk(this, slot(op.other), &[]).map(done),
        Kind::Open => client.open(this, op.flags()).map(done),
        Kind::CreateInSlot => {
            let _ = client.clunk(this);
            enter(client, this, at)?;
            client.create(this, op.file().name().as_bytes(), OpenFlags::RDWR, op.mode()).map(done)
        }
        Kind::ReadSlot => read(client, this, op.offset()),
        Kind::WriteSlot => Ok(number(client.write(this, op.offset(), &op.data)?)),
        Kind::StatSlot => Ok(stat(&client.getattr(this)?).text()),
        Kind::TruncateSlot => change(client, this, op, SetattrValid::SIZE),
        Kind::ChmodSlot => change(client, this, op, SetattrValid::MODE),
        Kind::TimesSlot => change(client, this, op, TIMES),
        Kind::ChownSlot => change(client, this, op, SetattrValid::UID | SetattrValid::GID),
        Kind::SyncSlot => client.fsync(this, 0).map(done),
        Kind::SyncDataSlot => client.fsync(this, 1).map(done),
        Kind::LockSlot | Kind::UnlockSlot => {
            let (start, length, owner) = op.lock();
            let kind = match op.kind {
                Kind::UnlockSlot => LockType::UNLOCK,
                _ => op.choose(&[LockType::READ, LockType::WRITE]),
            };
            let status = client.lock(this, kind, (start, length), owner)?;
            Ok((status == LockStatus::SUCCESS).to_string())
        }
        Kind::TestLockSlot => {
            let (start, length, owner) = op.lock();
            let kind = op.choose(&[LockType::READ, LockType::WRITE]);
            let (kind, start, length, owner, _) = client.getlock(this, kind, (start, length), owner)?;
            if kind == LockType::UNLOCK {
                return Ok("free".into());
            }
            Ok(format!("{} {start} {length} {owner}", kind == LockType::WRITE))
        }
        Kind::ListSlot => list(client, this),
        Kind::RemoveSlot => client.remove(this).map(done),
        Kind::RenameSlot => {
            enter(client, OTHER, op.target())?;
            client.rename(this, OTHER, op.target().name().as_bytes()).map(done)
        }
        Kind::LinkSlot => {
            enter(client, OTHER, op.link())?;
            client.link(this, OTHER, op.link().name().as_bytes()).map(done)
        }
        Kind::GetAttributeSlot => Ok(format!("{:?}", get_attribute(client, this, op.attribute())?)),
        Kind::SetAttributeSlot => set_attribute(client, this, op.attribute(), &op.value(), 0).map(done),
        Kind::MkdirInSlot => client.mkdir(this, op.file().name().as_bytes(), 0o755).map(done),
        Kind::UnlinkInSlot => {
            let flags = op.choose(&[0, 0x200]);
            client.unlinkat(this, at.name().as_bytes(), flags).map(done)
        }
        Kind::WalkFromSlot => {
            client.walk(this, LEAF, &[at.name().as_bytes()])?;
            Ok(stat(&client.getattr(LEAF)?).text())
        }
        Kind::ParentOfSlot => {
            client.walk(this, LEAF, &[b".."])?;
            Ok(stat(&client.getattr(LEAF)?).text())
        }
        Kind::ReadlinkSlot => Ok(format!("{:?}", client.readlink(this)?)),
        Kind::StatfsSlot => Ok(number(client.statfs(this)?.namelen)),
        Kind::Clunk => client.clunk(this).map(done),
    }
}
