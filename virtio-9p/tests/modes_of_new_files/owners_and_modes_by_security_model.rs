//! The security models, id maps, squashing, umask and acting as a user.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::client::{Client, ROOT, connect_with, is_root};
use rustix::fs::XattrFlags;
use tempfile::TempDir;
use virtio_9p::wire::{Fid, NONUNAME, OpenFlags};
use virtio_9p::{Errno, IdRange, Options, Passthrough, PassthroughOptions, Security};

fn serve(choose: impl FnOnce(&mut PassthroughOptions)) -> (TempDir, Client) {
    rustix::process::umask(rustix::fs::Mode::empty());
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let mut options = PassthroughOptions::default();
    choose(&mut options);
    let client = connect_with(folder.path(), Options::default(), options);
    (folder, client)
}

/// A server with mapped attributes, if the file system has user attributes.
fn serve_mapped(keep_symlinks: bool) -> Option<(TempDir, Client)> {
    let scene = serve(|options| {
        options.security = Security::MappedXattr;
        options.keep_symlinks = keep_symlinks;
    });
    if rustix::fs::setxattr(scene.0.path(), "user.test", b"x", XattrFlags::empty()).is_err() {
        eprintln!("skipped: the file system has no user attributes");
        return None;
    }
    Some(scene)
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 100];
    let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(len);
    Some(value)
}

fn stat(client: &Client, path: &str) -> (u32, u32, u32, u64) {
    client.reach(Fid(90), path).unwrap();
    let found = client.getattr(Fid(90)).unwrap();
    client.clunk(Fid(90)).unwrap();
    (found.mode, found.uid, found.gid, found.rdev)
}

#[test]
fn mapped_files_are_stored_as_qemu_does() {
    let Some((folder, client)) = serve_mapped(false) else { return };
    let path = |name: &str| folder.path().join(name);
    client.attach(Fid(1), 1000).unwrap();
    client.walk(Fid(1), Fid(2), &[]).unwrap();
    client.create_for(Fid(2), b"file", OpenFlags::RDWR, 0o4755, 100).unwrap();
    client.mkdir_for(Fid(1), b"dir", 0o1777, 101).unwrap();
    client.symlink(Fid(1), b"link", b"../target").unwrap();
    client.mknod(Fid(1), b"tty", 0o020_620, (4, 300), 5).unwrap();
    client.mknod(Fid(1), b"fifo", 0o010_644, (0, 0), 5).unwrap();

    assert_eq!(stat(&client, "file"), (0o104_755, 1000, 100, 0));
    assert_eq!(stat(&client, "dir"), (0o041_777, 1000, 101, 0));
    assert_eq!(stat(&client, "link").0, 0o120_777);
    assert_eq!(stat(&client, "tty"), (0o020_620, 1000, 5, 0x10_042c));
    assert_eq!(stat(&client, "fifo").0, 0o010_644);

    assert_eq!(attribute(&path("file"), "user.virtfs.uid").unwrap(), 1000_u32.to_le_bytes());
    assert_eq!(attribute(&path("file"), "user.virtfs.gid").unwrap(), 100_u32.to_le_bytes());
    assert_eq!(attribute(&path("file"), "user.virtfs.mode").unwrap(), 0o104_755_u32.to_le_bytes());
    assert_eq!(attribute(&path("tty"), "user.virtfs.rdev").unwrap(), libc::makedev(4, 300).to_le_bytes());
    assert_eq!(attribute(&path("link"), "user.virtfs.mode").unwrap(), 0o120_777_u32.to_le_bytes());
    for (name, mode) in [("file", 0o100_600), ("dir", 0o040_700), ("link", 0o100_600), ("tty", 0o100_600)] {
        let status = std::fs::symlink_metadata(path(name)).unwrap();
        assert_eq!(status.mode(), mode, "{name}");
        assert_eq!(status.uid(), rustix::process::geteuid().as_raw());
    }
    assert_eq!(std::fs::read(path("link")).unwrap(), b"../target");
    client.reach(Fid(3), "link").unwrap();
    assert_eq!(client.readlink(Fid(3)).unwrap(), b"../target");
    assert_eq!(client.open(Fid(3), 0).map(drop), Err(Errno::ELOOP));
    assert_eq!(client.walk(Fid(3), Fid(4), &[b"x"]), Err(Errno::ENOTDIR));
    client.reach(Fid(5), "fifo").unwrap();
    assert_eq!(client.open(Fid(5), OpenFlags::RDWR).map(drop), Err(Errno::ENXIO));
    assert_eq!(client.setattr(Fid(5), 0x8, |_| {}), Err(Errno::EINVAL));
    client.link(Fid(3), ROOT, b"link2").unwrap();
    assert_eq!(stat(&client, "link2").0, 0o120_777);
}

