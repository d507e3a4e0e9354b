//! A random sequence of operations has the same results and leaves the same tree, whether it goes through the server or
//! straight to the host's file system.

mod client;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use client::{Client, ROOT, connect};
use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};
use virtio_9p::Errno;
use virtio_9p::wire::{Fid, OpenFlags, SetattrValid};

/// Directories are made and moved among the first four names, links are made and moved among the last two; so a path to a
/// parent never leads through a link, which a client would have to follow by itself.
const NAMES: [&str; 6] = ["a", "b", "d", "e", "l", "m"];
const PARENTS: [&str; 4] = ["", "d", "e", "a"];

const PARENT: Fid = Fid(1);
const OTHER: Fid = Fid(2);
const LEAF: Fid = Fid(3);

#[derive(Debug, Clone)]
struct Spot {
    parent: usize,
    name: usize,
}

impl Spot {
    fn path(&self, root: &Path) -> PathBuf {
        root.join(PARENTS[self.parent]).join(NAMES[self.name])
    }

    fn name(&self) -> &'static [u8] {
        NAMES[self.name].as_bytes()
    }
}

#[derive(Debug, Clone)]
enum Op {
    Create { at: Spot, excl: bool, data: Vec<u8>, offset: u16 },
    Write { at: Spot, data: Vec<u8>, offset: u16, truncate: bool, append: bool },
    Read(Spot),
    Truncate(Spot, u16),
    Mkdir(Spot),
    Symlink(Spot),
    Readlink(Spot),
    Link { from: Spot, to: Spot },
    Rename { from: Spot, to: Spot, by_fid: bool },
    Unlink { at: Spot, directory: bool },
    Remove(Spot),
    Chmod(Spot, u32),
    List(usize),
    Stat(Spot),
}

fn spot(names: std::ops::Range<usize>) -> impl Strategy<Value = Spot> {
    (0..PARENTS.len(), names).prop_map(|(parent, name)| Spot { parent, name })
}

fn op() -> impl Strategy<Value = Op> {
    let any_spot = || spot(0..6);
    let file = || spot(0..4);
    let data = || proptest::collection::vec(any::<u8>(), 0..50);
    let pair = || prop_oneof![(spot(0..4), spot(0..4)), (spot(4..6), spot(4..6))];
    prop_oneof![
        3 => (file(), any::<bool>(), data(), 0_u16..100)
            .prop_map(|(at, excl, data, offset)| Op::Create { at, excl, data, offset }),
        3 => (any_spot(), data(), 0_u16..100, any::<bool>(), any::<bool>())
            .prop_map(|(at, data, offset, truncate, append)| Op::Write { at, data, offset, truncate, append }),
        2 => any_spot().prop_map(Op::Read),
        1 => (any_spot(), 0_u16..200).prop_map(|(at, size)| Op::Truncate(at, size)),
        4 => file().prop_map(Op::Mkdir),
        1 => spot(4..6).prop_map(Op::Symlink),
        1 => any_spot().prop_map(Op::Readlink),
        2 => pair().prop_map(|(from, to)| Op::Link { from, to }),
        4 => (pair(), any::<bool>()).prop_map(|((from, to), by_fid)| Op::Rename { from, to, by_fid }),
        2 => (any_spot(), any::<bool>()).prop_map(|(at, directory)| Op::Unlink { at, directory }),
        1 => any_spot().prop_map(Op::Remove),
        1 => (any_spot(), prop::sample::select(vec![0o600, 0o640, 0o755, 0o444, 0o4755]))
            .prop_map(|(at, mode)| Op::Chmod(at, mode)),
        1 => (0..PARENTS.len()).prop_map(Op::List),
        2 => any_spot().prop_map(Op::Stat),
    ]
}

/// What an operation found, in a form that both sides can give.
type Found = Result<Vec<u8>, Errno>;

fn stat_text(mode: u32, nlink: u64, size: u64) -> Vec<u8> {
    // The size of a directory is the file system's own affair.
    let size = if mode & 0o170_000 == 0o040_000 { 0 } else { size };
    format!("{mode:o} {nlink} {size}").into_bytes()
}

/// Forgets the fids of an operation.
fn tidy(client: &Client) {
    for fid in [PARENT, OTHER, LEAF] {
        let _ = client.clunk(fid);
    }
}

fn through_server(client: &Client, op: &Op) -> Found {
    let found = serve(client, op);
    tidy(client);
    found
}

