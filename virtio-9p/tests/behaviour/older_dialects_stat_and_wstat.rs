//! Stat records tell what the host knows, and a wstat changes what it names and nothing else.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use crate::client::legacy::{Record, connect_in};
use crate::client::{Client, ROOT, frame, is_root};
use virtio_9p::wire::{Dialect, Fid, NONUNAME, OpenMode, Perm, Qid, QidType, Stat, StatParameter, Twstat, UnixStat};
use virtio_9p::{Errno, FileSystem, Patience, Work};

const OLD: [Dialect; 2] = [Dialect::Plan9, Dialect::Unix];
const FILE: Fid = Fid(1);

fn fresh(dialect: Dialect) -> (tempfile::TempDir, Client) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    std::fs::write(&file, "content").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    let client = connect_in(folder.path(), dialect);
    client.reach(FILE, "f").unwrap();
    (folder, client)
}

fn set_times(path: &Path, access: i64, modification: i64) {
    let stamp = |seconds| rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 123 };
    let times = rustix::fs::Timestamps { last_access: stamp(access), last_modification: stamp(modification) };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
}

#[test]
fn records_tell_what_the_host_knows() {
    for dialect in OLD {
        let (folder, client) = fresh(dialect);
        let path = folder.path().join("f");
        set_times(&path, 1000, 2000);
        let host = std::fs::metadata(&path).unwrap();
        let found = client.stat(FILE).unwrap();
        assert_eq!((found.mode, found.times, found.length, &found.name[..]), (0o640, (1000, 2000), 7, "f"));
        assert_eq!(found.users, [host.uid().to_string(), host.gid().to_string(), String::new()]);
        let unix = (String::from("HARDLINKCOUNT 1"), [host.uid(), host.gid(), NONUNAME]);
        assert_eq!(found.unix, (dialect == Dialect::Unix).then_some(unix));
        assert_eq!((found.qid.kind, found.qid.path), (QidType::FILE, host.ino()));
        assert_ne!(found.qid.version, 0);

        let dir = client.stat_path("d").unwrap();
        assert_eq!((dir.mode & Perm::DIRECTORY, dir.length, &dir.name[..]), (Perm::DIRECTORY, 0, "d"));
        assert_eq!(client.stat(ROOT).unwrap().name, "/");
        // Times beyond 32 bits stop at their ends.
        set_times(&path, -5, 1 << 33);
        assert_eq!(client.stat(FILE).unwrap().times, (0, u32::MAX - 1));
    }
}

#[test]
fn the_name_follows_the_file() {
    for dialect in OLD {
        let (folder, client) = fresh(dialect);
        std::fs::rename(folder.path().join("f"), folder.path().join("d/other")).unwrap();
        assert_eq!(client.stat(FILE).unwrap().name, "other");
        // The kernel marks removed files so.
        std::fs::write(folder.path().join("x (deleted)"), "").unwrap();
        assert_eq!(client.stat_path("x (deleted)").unwrap().name, "x (deleted)");
        client.open_old(FILE, OpenMode::READ).unwrap();
        std::fs::remove_file(folder.path().join("d/other")).unwrap();
        let gone = client.stat(FILE).unwrap();
        assert_eq!((&gone.name[..], gone.length), ("other", 7));
    }
}

#[test]
fn each_field_is_changed_alone() {
    for dialect in OLD {
        let (folder, client) = fresh(dialect);
        let path = folder.path().join("f");
        set_times(&path, 1000, 2000);
        let before = client.stat(FILE).unwrap();
        let check = |expected: Record| {
            let Record { qid, .. } = client.stat(FILE).unwrap();
            assert_eq!(client.stat(FILE).unwrap(), Record { qid, ..expected });
        };

        client.wstat(FILE, |stat| stat.mode = Perm(0o604)).unwrap();
        check(Record { mode: 0o604, ..before.clone() });
        client.wstat(FILE, |stat| stat.mtime = 3000).unwrap();
        check(Record { mode: 0o604, times: (1000, 3000), ..before.clone() });
        client.wstat(FILE, |stat| stat.atime = 4000).unwrap();
        check(Record { mode: 0o604, times: (4000, 3000), ..before.clone() });
        client.wstat(FILE, |stat| stat.name = b"g").unwrap();
        check(Record { mode: 0o604, times: (4000, 3000), name: "g".into(), ..before.clone() });
        client.wstat(FILE, |stat| stat.length = 3).unwrap();
        assert_eq!(std::fs::read(folder.path().join("g")).unwrap(), b"con");
        client.wstat(FILE, |stat| stat.length = 5).unwrap();
        assert_eq!(std::fs::read(folder.path().join("g")).unwrap(), b"con\0\0");
        // Several at once.
        client
            .wstat(FILE, |stat| {
                (stat.name, stat.mode, stat.length) = (b"f", Perm(0o640), 7);
                (stat.atime, stat.mtime) = (5000, 2000);
            })
            .unwrap();
        check(Record { times: (5000, 2000), ..before });
    }
}

