//! In 9P2000 and 9P2000.u files are opened and made by one request of their own, with modes of their own.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use crate::client::legacy::{connect_in, connect_in_with};
use crate::client::{Client, ROOT, exchange, frame, is_root};
use virtio_9p::wire::{
    AttrMask, Dialect, Fid, Message, NONUNAME, OpenMode, Perm, QidType, Rerror, Tauth, Tclunk, Tflush, Tgetattr, Tstat,
};
use virtio_9p::{Errno, Options, PassthroughOptions};

const OLD: [Dialect; 2] = [Dialect::Plan9, Dialect::Unix];
const FILE: Fid = Fid(1);

fn fresh(dialect: Dialect) -> (tempfile::TempDir, Client) {
    rustix::process::umask(rustix::fs::Mode::empty());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("f"), "content").unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    let client = connect_in(folder.path(), dialect);
    (folder, client)
}

fn mode_of(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode()
}

#[test]
fn each_dialect_refuses_the_requests_of_the_others() {
    for dialect in OLD {
        let (_folder, client) = fresh(dialect);
        let getattr = Tgetattr { fid: ROOT, request_mask: AttrMask::ALL };
        assert_eq!(client.call(&getattr), Err(Errno::EOPNOTSUPP));
        assert_eq!(client.open(ROOT, 0).map(drop), Err(Errno::EOPNOTSUPP));
        assert_eq!(client.readdir(ROOT, 0, 100), Err(Errno::EOPNOTSUPP));
        let n_uname = dialect.has_unix_fields().then_some(0);
        assert_eq!(client.call(&Tauth { afid: FILE, uname: b"u", aname: b"", n_uname }), Err(Errno::ENOENT));
        assert_eq!(client.call(&Tflush { oldtag: virtio_9p::wire::Tag(3) }).unwrap().len(), 7);
    }
    let (_folder, client) = crate::client::connect_fresh();
    assert_eq!(client.call(&Tstat { fid: ROOT }), Err(Errno::EOPNOTSUPP));
    assert_eq!(client.open_old(ROOT, 0).map(drop), Err(Errno::EOPNOTSUPP));
}

#[test]
fn errors_are_words_cut_to_the_room() {
    for (dialect, errno) in [(Dialect::Plan9, None), (Dialect::Unix, Some(9))] {
        let (_folder, client) = fresh(dialect);
        let reply = |room| exchange(&client.server, &frame(&Tclunk { fid: FILE }, &[]), room, client.cut);
        for (room, words) in [(13, ""), (16, "Bad"), (200, "Bad file descriptor")] {
            let reply = reply(room).unwrap();
            assert_eq!(Rerror::parse(&reply).unwrap().1, Rerror { ename: words.as_bytes(), errno });
        }
        assert_eq!(reply(12), None);
    }
}

#[test]
fn files_are_opened_by_their_modes() {
    for dialect in OLD {
        let (folder, client) = fresh(dialect);
        let path = folder.path().join("f");
        let open = |mode| client.open_old_path(FILE, "f", mode);
        open(OpenMode::READ).unwrap();
        assert_eq!(client.read(FILE, 3, 100).unwrap(), b"tent");
        assert_eq!(client.write(FILE, 0, b"x"), Err(Errno::EBADF));
        assert_eq!(client.open_old(FILE, OpenMode::READ).map(drop), Err(Errno::EINVAL));
        client.clunk(FILE).unwrap();

        open(OpenMode::WRITE | OpenMode::CEXEC).unwrap();
        assert_eq!(client.read(FILE, 0, 100), Err(Errno::EBADF));
        assert_eq!(client.write(FILE, 7, b"s"), Ok(1));
        client.clunk(FILE).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"contents");

        open(OpenMode::RDWR | OpenMode::TRUNC).unwrap();
        assert_eq!(client.write(FILE, 0, b"new"), Ok(3));
        assert_eq!(client.read(FILE, 0, 100).unwrap(), b"new");
        client.clunk(FILE).unwrap();

        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(open(OpenMode::EXEC), Err(Errno::EACCES));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        open(OpenMode::EXEC).unwrap();
        assert_eq!(client.read(FILE, 0, 100).unwrap(), b"new");
        client.clunk(FILE).unwrap();

        let appended = open(OpenMode::WRITE | OpenMode::APPEND);
        if dialect == Dialect::Plan9 {
            assert_eq!(appended, Err(Errno::EINVAL));
        } else {
            assert_eq!(client.write(FILE, 0, b"er"), Ok(2));
            assert_eq!(std::fs::read(&path).unwrap(), b"newer");
        }
    }
}