#[test]
fn files_of_qemu_are_shown_as_qemu_shows_them() {
    let Some((folder, client)) = serve_mapped(false) else { return };
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::setxattr(folder.path().join(name), format!("user.virtfs.{key}"), value, XattrFlags::empty())
            .unwrap();
    };
    for name in ["plain", "device", "link", "odd"] {
        std::fs::write(folder.path().join(name), "where/to").unwrap();
    }
    std::fs::create_dir(folder.path().join("dir")).unwrap();
    set("device", "uid", &7_u32.to_le_bytes());
    set("device", "mode", &0o060_660_u32.to_le_bytes());
    set("device", "rdev", &libc::makedev(8, 1).to_le_bytes());
    set("link", "mode", &0o120_777_u32.to_le_bytes());
    // What no server writes: wrong lengths, a directory that is none, a file that is a directory.
    set("odd", "uid", b"xx");
    set("odd", "mode", &0o040_755_u32.to_le_bytes());
    set("dir", "mode", &0o100_750_u32.to_le_bytes());

    let host = std::fs::metadata(folder.path().join("plain")).unwrap();
    assert_eq!(stat(&client, "plain"), (host.mode(), host.uid(), host.gid(), 0));
    assert_eq!(stat(&client, "device"), (0o060_660, 7, host.gid(), 0x801));
    assert_eq!((stat(&client, "odd").0, stat(&client, "odd").1), (0o100_755, host.uid()));
    assert_eq!(stat(&client, "dir").0, 0o040_750);
    client.reach(Fid(1), "link").unwrap();
    assert_eq!(client.readlink(Fid(1)).unwrap(), b"where/to");
    client.open_path(Fid(2), "", 0).unwrap();
    for entry in client.list(Fid(2), 4096).unwrap() {
        // A client that needs the type asks for the attributes.
        let expected = if matches!(entry.name.as_str(), "." | ".." | "dir") { libc::DT_DIR } else { libc::DT_UNKNOWN };
        assert_eq!(entry.kind, expected, "{}", entry.name);
    }
}

