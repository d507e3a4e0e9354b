//! getattr, setattr and extended attributes agree with the host.

use std::os::unix::fs::{MetadataExt, symlink};

use crate::client::{Client, ROOT, connect_fresh, connect_with, is_root};
use virtio_9p::wire::{AttrMask, Fid, OpenFlags, SetattrValid, Time};
use virtio_9p::{Errno, Options, PassthroughOptions};

#[test]
fn getattr_agrees_with_stat() {
    let (folder, client) = connect_fresh();
    std::fs::write(folder.path().join("f"), vec![1; 5000]).unwrap();
    symlink("f", folder.path().join("l")).unwrap();
    for name in ["", "f", "l"] {
        let host = std::fs::symlink_metadata(folder.path().join(name)).unwrap();
        let fid = Fid(1);
        client.reach(fid, name).unwrap();
        let ours = client.getattr(fid).unwrap();
        assert_eq!(ours.valid.0 & AttrMask::BASIC.0, AttrMask::BASIC.0);
        assert_eq!(ours.valid.0 & (AttrMask::GENERATION.0 | AttrMask::DATA_VERSION.0), 0);
        assert_eq!((ours.mode, ours.uid, ours.gid), (host.mode(), host.uid(), host.gid()));
        assert_eq!((ours.nlink, ours.size, ours.blocks), (host.nlink(), host.size(), host.blocks()));
        assert_eq!(ours.mtime.seconds.cast_signed(), host.mtime());
        assert_eq!(ours.ctime.nanoseconds.cast_signed(), host.ctime_nsec());
        assert_eq!(ours.qid.path, host.ino());
        assert_eq!(ours.blksize % 4096, 0);
        assert_ne!(ours.qid.version, 0);
        client.clunk(fid).unwrap();
    }
}

#[test]
fn times_are_set_to_values_now_and_before_1970() {
    let (folder, client) = connect_fresh();
    let path = folder.path().join("f");
    std::fs::write(&path, "").unwrap();
    client.reach(Fid(1), "f").unwrap();
    let both = SetattrValid::ATIME | SetattrValid::ATIME_SET | SetattrValid::MTIME | SetattrValid::MTIME_SET;
    client
        .setattr(Fid(1), both, |change| {
            change.atime = Time { seconds: 1_000_000_000, nanoseconds: 5 };
            change.mtime = Time { seconds: (-2_i64).cast_unsigned(), nanoseconds: 999_999_999 };
        })
        .unwrap();
    let host = std::fs::metadata(&path).unwrap();
    assert_eq!((host.atime(), host.atime_nsec()), (1_000_000_000, 5));
    assert_eq!((host.mtime(), host.mtime_nsec()), (-2, 999_999_999));

    client.setattr(Fid(1), SetattrValid::MTIME, |_| {}).unwrap();
    let host = std::fs::metadata(&path).unwrap();
    assert!(host.mtime() > 1_600_000_000);
    assert_eq!(host.atime(), 1_000_000_000, "the other time is left alone");

    // Values by which the host's kernel means "now" and "leave".
    for nanoseconds in [1_000_000_000, (1 << 30) - 1, (1 << 30) - 2, u64::MAX] {
        let result = client.setattr(Fid(1), both, |change| change.mtime.nanoseconds = nanoseconds);
        assert_eq!(result, Err(Errno::EINVAL));
    }
}

#[test]
fn a_symlinks_own_times_and_owner_are_changed() {
    let (folder, client) = connect_fresh();
    std::fs::write(folder.path().join("f"), "").unwrap();
    symlink("f", folder.path().join("l")).unwrap();
    let before = std::fs::metadata(folder.path().join("f")).unwrap();
    client.reach(Fid(1), "l").unwrap();
    client.setattr(Fid(1), SetattrValid::MTIME | SetattrValid::MTIME_SET, |change| change.mtime.seconds = 77).unwrap();
    assert_eq!(std::fs::symlink_metadata(folder.path().join("l")).unwrap().mtime(), 77);
    if is_root() {
        client
            .setattr(Fid(1), SetattrValid::UID | SetattrValid::GID, |change| (change.uid, change.gid) = (5, 6))
            .unwrap();
        let link = std::fs::symlink_metadata(folder.path().join("l")).unwrap();
        assert_eq!((link.uid(), link.gid()), (5, 6));
    } else {
        eprintln!("skipped: changing owners needs root");
    }
    assert!(client.setattr(Fid(1), SetattrValid::MODE, |change| change.mode = 0o777).is_err());
    let after = std::fs::metadata(folder.path().join("f")).unwrap();
    assert_eq!((after.mtime(), after.uid(), after.mode()), (before.mtime(), before.uid(), before.mode()));
}