#[test]
fn directories_are_opened_for_reading_alone() {
    for dialect in OLD {
        let (_folder, client) = fresh(dialect);
        for mode in [OpenMode::WRITE, OpenMode::RDWR, OpenMode::TRUNC, OpenMode::RCLOSE] {
            assert_eq!(client.open_old_path(FILE, "d", mode), Err(Errno::EISDIR), "mode {mode:x}");
        }
        client.open_old_path(FILE, "d", OpenMode::READ).unwrap();
        assert_eq!(client.write(FILE, 0, b"x"), Err(Errno::EBADF));
    }
}

#[test]
fn a_file_goes_with_the_fid_that_was_opened_to_remove_it() {
    for dialect in OLD {
        let (folder, client) = fresh(dialect);
        let there = || folder.path().join("f").exists();
        let open = || client.open_old_path(FILE, "f", OpenMode::RDWR | OpenMode::RCLOSE).unwrap();
        open();
        assert!(there());
        client.clunk(FILE).unwrap();
        assert!(!there());
        client.create_old_in_root(FILE, "f", 0o644, OpenMode::RDWR | OpenMode::RCLOSE).unwrap();
        assert!(there());
        client.version(8192);
        assert!(!there());
        client.attach(ROOT, NONUNAME).unwrap();
        client.create_old_in_root(FILE, "f", 0o644, OpenMode::WRITE | OpenMode::RCLOSE).unwrap();
        drop(client);
        assert!(!there());
    }
}

#[test]
fn new_files_take_what_their_directory_allows_in_9p2000() {
    for (dialect, file, folder_mode) in [(Dialect::Plan9, 0o640, 0o750), (Dialect::Unix, 0o666, 0o777)] {
        let (folder, client) = fresh(dialect);
        let dir = folder.path().join("d");
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o750)).unwrap();
        client.reach(FILE, "d").unwrap();
        let made = client.create_old(FILE, b"new", 0o666, OpenMode::RDWR).unwrap();
        assert_eq!(made.qid.kind, QidType::FILE);
        assert_eq!(made.qid.path, std::fs::metadata(dir.join("new")).unwrap().ino());
        assert!(made.iounit >= 4096);
        assert_eq!(client.write(FILE, 0, b"abc"), Ok(3));
        assert_eq!(client.read(FILE, 1, 9).unwrap(), b"bc");
        client.clunk(FILE).unwrap();
        assert_eq!(mode_of(&dir.join("new")), 0o100_000 | file);

        client.reach(FILE, "d").unwrap();
        let made = client.create_old(FILE, b"sub", Perm::DIRECTORY | 0o777, OpenMode::READ).unwrap();
        assert_eq!(made.qid.kind, QidType::DIRECTORY);
        assert_eq!(client.all_records(FILE, 1000).unwrap(), []);
        client.clunk(FILE).unwrap();
        assert_eq!(mode_of(&dir.join("sub")), 0o040_000 | folder_mode);
    }
}