#[test]
fn a_stored_type_never_opens_what_the_host_has() {
    let Some((folder, client)) = serve_mapped(false) else { return };
    std::fs::write(folder.path().join("secret"), "x").unwrap();
    symlink("secret", folder.path().join("real_link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.path().join("real_fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert_eq!(stat(&client, "real_link").0 & 0o170_000, 0o120_000);
    client.reach(Fid(1), "real_link").unwrap();
    assert_eq!(client.readlink(Fid(1)).unwrap(), b"secret");
    client.reach(Fid(2), "real_fifo").unwrap();
    assert_eq!(client.open(Fid(2), OpenFlags::RDWR).map(drop), Err(Errno::ENXIO));
    // A link that is too long to be one.
    std::fs::write(folder.path().join("long"), vec![b'x'; 5000]).unwrap();
    let mode = 0o120_777_u32.to_le_bytes();
    rustix::fs::setxattr(folder.path().join("long"), "user.virtfs.mode", &mode, XattrFlags::empty()).unwrap();
    client.reach(Fid(3), "long").unwrap();
    assert_eq!(client.readlink(Fid(3)), Err(Errno::EIO));
}

#[test]
fn mapped_owners_and_modes_change_without_privileges() {
    let Some((folder, client)) = serve_mapped(false) else { return };
    client.create_in_root(Fid(1), "f", OpenFlags::RDWR).unwrap();
    client.setattr(Fid(1), 0x6, |change| (change.uid, change.gid) = (5, 6)).unwrap();
    client.setattr(Fid(1), 0x1, |change| change.mode = 0o2444).unwrap();
    assert_eq!(stat(&client, "f"), (0o102_444, 5, 6, 0));
    client.setattr(Fid(1), 0x2, |change| change.uid = 9).unwrap();
    assert_eq!(stat(&client, "f"), (0o102_444, 9, 6, 0));
    assert_eq!(std::fs::metadata(folder.path().join("f")).unwrap().mode(), 0o100_600);
    client.reach(Fid(2), "f").unwrap();
    client.open(Fid(2), OpenFlags::RDWR).unwrap();
    client.symlink(ROOT, b"l", b"x").unwrap();
    client.reach(Fid(3), "l").unwrap();
    client.setattr(Fid(3), 0x2, |change| change.uid = 77).unwrap();
    assert_eq!(stat(&client, "l").1, 77);
    assert_eq!(client.setattr(Fid(3), 0x1, |change| change.mode = 0o700), Err(Errno::EOPNOTSUPP));
}

#[test]
fn kept_links_are_links_of_the_host() {
    let Some((folder, client)) = serve_mapped(true) else { return };
    client.symlink(ROOT, b"l", b"some/where").unwrap();
    assert_eq!(std::fs::read_link(folder.path().join("l")).unwrap(), Path::new("some/where"));
    client.reach(Fid(1), "l").unwrap();
    assert_eq!(client.readlink(Fid(1)).unwrap(), b"some/where");
    assert_eq!(client.setattr(Fid(1), 0x6, |change| (change.uid, change.gid) = (5, 6)), Ok(()));
    client.create_in_root(Fid(2), "f", OpenFlags::RDWR).unwrap();
    client.setattr(Fid(2), 0x2, |change| change.uid = 5).unwrap();
    assert_eq!(stat(&client, "f").1, 5);
}

fn set_attribute(client: &Client, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    client.reach(Fid(80), "f").unwrap();
    client.xattrcreate(Fid(80), name, value.len().try_into().unwrap(), 0)?;
    client.write(Fid(80), 0, value)?;
    client.clunk(Fid(80))
}

fn get_attribute(client: &Client, name: &[u8]) -> Result<Vec<u8>, Errno> {
    client.reach(Fid(81), "f").unwrap();
    let found = client.xattrwalk(Fid(81), Fid(82), name).and_then(|size| {
        let value = client.read(Fid(82), 0, size.try_into().unwrap())?;
        client.clunk(Fid(82))?;
        Ok(value)
    });
    client.clunk(Fid(81)).unwrap();
    found
}

#[test]
fn the_servers_own_attributes_are_hidden_and_access_lists_moved() {
    let Some((folder, client)) = serve_mapped(false) else { return };
    client.create_in_root(Fid(1), "f", OpenFlags::RDWR).unwrap();
    client.setattr(Fid(1), 0x2, |change| change.uid = 5).unwrap();
    assert_eq!(get_attribute(&client, b"user.virtfs.uid"), Err(Errno::ENODATA));
    assert_eq!(set_attribute(&client, b"user.virtfs.uid", b"xxxx"), Err(Errno::EACCES));
    assert_eq!(set_attribute(&client, b"user.virtfs.", b""), Err(Errno::EACCES));
    assert_eq!(set_attribute(&client, b"user.mine", b"1"), Ok(()));
    assert_eq!(set_attribute(&client, b"system.posix_acl_access", b"a list"), Ok(()));
    assert_eq!(get_attribute(&client, b"system.posix_acl_access").unwrap(), b"a list");
    let file = folder.path().join("f");
    assert_eq!(attribute(&file, "user.virtfs.system.posix_acl_access").unwrap(), b"a list");
    assert_eq!(attribute(&file, "system.posix_acl_access"), None);
    let mut list: Vec<Vec<u8>> =
        get_attribute(&client, b"").unwrap().split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    list.retain(|name| !name.is_empty() && !name.starts_with(b"security."));
    list.sort();
    assert_eq!(list, [&b"system.posix_acl_access"[..], b"user.mine"]);
    assert_eq!(set_attribute(&client, b"system.posix_acl_access", b""), Ok(()));
    assert_eq!(get_attribute(&client, b"system.posix_acl_access"), Err(Errno::ENODATA));
}

#[test]
fn without_a_model_there_are_no_access_lists() {
    let (_folder, client) = serve(|options| options.security = Security::None);
    client.create_in_root(Fid(1), "f", OpenFlags::RDWR).unwrap();
    assert_eq!(get_attribute(&client, b"system.posix_acl_access"), Err(Errno::EOPNOTSUPP));
    assert_eq!(set_attribute(&client, b"system.posix_acl_default", b"x"), Err(Errno::EOPNOTSUPP));
}

#[test]
fn a_umask_takes_bits_from_everything_new() {
    let (folder, client) = serve(|options| options.umask = 0o027);
    let mode = |name: &str| std::fs::symlink_metadata(folder.path().join(name)).unwrap().mode() & 0o7777;
    client.walk(ROOT, Fid(1), &[]).unwrap();
    client.create(Fid(1), b"f", OpenFlags::RDWR, 0o4777).unwrap();
    client.mkdir(ROOT, b"d", 0o2777).unwrap();
    client.mknod(ROOT, b"p", 0o010_666, (0, 0), u32::MAX).unwrap();
    assert_eq!((mode("f"), mode("d"), mode("p")), (0o4750, 0o2750, 0o640));
    client.setattr(Fid(1), 0x1, |change| change.mode = 0o777).unwrap();
    assert_eq!(mode("f"), 0o777, "a change of mode is not masked");
}

#[test]
fn contradicting_options_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |choose: fn(&mut PassthroughOptions)| {
        let mut options = PassthroughOptions::default();
        choose(&mut options);
        Passthrough::new(folder.path(), options).err().map(|error| error.to_string())
    };
    assert!(refused(|options| options.umask = 0o1000).unwrap().contains("umask"));
    let both = refused(|options| (options.per_user, options.security) = (true, Security::MappedXattr));
    assert!(both.is_some());
    assert_eq!(refused(|options| options.per_user = true).is_none(), is_root());
}

/// Whether the tests that give files away can run.
fn privileged() -> bool {
    if !is_root() {
        eprintln!("skipped: only root gives files away");
    }
    is_root()
}

#[test]
fn ids_are_mapped_between_client_and_host() {
    if !privileged() {
        return;
    }
    let map = || vec![IdRange { client: 0, host: 100_000, count: 2000 }];
    let (folder, client) = serve(|options| (options.uid_map, options.gid_map) = (map(), map()));
    client.attach(Fid(1), 1000).unwrap();
    client.walk(Fid(1), Fid(2), &[]).unwrap();
    client.create_for(Fid(2), b"f", OpenFlags::RDWR, 0o644, 100).unwrap();
    let owner = || {
        let status = std::fs::metadata(folder.path().join("f")).unwrap();
        (status.uid(), status.gid())
    };
    assert_eq!(owner(), (101_000, 100_100));
    assert_eq!(stat(&client, "f"), (0o100_644, 1000, 100, 0));
    client.setattr(Fid(2), 0x6, |change| (change.uid, change.gid) = (1, 2)).unwrap();
    assert_eq!(owner(), (100_001, 100_002));
    assert_eq!(client.setattr(Fid(2), 0x2, |change| change.uid = 2000), Err(Errno::EINVAL));
    assert_eq!(client.mkdir_for(Fid(1), b"d", 0o755, 2000), Err(Errno::EOVERFLOW));
    assert!(!folder.path().join("d").exists());
    std::os::unix::fs::chown(folder.path().join("f"), Some(5), Some(5)).unwrap();
    assert_eq!(stat(&client, "f"), (0o100_644, 65_534, 65_534, 0));
}

#[test]
fn all_users_are_squashed_to_one() {
    if !privileged() {
        return;
    }
    let (folder, client) = serve(|options| options.squash = Some((3000, 3001)));
    client.attach(Fid(1), 1000).unwrap();
    client.mkdir_for(Fid(1), b"d", 0o755, 100).unwrap();
    client.symlink(Fid(1), b"l", b"x").unwrap();
    for name in ["d", "l"] {
        let status = std::fs::symlink_metadata(folder.path().join(name)).unwrap();
        assert_eq!((status.uid(), status.gid()), (3000, 3001), "{name}");
    }
    client.reach(Fid(2), "d").unwrap();
    assert_eq!(client.setattr(Fid(2), 0x2, |change| change.uid = 0), Err(Errno::EPERM));
    assert_eq!(client.setattr(Fid(2), 0x6, |change| (change.uid, change.gid) = (3000, 3001)), Ok(()));
}

#[test]
fn requests_act_as_the_user_that_attached() {
    if !privileged() {
        return;
    }
    let (folder, client) = serve(|options| options.per_user = true);
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("roots"), "secret").unwrap();
    std::fs::set_permissions(path("roots"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::create_dir(path("closed")).unwrap();
    std::fs::set_permissions(path("closed"), PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(path("closed/in"), "").unwrap();

    client.attach(Fid(1), 4321).unwrap();
    client.attach(Fid(2), 0).unwrap();
    client.walk(Fid(1), Fid(3), &[]).unwrap();
    client.create(Fid(3), b"mine", OpenFlags::RDWR, 0o600).unwrap();
    assert_eq!(std::fs::metadata(path("mine")).unwrap().uid(), 4321);
    client.mkdir(Fid(1), b"dir", 0o755).unwrap();
    assert_eq!(std::fs::metadata(path("dir")).unwrap().uid(), 4321);

    client.walk(Fid(1), Fid(4), &[b"roots"]).unwrap();
    assert_eq!(client.open(Fid(4), OpenFlags::RDONLY).map(drop), Err(Errno::EACCES));
    assert_eq!(client.setattr(Fid(4), 0x1, |change| change.mode = 0o777), Err(Errno::EPERM));
    assert_eq!(client.setattr(Fid(4), 0x2, |change| change.uid = 4321), Err(Errno::EPERM));
    assert_eq!(client.setattr(Fid(4), 0x8, |_| {}), Err(Errno::EACCES));
    assert_eq!(client.walk(Fid(1), Fid(5), &[b"closed", b"in"]).unwrap().len(), 1);
    client.walk(Fid(1), Fid(6), &[b"closed"]).unwrap();
    assert_eq!(client.mkdir(Fid(6), b"x", 0o755), Err(Errno::EACCES));
    assert_eq!(client.unlinkat(Fid(6), b"in", 0), Err(Errno::EACCES));
    assert_eq!(client.renameat(Fid(6), b"in", Fid(1), b"out"), Err(Errno::EACCES));
    assert_eq!(client.mknod(Fid(1), b"dev", 0o020_666, (1, 3), u32::MAX), Err(Errno::EPERM));

    // Root is root, through the same server and on the same thread.
    client.walk(Fid(2), Fid(7), &[b"closed", b"in"]).unwrap();
    client.open(Fid(7), OpenFlags::RDWR).unwrap();
    client.mknod(Fid(2), b"dev", 0o020_666, (1, 3), u32::MAX).unwrap();
    assert!(std::fs::symlink_metadata(path("dev")).unwrap().file_type().is_char_device());
    client.walk(Fid(2), Fid(8), &[b"mine"]).unwrap();
    client.open(Fid(8), OpenFlags::RDWR).unwrap();

    // Who is nobody in particular is nobody.
    client.attach(Fid(9), NONUNAME).unwrap();
    client.mkdir(Fid(9), b"nobodys", 0o755).unwrap();
    assert_eq!(std::fs::metadata(path("nobodys")).unwrap().uid(), 65_534);

    // A write by a user takes the set-user-id bit.
    client.walk(Fid(1), Fid(10), &[]).unwrap();
    client.create(Fid(10), b"suid", OpenFlags::RDWR, 0o755).unwrap();
    client.setattr(Fid(10), 0x1, |change| change.mode = 0o4755).unwrap();
    client.write(Fid(10), 0, b"x").unwrap();
    assert_eq!(std::fs::metadata(path("suid")).unwrap().mode(), 0o100_755);

    // The thread is itself again.
    std::fs::write(path("closed/again"), "").unwrap();
    assert_eq!(std::fs::metadata(path("closed/again")).unwrap().uid(), 0);
}

#[test]
fn the_groups_of_a_user_count() {
    if !privileged() {
        return;
    }
    // A user that every host has: `daemon` is user and group 1.
    let (folder, client) = serve(|options| options.per_user = true);
    let file = folder.path().join("for_group");
    std::fs::write(&file, "x").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o040)).unwrap();
    std::os::unix::fs::chown(&file, Some(0), Some(1)).unwrap();
    client.attach(Fid(1), 1).unwrap();
    client.walk(Fid(1), Fid(2), &[b"for_group"]).unwrap();
    client.open(Fid(2), OpenFlags::RDONLY).unwrap();
    client.mkdir_for(Fid(1), b"d", 0o755, 0).unwrap();
    let status = std::fs::metadata(folder.path().join("d")).unwrap();
    assert_eq!((status.uid(), status.gid()), (1, 1), "a group that the user is not in is not given");
}

#[test]
fn acting_as_a_user_is_per_thread() {
    if !privileged() {
        return;
    }
    let (folder, client) = serve(|options| options.per_user = true);
    std::thread::scope(|scope| {
        for uid in [2001, 2002] {
            let (client, folder) = (&client, &folder);
            scope.spawn(move || {
                let root = Fid(uid);
                client.attach(root, uid).unwrap();
                for round in 0..100 {
                    let name = format!("{uid}-{round}");
                    client.mkdir(root, name.as_bytes(), 0o755).unwrap();
                    assert_eq!(std::fs::metadata(folder.path().join(name)).unwrap().uid(), uid);
                }
            });
        }
    });
}
