//! Sessions begin with a version and end with a reset; fids follow the protocol's rules and the server's limits.

use crate::client::{Client, ROOT, connect_fresh, connect_with, exchange, frame};
use virtio_9p::wire::{
    Fid, Message, MessageType, NOFID, NONUNAME, OpenFlags, Rlerror, Rversion, Tag, Tattach, Tauth, Tclunk, Tflush,
    Tstatfs, Tversion, UNLINK_DIRECTORY,
};
use virtio_9p::{Errno, Options, Passthrough, PassthroughOptions, Server};

fn bare() -> (tempfile::TempDir, Client) {
    let folder = tempfile::tempdir().unwrap();
    let files = Passthrough::new(folder.path(), PassthroughOptions::default()).unwrap();
    (folder, Client::new(Server::new(files, Options::default())))
}

fn offer(client: &Client, msize: u32, version: &[u8]) -> Result<(u32, Vec<u8>), Errno> {
    let reply = client.call(&Tversion { msize, version })?;
    let (_, answer) = Rversion::parse(&reply).unwrap();
    Ok((answer.msize, answer.version.to_vec()))
}

#[test]
fn nothing_works_before_a_version() {
    let (_folder, client) = bare();
    assert_eq!(client.attach(ROOT, NONUNAME), Err(Errno::EPROTO));
    assert_eq!(offer(&client, 8192, b"9P1999.L"), Ok((8192, b"unknown".to_vec())));
    assert_eq!(client.attach(ROOT, NONUNAME), Err(Errno::EPROTO));
    client.version(8192);
    assert!(client.attach(ROOT, NONUNAME).is_ok());
}

#[test]
fn msize_is_the_lesser_and_at_least_a_page() {
    let (_folder, client) = bare();
    assert_eq!(client.version(512_000), 512_000);
    assert_eq!(client.version(u32::MAX), 1 << 20);
    assert_eq!(client.version(4096), 4096);
    assert_eq!(offer(&client, 4095, b"9P2000.L"), Err(Errno::EMSGSIZE));
    assert_eq!(offer(&client, 8192, b"9P2000.L.x"), Ok((8192, b"9P2000.L".to_vec())));
}

#[test]
fn a_client_gets_the_dialect_it_asks_for_or_an_older_one() {
    let (_folder, client) = bare();
    for (asked, got) in [
        (&b"9P2000.L"[..], &b"9P2000.L"[..]),
        (b"9P2000.u", b"9P2000.u"),
        (b"9P2000.x", b"9P2000"),
        (b"9P2002", b"9P2000"),
        (b"9P2000", b"9P2000"),
        (b"8P2000", b"unknown"),
    ] {
        assert_eq!(offer(&client, 8192, asked), Ok((8192, got.to_vec())));
    }
}

#[test]
fn a_version_and_a_reset_drop_every_fid() {
    let (_folder, client) = connect_fresh();
    for fid in [1, 2, 70_000, 0xffff_fffe] {
        client.walk(ROOT, Fid(fid), &[]).unwrap();
    }
    assert_eq!(client.server.fid_count(), 5);
    client.version(8192);
    assert_eq!(client.server.fid_count(), 0);
    assert_eq!(client.clunk(Fid(1)), Err(Errno::EBADF));
    client.attach(ROOT, NONUNAME).unwrap();
    client.server.reset();
    assert_eq!(client.server.fid_count(), 0);
    assert_eq!(client.attach(ROOT, NONUNAME), Err(Errno::EPROTO));
}

#[test]
fn fids_are_unique_and_never_nofid() {
    let (_folder, client) = connect_fresh();
    assert_eq!(client.attach(ROOT, NONUNAME), Err(Errno::EINVAL));
    client.walk(ROOT, Fid(1), &[]).unwrap();
    assert_eq!(client.walk(ROOT, Fid(1), &[]), Err(Errno::EINVAL));
    assert_eq!(client.walk(ROOT, NOFID, &[]), Err(Errno::EINVAL));
    assert_eq!(client.walk(Fid(9), Fid(2), &[]), Err(Errno::EBADF));
    assert_eq!(client.attach(NOFID, NONUNAME), Err(Errno::EINVAL));
    client.clunk(Fid(1)).unwrap();
    assert_eq!(client.clunk(Fid(1)), Err(Errno::EBADF));
    client.walk(ROOT, Fid(1), &[]).unwrap();
}

