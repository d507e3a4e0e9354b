//! What the server keeps from one request for the next never stands for what the host has put in its place, and a file that
//! was clunked is not open any more.

use std::os::unix::fs::symlink;

use crate::client::{Client, ROOT, connect, connect_fresh};
use virtio_9p::wire::{Fid, NONUNAME, OpenFlags};
use virtio_9p::{Errno, Options, Passthrough, PassthroughOptions, Server};

#[test]
fn a_directory_in_the_place_of_another_is_the_one_that_is_reached() {
    let (folder, client) = connect_fresh();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(path("d/sub")).unwrap();
    std::fs::write(path("d/sub/f"), "one").unwrap();
    let size = || {
        client.reach(Fid(1), "d/sub/f")?;
        let size = client.getattr(Fid(1))?.size;
        client.clunk(Fid(1)).map(|()| size)
    };
    for _ in 0..3 {
        assert_eq!(size(), Ok(3));
    }

    std::fs::rename(path("d"), path("e")).unwrap();
    assert_eq!(client.walk(ROOT, Fid(1), &[b"d", b"sub"]), Err(Errno::ENOENT));
    std::fs::create_dir_all(path("d/sub")).unwrap();
    std::fs::write(path("d/sub/f"), "other").unwrap();
    assert_eq!(size(), Ok(5));
    assert_eq!(size(), Ok(5));

    // The inner one alone, by a rename over it, while nothing of the outer one changes but its content.
    std::fs::rename(path("d/sub"), path("gone")).unwrap();
    std::fs::rename(path("e/sub"), path("d/sub")).unwrap();
    assert_eq!(size(), Ok(3));

    // A link is no way, whatever was there before.
    std::fs::rename(path("d"), path("e2")).unwrap();
    symlink("e2", path("d")).unwrap();
    assert_eq!(client.walk(ROOT, Fid(1), &[b"d", b"sub"]).map(|qids| qids.len()), Ok(1));
    std::fs::remove_file(path("d")).unwrap();
    std::fs::write(path("d"), "file").unwrap();
    assert_eq!(client.walk(ROOT, Fid(1), &[b"d", b"sub"]).map(|qids| qids.len()), Ok(1));
}

#[test]
fn a_directory_that_comes_back_can_be_walked_through() {
    let (folder, client) = connect_fresh();
    for round in 0..3 {
        client.mkdir(ROOT, b"d", 0o755).unwrap();
        std::fs::write(folder.path().join("d/f"), vec![0; round]).unwrap();
        client.reach(Fid(1), "d/f").unwrap();
        assert_eq!(client.getattr(Fid(1)).unwrap().size, u64::try_from(round).unwrap());
        client.clunk(Fid(1)).unwrap();
        std::fs::remove_file(folder.path().join("d/f")).unwrap();
        client.unlinkat(ROOT, b"d", 0x200).unwrap();
        assert_eq!(client.walk(ROOT, Fid(1), &[b"d"]), Err(Errno::ENOENT));
    }
}

/// How many descriptors of this process can write to `path`.
fn writers(path: &std::path::Path) -> usize {
    const ACCESS_MODE: u32 = 3;
    const O_PATH: u32 = 0o10_000_000;
    let names = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let open = names.filter(|link| std::fs::read_link(link).is_ok_and(|target| target == path));
    open.filter(|link| {
        let number = link.file_name().unwrap().to_str().unwrap();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
        flags & O_PATH == 0 && flags & ACCESS_MODE != 0
    })
    .count()
}

#[test]
fn a_created_file_is_closed_when_its_fid_goes_though_another_fid_knows_it() {
    let (folder, client) = connect_fresh();
    let path = folder.path().canonicalize().unwrap().join("new");
    client.create_in_root(Fid(1), "new", OpenFlags::RDWR).unwrap();
    client.write(Fid(1), 0, b"text").unwrap();
    client.walk(Fid(1), Fid(2), &[]).unwrap();
    assert_eq!(writers(&path), 1);
    client.clunk(Fid(1)).unwrap();
    assert_eq!(writers(&path), 0);

    // The other fid is as good as before.
    assert_eq!(client.getattr(Fid(2)).unwrap().size, 4);
    client.setattr(Fid(2), 0x1, |change| change.mode = 0o600).unwrap();
    client.open(Fid(2), OpenFlags::RDWR).unwrap();
    assert_eq!(client.read(Fid(2), 0, 10).unwrap(), b"text");
    assert_eq!(client.write(Fid(2), 4, b"more"), Ok(4));
    client.remove(Fid(2)).unwrap();
    assert_eq!((writers(&path), path.exists()), (0, false));
}

#[test]
fn no_descriptor_is_left_when_the_last_session_of_a_folder_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    std::fs::create_dir_all(path.join("a/b")).unwrap();
    let open = || {
        let names = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
        names.filter(|link| std::fs::read_link(link).is_ok_and(|target| target.starts_with(&path))).count()
    };
    let files = Passthrough::new(&path, PassthroughOptions::default()).unwrap();
    let other = Client::new(Server::new(files.for_another_session(), Options::default()));
    let one = Client::new(Server::new(files, Options::default()));
    for client in [&one, &other] {
        client.version(1 << 20);
        client.attach(ROOT, NONUNAME).unwrap();
        client.reach(Fid(1), "a/b").unwrap();
    }
    drop(one);
    assert!(open() > 0);
    assert_eq!(other.getattr(Fid(1)).unwrap().mode & 0o170_000, 0o040_000);
    drop(other);
    assert_eq!(open(), 0);
}

#[test]
fn a_file_is_removed_by_its_fid_wherever_the_folder_has_been_moved() {
    let base = tempfile::tempdir().unwrap();
    let path = |name: &str| base.path().join(name);
    std::fs::create_dir_all(path("share/d")).unwrap();
    for name in ["one", "two", "three"] {
        std::fs::write(path("share/d").join(name), name).unwrap();
    }
    let client = connect(&path("share"));
    client.reach(Fid(1), "d/one").unwrap();
    client.remove(Fid(1)).unwrap();

    std::fs::rename(path("share"), path("moved")).unwrap();
    client.reach(Fid(1), "d/two").unwrap();
    client.remove(Fid(1)).unwrap();
    assert!(!path("moved/d/two").exists());

    // To below its old place, where another file has the path that the removed one had.
    std::fs::create_dir_all(path("moved/d")).unwrap();
    std::fs::rename(path("moved"), path("aside")).unwrap();
    std::fs::create_dir_all(path("moved/d")).unwrap();
    std::fs::write(path("moved/d/three"), "another").unwrap();
    std::fs::rename(path("aside"), path("moved/inner")).unwrap();
    client.reach(Fid(1), "d/three").unwrap();
    client.remove(Fid(1)).unwrap();
    assert!(path("moved/d/three").exists());
    assert!(!path("moved/inner/d/three").exists());
}