#[test]
fn mode_size_and_change_time_are_set() {
    let (folder, client) = connect_fresh();
    let path = folder.path().join("f");
    std::fs::write(&path, "hello").unwrap();
    client.reach(Fid(1), "f").unwrap();
    client.setattr(Fid(1), SetattrValid::MODE | SetattrValid::CTIME, |change| change.mode = 0o104_751).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode(), 0o104_751);
    let before = std::fs::metadata(&path).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    client.setattr(Fid(1), SetattrValid::CTIME, |_| {}).unwrap();
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!(after.mode(), 0o104_751, "set-user-id survives");
    assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
    assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));

    client.setattr(Fid(1), SetattrValid::SIZE, |change| change.size = 2).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"he");
    client.setattr(Fid(1), SetattrValid::SIZE, |change| change.size = 10).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 10);
    assert_eq!(client.setattr(Fid(1), SetattrValid::SIZE, |change| change.size = 1 << 63), Err(Errno::EINVAL));
    assert_eq!(client.setattr(ROOT, SetattrValid::SIZE, |_| {}), Err(Errno::EISDIR));
    assert_eq!(client.setattr(Fid(1), 0x200, |_| {}), Err(Errno::EINVAL));
    client.setattr(Fid(1), 0, |_| {}).unwrap();
}

#[test]
fn every_combination_of_changes_changes_what_it_names() {
    let (folder, client) = connect_fresh();
    let path = folder.path().join("f");
    let own = std::fs::metadata(folder.path()).unwrap();
    let (uid, gid) = if is_root() { (5, 6) } else { (own.uid(), own.gid()) };
    for (valid, open) in (0..=SetattrValid::ALL).flat_map(|valid| [(valid, false), (valid, true)]) {
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, "content").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        let stamp = |seconds, nanoseconds| rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = rustix::fs::Timestamps { last_access: stamp(1000, 1), last_modification: stamp(2000, 2) };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
        let before = std::fs::metadata(&path).unwrap();
        client.reach(Fid(1), "f").unwrap();
        if open {
            client.open(Fid(1), OpenFlags::RDWR).unwrap();
        }
        client
            .setattr(Fid(1), valid, |change| {
                (change.mode, change.uid, change.gid, change.size) = (0o751, uid, gid, 3);
                change.atime = Time { seconds: 3000, nanoseconds: 5 };
                change.mtime = Time { seconds: 4000, nanoseconds: 6 };
            })
            .unwrap();
        client.clunk(Fid(1)).unwrap();

        let after = std::fs::metadata(&path).unwrap();
        let has = |bit| valid & bit != 0;
        let pick = |bit, new, old| if has(bit) { new } else { old };
        let seen = (after.mode() & 0o7777, after.uid(), after.gid(), after.size());
        let expected = (
            pick(SetattrValid::MODE, 0o751, 0o640),
            pick(SetattrValid::UID, uid, before.uid()),
            pick(SetattrValid::GID, gid, before.gid()),
            if has(SetattrValid::SIZE) { 3 } else { 7 },
        );
        assert_eq!(seen, expected, "{valid:#x}");
        let recent = |seconds: i64| seconds > 1_600_000_000;
        match (after.atime(), after.atime_nsec()) {
            time if has(SetattrValid::ATIME_SET) => assert_eq!(time, (3000, 5), "{valid:#x}"),
            (now, _) if has(SetattrValid::ATIME) => assert!(recent(now), "{valid:#x}"),
            time => assert_eq!(time, (1000, 1), "{valid:#x}"),
        }
        match (after.mtime(), after.mtime_nsec()) {
            time if has(SetattrValid::MTIME_SET) => assert_eq!(time, (4000, 6), "{valid:#x}"),
            // A new size is a modification.
            (now, _) if has(SetattrValid::MTIME | SetattrValid::SIZE) => assert!(recent(now), "{valid:#x}"),
            time => assert_eq!(time, (2000, 2), "{valid:#x}"),
        }
    }
}