#[test]
fn the_number_of_fids_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.max_fids = 3;
    let client = connect_with(folder.path(), options, PassthroughOptions::default());
    client.walk(ROOT, Fid(1), &[]).unwrap();
    client.walk(ROOT, Fid(100_000), &[]).unwrap();
    assert_eq!(client.walk(ROOT, Fid(3), &[]), Err(Errno::ENFILE));
    assert_eq!(client.attach(Fid(3), 0), Err(Errno::ENFILE));
    client.clunk(Fid(100_000)).unwrap();
    client.walk(ROOT, Fid(3), &[]).unwrap();
    assert_eq!(client.server.fid_count(), 3);
}

#[test]
fn a_walk_may_clone_replace_stop_early_and_go_up() {
    let (folder, client) = connect_fresh();
    std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
    let root = client.walk(ROOT, Fid(1), &[b"a", b".."]).unwrap()[1];
    let a = client.walk(ROOT, Fid(2), &[b"a"]).unwrap()[0];
    assert_eq!(client.getattr(Fid(1)).unwrap().qid.path, root.path);

    // Fewer qids than names: no fid is made.
    assert_eq!(client.walk(ROOT, Fid(3), &[b"a", b"none", b"b"]).unwrap().len(), 1);
    assert_eq!(client.clunk(Fid(3)), Err(Errno::EBADF));
    assert_eq!(client.walk(ROOT, Fid(3), &[b"none", b"a"]), Err(Errno::ENOENT));
    assert_eq!(client.walk(Fid(2), Fid(2), &[b"b", b"none"]).unwrap().len(), 1);
    assert_eq!(client.getattr(Fid(2)).unwrap().qid.path, a.path);

    let b = client.walk(Fid(2), Fid(2), &[b"b"]).unwrap()[0];
    assert_eq!(client.getattr(Fid(2)).unwrap().qid.path, b.path);
    let up = client.walk(Fid(2), Fid(4), &[b"..", b"..", b"..", b"..", b"a"]).unwrap();
    let paths: Vec<u64> = up.iter().map(|qid| qid.path).collect();
    assert_eq!(paths, [a.path, root.path, root.path, root.path, a.path]);
    assert_eq!(client.server.fid_count(), 4);
}

#[test]
fn an_open_fid_can_be_walked_from_but_not_onto_itself() {
    let (folder, client) = connect_fresh();
    std::fs::write(folder.path().join("f"), "x").unwrap();
    client.open_path(Fid(1), "f", 0).unwrap();
    client.walk(Fid(1), Fid(2), &[]).unwrap();
    assert_eq!(client.walk(Fid(1), Fid(1), &[]), Err(Errno::EINVAL));
    assert_eq!(client.open(Fid(1), 0), Err(Errno::EINVAL));
    assert_eq!(client.walk(Fid(1), Fid(3), &[b"x"]), Err(Errno::ENOTDIR));
    assert_eq!(client.walk(Fid(1), Fid(3), &[b".."]), Err(Errno::ENOTDIR));
}

#[test]
fn auth_flush_and_unknown_messages_are_answered() {
    let (_folder, client) = connect_fresh();
    let auth = Tauth { afid: Fid(5), uname: b"", aname: b"", n_uname: Some(0) };
    assert_eq!(client.call(&auth), Err(Errno::ENOENT), "no authentication is needed");
    let attach = Tattach { fid: Fid(6), afid: Fid(5), uname: b"", aname: b"", n_uname: Some(0) };
    assert_eq!(client.call(&attach), Err(Errno::EBADF));
    assert_eq!(client.call(&Tflush { oldtag: Tag(99) }).unwrap().len(), 7);
    for kind in [0_u8, 6, 7, 10, 13, 98, 106, 107, 112, 126, 255] {
        let reply = exchange(&client.server, &[7, 0, 0, 0, kind, 1, 2], 64, client.cut).unwrap();
        let error = Rlerror { ecode: Errno::EOPNOTSUPP.raw() };
        assert_eq!(Rlerror::parse(&reply), Ok((Tag(0x201), error)), "type {kind}");
    }
}