#[test]
fn owner_and_group_are_numbers() {
    let now = |path: &Path| {
        let status = std::fs::metadata(path).unwrap();
        (status.uid(), status.gid())
    };
    for dialect in OLD {
        let (folder, client) = fresh(dialect);
        let path = folder.path().join("f");
        let (uid, gid) = now(&path);
        assert_eq!(client.wstat(FILE, |stat| stat.gid = b"staff"), Err(Errno::EINVAL));
        assert_eq!(client.wstat(FILE, |stat| stat.uid = b"glenda"), Err(Errno::EINVAL));
        let (uid_text, gid_text) = (uid.to_string(), gid.to_string());
        client
            .wstat(FILE, |stat| (stat.uid, stat.gid) = (uid_text.as_bytes(), gid_text.as_bytes()))
            .unwrap_or_else(|error| panic!("{error}: what is stays"));
        if !is_root() {
            continue;
        }
        client.wstat(FILE, |stat| stat.gid = b"123").unwrap();
        assert_eq!(now(&path), (uid, 123));
        match dialect {
            Dialect::Plan9 => assert_eq!(client.wstat(FILE, |stat| stat.uid = b"7"), Err(Errno::EPERM)),
            _ => {
                let unix = UnixStat { extension: b"", n_uid: 7, n_gid: 8, n_muid: NONUNAME };
                client.wstat(FILE, |stat| stat.unix = Some(unix)).unwrap();
                assert_eq!(now(&path), (7, 8));
            }
        }
    }
}

#[test]
fn a_record_that_changes_nothing_brings_the_file_to_storage() {
    for dialect in OLD {
        let (folder, client) = fresh(dialect);
        let before = std::fs::metadata(folder.path().join("f")).unwrap();
        client.wstat(FILE, |_| ()).unwrap();
        client.wstat(FILE, |stat| stat.muid = b"glenda").unwrap();
        client.open_old(FILE, OpenMode::RDWR).unwrap();
        client.write(FILE, 0, b"x").unwrap();
        client.wstat(FILE, |_| ()).unwrap();
        client.wstat(ROOT, |_| ()).unwrap();
        assert_eq!(std::fs::metadata(folder.path().join("f")).unwrap().mode(), before.mode());
    }
}

/// What a client has that changes a record that it was given.
#[test]
fn a_whole_record_written_back_changes_what_differs() {
    for dialect in OLD {
        let (folder, client) = fresh(dialect);
        let path = folder.path().join("f");
        set_times(&path, 1000, 2000);
        let record = client.stat(FILE).unwrap();
        let write_back = |mode| {
            let unix = record.unix.as_ref().map(|(extension, [n_uid, n_gid, n_muid])| UnixStat {
                extension: extension.as_bytes(),
                n_uid: *n_uid,
                n_gid: *n_gid,
                n_muid: *n_muid,
            });
            let stat = Stat {
                kind: 0,
                device: 0,
                qid: record.qid,
                mode: Perm(mode),
                atime: record.times.0,
                mtime: record.times.1,
                length: record.length,
                name: record.name.as_bytes(),
                uid: record.users[0].as_bytes(),
                gid: record.users[1].as_bytes(),
                muid: b"",
                unix,
            };
            client.call(&Twstat { fid: FILE, stat: StatParameter(stat) }).map(drop)
        };
        write_back(record.mode).unwrap();
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!((after.mtime(), after.mtime_nsec()), (2000, 123), "nothing was set");
        write_back(0o600).unwrap();
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!((after.mode() & 0o7777, after.mtime_nsec()), (0o600, 123));
    }
}