/// Whether the folder takes user attributes; prints why the test is left out if not.
fn takes_attributes(folder: &std::path::Path) -> bool {
    let probe = folder.join("probe");
    std::fs::write(&probe, "").unwrap();
    let result = rustix::fs::setxattr(&probe, "user.probe", b"x", rustix::fs::XattrFlags::empty());
    std::fs::remove_file(&probe).unwrap();
    if let Err(error) = result {
        eprintln!("skipped: no user attributes in {}: {error}", folder.display());
    }
    result.is_ok()
}

fn set(client: &Client, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
    client.walk(Fid(1), Fid(2), &[]).unwrap();
    client.xattrcreate(Fid(2), name, value.len().try_into().unwrap(), flags).inspect_err(|_| {
        client.clunk(Fid(2)).unwrap();
    })?;
    for (at, part) in value.chunks(1000).enumerate() {
        client.write(Fid(2), u64::try_from(at * 1000).unwrap(), part).unwrap();
    }
    client.clunk(Fid(2))
}

fn get(client: &Client, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let size = client.xattrwalk(Fid(1), Fid(3), name)?;
    let mut value = Vec::new();
    loop {
        let part = client.read(Fid(3), value.len().try_into().unwrap(), 700).unwrap();
        if part.is_empty() {
            break;
        }
        value.extend(part);
    }
    client.clunk(Fid(3)).unwrap();
    assert_eq!(u64::try_from(value.len()).unwrap(), size);
    Ok(value)
}

#[test]
fn attributes_are_set_read_listed_and_removed() {
    let (folder, client) = connect_fresh();
    if !takes_attributes(folder.path()) {
        return;
    }
    std::fs::write(folder.path().join("f"), "").unwrap();
    client.reach(Fid(1), "f").unwrap();
    assert_eq!(get(&client, b"user.a"), Err(Errno::ENODATA));
    let long = vec![b'v'; 2500];
    set(&client, b"user.a", &long, 1).unwrap();
    assert_eq!(get(&client, b"user.a").unwrap(), long);
    assert_eq!(set(&client, b"user.a", b"x", 1), Err(Errno::EEXIST), "the clunk's error is the call's");
    assert_eq!(set(&client, b"user.b", b"x", 2), Err(Errno::ENODATA));
    assert_eq!(client.clunk(Fid(2)), Err(Errno::EBADF), "gone even though the clunk failed");
    set(&client, b"user.b", b"\0\xff", 0).unwrap();
    let list = get(&client, b"").unwrap();
    let mut names: Vec<&[u8]> = list.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")).collect();
    names.sort_unstable();
    assert_eq!(names, [b"user.a", b"user.b"]);
    set(&client, b"user.a", b"", 0).unwrap();
    assert_eq!(get(&client, b"user.a"), Err(Errno::ENODATA));
    assert_eq!(set(&client, b"user.a", b"", 2), Err(Errno::ENODATA));
}