#[test]
fn what_exists_cannot_be_created_and_names_are_checked() {
    for dialect in OLD {
        let (folder, client) = fresh(dialect);
        let create = |name: &[u8], perm, mode| {
            client.walk(ROOT, FILE, &[]).unwrap();
            let result = client.create_old(FILE, name, perm, mode).map(drop);
            client.clunk(FILE).unwrap();
            result
        };
        for perm in [0o644, Perm::DIRECTORY | 0o755] {
            for name in [&b"f"[..], b"d", b".", b".."] {
                assert_eq!(create(name, perm, OpenMode::READ), Err(Errno::EEXIST));
            }
            for name in [&b""[..], b"a/b", b"/", b"a\0b"] {
                assert_eq!(create(name, perm, OpenMode::READ), Err(Errno::EINVAL));
            }
            assert_eq!(create(&[b'x'; 256], perm, OpenMode::READ), Err(Errno::ENAMETOOLONG));
        }
        assert_eq!(create(b"n", Perm::DIRECTORY | 0o755, OpenMode::WRITE), Err(Errno::EISDIR));
        assert_eq!(create(b"n", Perm::DIRECTORY | 0o755, OpenMode::RCLOSE), Err(Errno::EISDIR));
        for refused in [Perm::APPEND, Perm::EXCLUSIVE, 0x1000_0000, 0x0800_0000] {
            assert_eq!(create(b"n", refused | 0o644, OpenMode::READ), Err(Errno::EOPNOTSUPP));
        }
        client.reach(FILE, "f").unwrap();
        assert_eq!(client.create_old(FILE, b"n", 0o644, OpenMode::READ).map(drop), Err(Errno::ENOTDIR));
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }
}

#[test]
fn links_and_special_files_are_made_in_9p2000_u() {
    let (folder, client) = fresh(Dialect::Unix);
    let make = |name: &str, perm, extension: &[u8]| {
        client.walk(ROOT, FILE, &[]).unwrap();
        let made = client.create_special(FILE, name.as_bytes(), perm, OpenMode::READ, extension);
        let found = made.is_ok().then(|| client.stat(FILE).unwrap());
        client.clunk(FILE).unwrap();
        made.map(|_| found.unwrap())
    };
    let path = |name: &str| folder.path().join(name);

    let link = make("l", Perm::SYMLINK | 0o777, b"some/where").unwrap();
    assert_eq!(std::fs::read_link(path("l")).unwrap(), Path::new("some/where"));
    assert_eq!((link.mode, link.qid.kind), (Perm::SYMLINK | 0o777, QidType::SYMLINK));
    assert_eq!(link.unix.unwrap().0, "some/where");
    assert_eq!(client.open_old_path(FILE, "l", OpenMode::READ), Err(Errno::ELOOP));

    client.reach(Fid(77), "f").unwrap();
    let hard = make("h", Perm::LINK, b"77\n").unwrap();
    assert_eq!(std::fs::metadata(path("f")).unwrap().nlink(), 2);
    assert_eq!(hard.unix.unwrap().0, "HARDLINKCOUNT 2");

    let fifo = make("p", Perm::FIFO | 0o600, b"").unwrap();
    assert!(std::fs::metadata(path("p")).unwrap().file_type().is_fifo());
    assert_eq!(fifo.mode, Perm::FIFO | 0o600);
    assert_eq!(client.open_old_path(FILE, "p", OpenMode::READ), Err(Errno::ENXIO));
    make("s", Perm::SOCKET | 0o600, b"").unwrap();
    assert!(std::fs::metadata(path("s")).unwrap().file_type().is_socket());
    if is_root() {
        let device = make("c", Perm::DEVICE | 0o600, b"c 1 3").unwrap();
        assert_eq!(std::fs::metadata(path("c")).unwrap().rdev(), rustix::fs::makedev(1, 3));
        assert_eq!((device.mode, device.unix.unwrap().0), (Perm::DEVICE | 0o600, "c 1 3".into()));
        assert_eq!(client.open_old_path(FILE, "c", OpenMode::READ), Err(Errno::ENXIO));
    }

    for (perm, extension, error) in [
        (Perm::SYMLINK, &b""[..], Errno::ENOENT),
        (Perm::SYMLINK, b"a\0b", Errno::EINVAL),
        (Perm::LINK, b"", Errno::EINVAL),
        (Perm::LINK, b"x", Errno::EINVAL),
        (Perm::LINK, b"99", Errno::EBADF),
        (Perm::DEVICE, b"c 1", Errno::EINVAL),
        (Perm::DEVICE, b"x 1 2", Errno::EINVAL),
        (Perm::FIFO | Perm::SOCKET, b"", Errno::EINVAL),
        (Perm::DIRECTORY | Perm::SYMLINK, b"t", Errno::EINVAL),
    ] {
        assert_eq!(make("n", perm | 0o644, extension).map(drop), Err(error));
    }
    assert!(!path("n").exists());
    let set = make("u", Perm::SETUID | Perm::SETGID | Perm::STICKY | 0o755, b"").unwrap();
    assert_eq!(mode_of(&path("u")) & 0o7777, 0o7755);
    assert_eq!(set.mode, Perm::SETUID | Perm::SETGID | Perm::STICKY | 0o755);

    // In 9P2000 there are no such files.
    let client = connect_in(folder.path(), Dialect::Plan9);
    for perm in [Perm::SYMLINK, Perm::LINK, Perm::DEVICE, Perm::FIFO, Perm::SOCKET, Perm::SETUID] {
        assert_eq!(client.create_old_in_root(FILE, "n", perm, OpenMode::READ), Err(Errno::EOPNOTSUPP));
    }
    assert_eq!(client.stat_path("l").unwrap().mode, 0o777);
    assert_eq!(client.open_old_path(FILE, "l", OpenMode::READ), Err(Errno::ELOOP));
}