fn enter(client: &Client, fid: Fid, at: &Spot) -> Result<(), Errno> {
    client.reach(fid, PARENTS[at.parent])
}

fn find(client: &Client, at: &Spot) -> Result<(), Errno> {
    enter(client, PARENT, at)?;
    client.walk(PARENT, LEAF, &[at.name()]).map(drop)
}

fn serve(client: &Client, op: &Op) -> Found {
    let done = |()| Vec::new();
    match op {
        Op::Create { at, excl, data, offset } => {
            enter(client, PARENT, at)?;
            let flags = OpenFlags::RDWR | OpenFlags::CREATE | if *excl { OpenFlags::EXCL } else { 0 };
            client.create(PARENT, at.name(), flags, 0o644)?;
            client.write(PARENT, (*offset).into(), data)?;
            client.read(PARENT, 0, 1000)
        }
        Op::Write { at, data, offset, truncate, append } => {
            find(client, at)?;
            let flags = OpenFlags::WRONLY
                | if *truncate { OpenFlags::TRUNC } else { 0 }
                | if *append { OpenFlags::APPEND } else { 0 };
            client.open(LEAF, flags)?;
            client.write(LEAF, (*offset).into(), data)?;
            client.getattr(LEAF).map(|attributes| attributes.size.to_string().into_bytes())
        }
        Op::Read(at) => {
            find(client, at)?;
            client.open(LEAF, OpenFlags::RDONLY)?;
            client.read(LEAF, 0, 1000)
        }
        Op::Truncate(at, size) => {
            find(client, at)?;
            client.setattr(LEAF, SetattrValid::SIZE, |change| change.size = (*size).into()).map(done)
        }
        Op::Mkdir(at) => {
            enter(client, PARENT, at)?;
            client.mkdir(PARENT, at.name(), 0o755).map(|_| Vec::new())
        }
        Op::Symlink(at) => {
            enter(client, PARENT, at)?;
            client.symlink(PARENT, at.name(), b"nowhere/at/all").map(|_| Vec::new())
        }
        Op::Readlink(at) => {
            find(client, at)?;
            client.readlink(LEAF)
        }
        Op::Link { from, to } => {
            find(client, from)?;
            enter(client, OTHER, to)?;
            client.link(LEAF, OTHER, to.name()).map(done)
        }
        Op::Rename { from, to, by_fid } => {
            enter(client, PARENT, from)?;
            enter(client, OTHER, to)?;
            if *by_fid {
                client.walk(PARENT, LEAF, &[from.name()])?;
                client.rename(LEAF, OTHER, to.name()).map(done)
            } else {
                client.renameat(PARENT, from.name(), OTHER, to.name()).map(done)
            }
        }
        Op::Unlink { at, directory } => {
            enter(client, PARENT, at)?;
            client.unlinkat(PARENT, at.name(), if *directory { 0x200 } else { 0 }).map(done)
        }
        Op::Remove(at) => {
            find(client, at)?;
            client.remove(LEAF).map(done)
        }
        Op::Chmod(at, mode) => {
            find(client, at)?;
            let mode = if client.getattr(LEAF)?.mode & 0o170_000 == 0o040_000 { mode | 0o700 } else { *mode };
            client.setattr(LEAF, SetattrValid::MODE, |change| change.mode = mode).map(done)
        }
        Op::List(parent) => {
            client.reach(PARENT, PARENTS[*parent])?;
            client.open(PARENT, OpenFlags::RDONLY | OpenFlags::DIRECTORY)?;
            let mut names: Vec<String> = client.list(PARENT, 200)?.into_iter().map(|entry| entry.name).collect();
            names.retain(|name| !matches!(name.as_str(), "." | ".."));
            names.sort();
            Ok(names.join(" ").into_bytes())
        }
        Op::Stat(at) => {
            find(client, at)?;
            client.getattr(LEAF).map(|found| stat_text(found.mode, found.nlink, found.size))
        }
    }
}

fn open(path: &Path, flags: OFlags) -> Result<File, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?.into())
}

fn read(file: &File) -> Found {
    let mut data = vec![0; 1000];
    let len = file.read_at(&mut data, 0)?;
    data.truncate(len);
    Ok(data)
}

/// The parent of a spot, as a directory that is there; a server's client must reach it too.
fn parent(root: &Path, at: &Spot) -> Result<(), Errno> {
    std::fs::symlink_metadata(root.join(PARENTS[at.parent]))?;
    Ok(())
}