#[test]
fn a_readonly_server_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("f"), "old").unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    let mut options = Options::default();
    options.readonly = true;
    let client = connect_with(folder.path(), options, PassthroughOptions::default());
    client.reach(Fid(1), "f").unwrap();
    client.walk(ROOT, Fid(2), &[]).unwrap();

    let denied = Err(Errno::EROFS);
    for flags in [OpenFlags::WRONLY, OpenFlags::RDWR, OpenFlags::TRUNC] {
        assert_eq!(client.open(Fid(1), flags).map(drop), denied);
    }
    assert_eq!(client.create(Fid(2), b"n", OpenFlags::RDWR, 0o644).map(drop), denied);
    assert_eq!(client.mkdir(ROOT, b"n", 0o755).map(drop), denied);
    assert_eq!(client.symlink(ROOT, b"n", b"t").map(drop), denied);
    assert_eq!(client.link(Fid(1), ROOT, b"n"), denied);
    assert_eq!(client.renameat(ROOT, b"f", ROOT, b"n"), denied);
    assert_eq!(client.rename(Fid(1), ROOT, b"n"), denied);
    assert_eq!(client.unlinkat(ROOT, b"f", 0), denied);
    assert_eq!(client.unlinkat(ROOT, b"d", UNLINK_DIRECTORY), denied);
    assert_eq!(client.setattr(Fid(1), 0x1, |change| change.mode = 0), denied);
    assert_eq!(client.xattrcreate(Fid(1), b"user.a", 1, 0), denied);
    assert_eq!(client.remove(Fid(2)), denied);

    client.open(Fid(1), OpenFlags::RDONLY).unwrap();
    assert_eq!(client.write(Fid(1), 0, b"new"), Err(Errno::EROFS));
    assert_eq!(client.read(Fid(1), 0, 100).unwrap(), b"old");
    let mut names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["d", "f"]);
}

#[test]
fn stats_count_requests_errors_and_bytes() {
    let (_folder, client) = connect_fresh();
    client.create_in_root(Fid(1), "f", OpenFlags::RDWR).unwrap();
    client.write(Fid(1), 0, b"hello").unwrap();
    client.read(Fid(1), 1, 100).unwrap();
    client.clunk(Fid(9)).unwrap_err();
    assert_eq!(exchange(&client.server, &frame(&Tclunk { fid: Fid(1) }, &[]), 10, client.cut), None);
    let stats = client.server.stats();
    assert_eq!(stats.requests(MessageType::TWRITE), 1);
    assert_eq!(stats.requests(MessageType::RWALK), 1);
    assert_eq!((stats.errors, stats.dropped, stats.bytes_written, stats.bytes_read), (1, 1, 5, 4));
    assert_eq!(stats.by_name().map(|(_, count)| count).sum::<u64>(), stats.total());
    assert!(stats.by_name().any(|entry| entry == ("clunk", 1)));
}

#[test]
fn statfs_tells_about_the_host() {
    let (_folder, client) = connect_fresh();
    assert_eq!(client.call(&Tstatfs { fid: ROOT }).unwrap().len(), 67);
}

#[test]
fn a_missing_folder_and_a_file_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none");
    let error = Passthrough::new(&none, PassthroughOptions::default()).err().unwrap();
    assert!(error.to_string().contains("none"), "{error}");
    std::fs::write(&none, "").unwrap();
    assert!(Passthrough::new(&none, PassthroughOptions::default()).is_err());
}

#[test]
fn a_server_can_be_shared_by_threads() {
    let (folder, client) = connect_fresh();
    std::fs::write(folder.path().join("f"), "x").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..200 {
                    let fid = Fid(1 + thread * 1000 + round);
                    client.open_path(fid, "f", 0).unwrap();
                    assert_eq!(client.read(fid, 0, 9).unwrap(), b"x");
                    client.clunk(fid).unwrap();
                }
            });
        }
    });
    assert_eq!(client.server.fid_count(), 1);
}