#[test]
fn values_of_every_size_are_kept_or_refused_as_by_the_host() {
    let (folder, client) = connect_fresh();
    if !takes_attributes(folder.path()) {
        return;
    }
    for name in ["f", "direct"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    client.reach(Fid(1), "f").unwrap();
    for size in [1, 2, 255, 256, 999, 1000, 1001, 3900, 4096, 5000, 32_768, 65_535, 65_536] {
        let value: Vec<u8> = (0..size).map(|at| u8::try_from(at % 253).unwrap()).collect();
        let none = rustix::fs::XattrFlags::empty();
        let host = rustix::fs::setxattr(folder.path().join("direct"), "user.a", &value, none).map_err(Errno::from);
        assert_eq!(set(&client, b"user.a", &value, 0), host, "{size} bytes");
        if host.is_ok() {
            assert_eq!(get(&client, b"user.a").unwrap(), value);
        }
    }
    assert_eq!(set(&client, b"user.a", &[0; 65_537], 0), Err(Errno::E2BIG));
}

#[test]
fn attribute_values_are_snapshots() {
    let (folder, client) = connect_fresh();
    if !takes_attributes(folder.path()) {
        return;
    }
    std::fs::write(folder.path().join("f"), "").unwrap();
    client.reach(Fid(1), "f").unwrap();
    set(&client, b"user.a", b"one", 0).unwrap();
    client.xattrwalk(Fid(1), Fid(9), b"user.a").unwrap();
    set(&client, b"user.a", b"second", 0).unwrap();
    assert_eq!(client.read(Fid(9), 0, 100).unwrap(), b"one");
    assert_eq!(client.read(Fid(9), 2, 100).unwrap(), b"e");
    assert_eq!(client.read(Fid(9), 4, 100).unwrap(), b"");
    assert_eq!(client.write(Fid(9), 0, b"x"), Err(Errno::EBADF));
    assert_eq!(client.getattr(Fid(9)).map(drop), Err(Errno::EBADF));
    assert_eq!(client.walk(Fid(9), Fid(10), &[]), Err(Errno::EBADF));
}

#[test]
fn a_value_must_be_complete_and_no_longer_than_announced() {
    let (folder, client) = connect_fresh();
    std::fs::write(folder.path().join("f"), "").unwrap();
    client.reach(Fid(1), "f").unwrap();
    client.walk(Fid(1), Fid(2), &[]).unwrap();
    client.xattrcreate(Fid(2), b"user.a", 4, 0).unwrap();
    assert_eq!(client.write(Fid(2), 1, b"x"), Err(Errno::EINVAL), "a gap");
    assert_eq!(client.write(Fid(2), 0, b"abc"), Ok(3));
    assert_eq!(client.write(Fid(2), 3, b"de"), Err(Errno::ENOSPC));
    assert_eq!(client.read(Fid(2), 0, 1), Err(Errno::EBADF));
    assert_eq!(client.clunk(Fid(2)), Err(Errno::EINVAL), "a byte is missing");
    assert!(get(&client, b"user.a").is_err());

    assert_eq!(client.xattrcreate(Fid(1), b"", 4, 0), Err(Errno::ERANGE));
    assert_eq!(client.xattrcreate(Fid(1), &[b'u'; 256], 4, 0), Err(Errno::ERANGE));
    assert_eq!(client.xattrcreate(Fid(1), b"user.a\0b", 4, 0), Err(Errno::EINVAL));
    assert_eq!(client.xattrcreate(Fid(1), b"user.a", 65_537, 0), Err(Errno::E2BIG));
    assert_eq!(client.xattrcreate(Fid(1), b"user.a", u64::MAX, 0), Err(Errno::E2BIG));
    assert_eq!(client.xattrcreate(Fid(1), b"user.a", 4, 4), Err(Errno::EINVAL));
    client.open(Fid(1), OpenFlags::RDONLY).unwrap();
    assert_eq!(client.xattrcreate(Fid(1), b"user.a", 4, 0), Err(Errno::EINVAL), "an open fid");
}

#[test]
fn values_in_flight_are_limited_together() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("f"), "").unwrap();
    let mut options = Options::default();
    options.max_xattr_bytes = 100_000;
    let client = connect_with(folder.path(), options, PassthroughOptions::default());
    client.reach(Fid(1), "f").unwrap();
    client.reach(Fid(2), "f").unwrap();
    client.xattrcreate(Fid(1), b"user.a", 60_000, 0).unwrap();
    assert_eq!(client.xattrcreate(Fid(2), b"user.a", 60_000, 0), Err(Errno::ENOSPC));
    client.clunk(Fid(1)).unwrap_err();
    client.xattrcreate(Fid(2), b"user.a", 60_000, 0).unwrap();
    client.server.reset();
    client.version(8192);
    client.attach(ROOT, 0).unwrap();
    client.reach(Fid(2), "f").unwrap();
    client.xattrcreate(Fid(2), b"user.a", 60_000, 0).unwrap();
}

#[test]
fn a_symlinks_attributes_are_not_its_targets() {
    let (folder, client) = connect_fresh();
    if !takes_attributes(folder.path()) {
        return;
    }
    let path = folder.path().join("f");
    std::fs::write(&path, "").unwrap();
    rustix::fs::setxattr(&path, "user.a", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    symlink("f", folder.path().join("l")).unwrap();
    client.reach(Fid(1), "l").unwrap();
    assert!(get(&client, b"user.a").is_err());
    assert!(set(&client, b"user.b", b"y", 0).is_err());
    let mut value = [0; 8];
    assert!(rustix::fs::getxattr(&path, "user.b", &mut value[..]).is_err());
}