fn straight(root: &Path, op: &Op) -> Found {
    let done = |()| Vec::new();
    let path = |at: &Spot| at.path(root);
    match op {
        Op::Create { at, excl, data, offset } => {
            let flags = OFlags::RDWR | OFlags::CREATE | if *excl { OFlags::EXCL } else { OFlags::empty() };
            let file = open(&path(at), flags)?;
            file.write_all_at(data, (*offset).into())?;
            read(&file)
        }
        Op::Write { at, data, offset, truncate, append } => {
            let mut flags = OFlags::WRONLY;
            flags.set(OFlags::TRUNC, *truncate);
            flags.set(OFlags::APPEND, *append);
            let file = open(&path(at), flags)?;
            file.write_all_at(data, (*offset).into())?;
            Ok(file.metadata()?.len().to_string().into_bytes())
        }
        Op::Read(at) => read(&open(&path(at), OFlags::RDONLY)?),
        Op::Truncate(at, size) => {
            if std::fs::symlink_metadata(path(at))?.is_symlink() {
                return Err(Errno::EINVAL);
            }
            let file = open(&path(at), OFlags::WRONLY)?;
            Ok(file.set_len((*size).into()).map(done)?)
        }
        Op::Mkdir(at) => Ok(rustix::fs::mkdir(path(at), Mode::from_raw_mode(0o755)).map(done)?),
        Op::Symlink(at) => Ok(rustix::fs::symlink("nowhere/at/all", path(at)).map(done)?),
        Op::Readlink(at) => Ok(rustix::fs::readlink(path(at), Vec::new())?.into_bytes()),
        Op::Link { from, to } => {
            std::fs::symlink_metadata(path(from))?;
            parent(root, to)?;
            Ok(rustix::fs::link(path(from), path(to)).map(done)?)
        }
        Op::Rename { from, to, by_fid } => {
            parent(root, from)?;
            parent(root, to)?;
            if *by_fid {
                std::fs::symlink_metadata(path(from))?;
            }
            Ok(rustix::fs::rename(path(from), path(to)).map(done)?)
        }
        Op::Unlink { at, directory: true } => Ok(rustix::fs::rmdir(path(at)).map(done)?),
        Op::Unlink { at, directory: false } => Ok(rustix::fs::unlink(path(at)).map(done)?),
        Op::Remove(at) => {
            let directory = std::fs::symlink_metadata(path(at))?.is_dir();
            straight(root, &Op::Unlink { at: at.clone(), directory })
        }
        Op::Chmod(at, mode) => {
            let status = std::fs::symlink_metadata(path(at))?;
            if status.is_symlink() {
                return Err(Errno::EOPNOTSUPP);
            }
            let mode = if status.is_dir() { mode | 0o700 } else { *mode };
            Ok(std::fs::set_permissions(path(at), PermissionsExt::from_mode(mode)).map(done)?)
        }
        Op::List(parent) => {
            let mut names: Vec<String> = std::fs::read_dir(root.join(PARENTS[*parent]))?
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            Ok(names.join(" ").into_bytes())
        }
        Op::Stat(at) => {
            let status = std::fs::symlink_metadata(path(at))?;
            Ok(stat_text(status.mode(), status.nlink(), status.size()))
        }
    }
}

/// Every file of a tree: mode, links, size, and content or target.
fn snapshot(root: &Path, below: &str, into: &mut BTreeMap<String, (Vec<u8>, Vec<u8>)>) {
    for entry in std::fs::read_dir(root.join(below)).unwrap() {
        let name = Path::new(below).join(entry.unwrap().file_name()).into_os_string().into_string().unwrap();
        let path = root.join(&name);
        let status = std::fs::symlink_metadata(&path).unwrap();
        let content = if status.is_dir() {
            snapshot(root, &name, into);
            Vec::new()
        } else if status.is_symlink() {
            std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else {
            std::fs::read(&path).unwrap_or_default()
        };
        into.insert(name, (stat_text(status.mode(), status.nlink(), status.size()), content));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn results_and_trees_are_the_same(ops in proptest::collection::vec(op(), 1..60)) {
        let (served, direct) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let client = connect(served.path());
        for op in &ops {
            prop_assert_eq!(through_server(&client, op), straight(direct.path(), op), "{:?}", op);
            prop_assert_eq!(client.server.fid_count(), 1);
        }
        let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
        snapshot(served.path(), "", &mut ours);
        snapshot(direct.path(), "", &mut theirs);
        prop_assert_eq!(ours, theirs);
        let _ = client.getattr(ROOT);
    }
}