#[test]
fn a_name_in_decimal_is_the_user() {
    if !is_root() {
        eprintln!("skipped: only root gives files away");
        return;
    }
    for (dialect, owner) in [(Dialect::Plan9, 1234), (Dialect::Unix, 0)] {
        let (folder, client) = fresh(dialect);
        client.attach_by_name(Fid(5), b"1234").unwrap();
        client.create_old(Fid(5), b"mine", 0o644, OpenMode::WRITE).unwrap();
        // In 9P2000.u the number counts, and it is none.
        assert_eq!(std::fs::metadata(folder.path().join("mine")).unwrap().uid(), owner);
        client.attach_by_name(Fid(6), b"glenda").unwrap();
        client.create_old(Fid(6), b"hers", 0o644, OpenMode::WRITE).unwrap();
        assert_eq!(std::fs::metadata(folder.path().join("hers")).unwrap().uid(), 0);
    }
}

#[test]
fn a_readonly_server_changes_nothing() {
    for dialect in OLD {
        let (folder, _client) = fresh(dialect);
        let mut options = Options::default();
        options.readonly = true;
        let client = connect_in_with(folder.path(), dialect, options, PassthroughOptions::default());
        let denied = Err(Errno::EROFS);
        for mode in [OpenMode::WRITE, OpenMode::RDWR, OpenMode::TRUNC, OpenMode::RCLOSE] {
            assert_eq!(client.open_old_path(FILE, "f", mode), denied);
        }
        assert_eq!(client.create_old_in_root(FILE, "n", 0o644, OpenMode::READ), denied);
        assert_eq!(client.create_old_in_root(FILE, "n", Perm::DIRECTORY | 0o755, OpenMode::READ), denied);
        client.reach(FILE, "f").unwrap();
        assert_eq!(client.wstat(FILE, |stat| stat.length = 0), denied);
        assert_eq!(client.wstat(FILE, |stat| stat.name = b"n"), denied);
        assert_eq!(client.remove(FILE), denied);
        client.open_old_path(FILE, "f", OpenMode::READ).unwrap();
        assert_eq!(client.read(FILE, 0, 9).unwrap(), b"content");
    }
}

#[test]
fn files_and_directories_are_removed() {
    for dialect in OLD {
        let (folder, client) = fresh(dialect);
        std::fs::write(folder.path().join("d/x"), "").unwrap();
        let remove = |path| {
            client.reach(FILE, path).unwrap();
            let result = client.remove(FILE);
            assert_eq!(client.clunk(FILE), Err(Errno::EBADF));
            result
        };
        assert_eq!(remove("d"), Err(Errno::ENOTEMPTY));
        assert_eq!(remove(""), Err(Errno::EBUSY));
        remove("d/x").unwrap();
        remove("d").unwrap();
        remove("f").unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