#[test]
fn what_cannot_be_changed_is_refused() {
    for dialect in OLD {
        let (folder, client) = fresh(dialect);
        client.reach(Fid(2), "d").unwrap();
        let denied = Err(Errno::EPERM);
        assert_eq!(client.wstat(FILE, |stat| stat.kind = 5), denied);
        assert_eq!(client.wstat(FILE, |stat| stat.device = 5), denied);
        let other = Qid { kind: QidType::FILE, version: u32::MAX, path: 5 };
        assert_eq!(client.wstat(FILE, |stat| stat.qid = other), denied);
        assert_eq!(client.wstat(FILE, |stat| stat.mode = Perm(Perm::DIRECTORY | 0o755)), denied);
        assert_eq!(client.wstat(Fid(2), |stat| stat.mode = Perm(0o755)), denied);
        assert_eq!(client.wstat(Fid(2), |stat| stat.length = 5), Err(Errno::EISDIR));
        client.wstat(Fid(2), |stat| stat.length = 0).unwrap();
        assert_eq!(client.wstat(FILE, |stat| stat.length = 1 << 63), Err(Errno::EINVAL));
        assert_eq!(client.wstat(FILE, |stat| stat.mode = Perm(Perm::APPEND | 0o644)), Err(Errno::EOPNOTSUPP));
        for name in [&b"."[..], b"..", b"a/b", b"/f", b"a\0"] {
            assert_eq!(client.wstat(FILE, |stat| stat.name = name), Err(Errno::EINVAL));
        }
        assert_eq!(client.wstat(ROOT, |stat| stat.name = b"r"), Err(Errno::EBUSY));
        assert_eq!(client.stat(FILE).unwrap().name, "f");
        assert_eq!(std::fs::metadata(folder.path().join("f")).unwrap().mode() & 0o7777, 0o640);
    }
}

#[test]
fn a_name_that_is_taken_is_refused_in_9p2000_and_replaced_in_9p2000_u() {
    for dialect in OLD {
        let (folder, client) = fresh(dialect);
        std::fs::write(folder.path().join("g"), "other").unwrap();
        let renamed = client.wstat(FILE, |stat| (stat.name, stat.mode) = (b"g", Perm(0o600)));
        let (there, mode) = if dialect == Dialect::Plan9 {
            assert_eq!(renamed, Err(Errno::EEXIST));
            ("f", 0o640)
        } else {
            renamed.unwrap();
            assert!(!folder.path().join("f").exists());
            ("g", 0o600)
        };
        let file = File::open(folder.path().join(there)).unwrap();
        let mut content = [0; 7];
        file.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"content");
        // All or nothing: the mode went with the name.
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, mode);
        let taken = if dialect == Dialect::Plan9 { Errno::EEXIST } else { Errno::EISDIR };
        assert_eq!(client.wstat(FILE, |stat| stat.name = b"d"), Err(taken));
    }
}

#[test]
fn a_new_name_is_taken_back_if_the_rest_fails() {
    for dialect in OLD {
        let (folder, client) = fresh(dialect);
        std::os::unix::fs::symlink("f", folder.path().join("l")).unwrap();
        client.reach(Fid(3), "l").unwrap();
        // A link has no length that could change.
        let result = client.wstat(Fid(3), |stat| (stat.name, stat.length) = (b"m", 9));
        assert_eq!(result, Err(Errno::EINVAL));
        assert!(folder.path().join("l").is_symlink() && !folder.path().join("m").is_symlink());
    }
}

#[test]
fn an_open_file_that_was_removed_can_still_be_changed() {
    for dialect in OLD {
        let (folder, client) = fresh(dialect);
        client.open_old(FILE, OpenMode::RDWR).unwrap();
        std::fs::remove_file(folder.path().join("f")).unwrap();
        client.wstat(FILE, |stat| (stat.length, stat.mode) = (3, Perm(0o600))).unwrap();
        let found = client.stat(FILE).unwrap();
        assert_eq!((found.length, found.mode), (3, 0o600));
        assert_eq!(client.wstat(FILE, |stat| stat.name = b"g"), Err(Errno::ENOENT));
    }
}

#[test]
fn a_wstat_that_asks_for_stable_storage_waits_as_a_sync_does() {
    let (_folder, client) = fresh(Dialect::Unix);
    let start = |change: &dyn Fn(&mut Stat<'_>)| {
        let mut stat = Stat::untouched(true);
        change(&mut stat);
        let mut request = frame(&Twstat { fid: FILE, stat: StatParameter(stat) }, &[]);
        client.server.start_bytes_within(&mut request, &mut [0; 64], 0, Patience::Disk)
    };
    let needed = client.server.file_system().needs(Work::Sync);
    // In memory it waits for nothing.
    assert_eq!(start(&|_| ()).err(), Some(needed).filter(|needed| *needed > Patience::Disk));
    assert!(start(&|stat| stat.mode = Perm(0o600)).is_ok());
}
