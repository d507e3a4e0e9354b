//! Two sessions on one folder meet each other as two programs of the host do.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::client::{Client, ROOT, connect};
use virtio_9p::Errno;
use virtio_9p::wire::{Fid, LockStatus, LockType, OpenFlags};

const ALL: (u64, u64) = (0, 0);
const ROUNDS: usize = 200;

type Done = Result<(), Errno>;

fn pair(folder: &Path) -> (Client, Client) {
    (connect(folder), connect(folder))
}

/// Lets both clients do the same at the same time, in many rounds, and returns what each round gave.
fn race<T: Send>(
    prepare: impl Fn(usize) + Sync,
    clients: (&Client, &Client),
    act: impl Fn(&Client, u32) -> T + Sync,
) -> Vec<(T, T)> {
    let barrier = Barrier::new(2);
    (0..ROUNDS)
        .map(|round| {
            prepare(round);
            std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    barrier.wait();
                    act(clients.1, 2)
                });
                barrier.wait();
                let one = act(clients.0, 1);
                (one, other.join().unwrap())
            })
        })
        .collect()
}

/// Asserts that in each round one client succeeded and the other got one of `errors`.
fn assert_one_wins(results: &[(Done, Done)], errors: &[Errno]) {
    for result in results {
        match result {
            (Ok(()), Err(error)) | (Err(error), Ok(())) => assert!(errors.contains(error), "{error:?}"),
            both => panic!("{both:?}"),
        }
    }
}

#[test]
fn a_lock_excludes_the_other_client() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("count"), "0").unwrap();
    let (one, two) = pair(folder.path());
    std::thread::scope(|scope| {
        for client in [&one, &two] {
            scope.spawn(|| {
                client.open_path(Fid(1), "count", OpenFlags::RDWR).unwrap();
                for _ in 0..ROUNDS {
                    while client.lock(Fid(1), LockType::WRITE, ALL, 1).unwrap() != LockStatus::SUCCESS {
                        std::thread::yield_now();
                    }
                    let count: usize = String::from_utf8(client.read(Fid(1), 0, 20).unwrap()).unwrap().parse().unwrap();
                    client.write(Fid(1), 0, (count + 1).to_string().as_bytes()).unwrap();
                    client.lock(Fid(1), LockType::UNLOCK, ALL, 1).unwrap();
                }
            });
        }
    });
    assert_eq!(std::fs::read_to_string(folder.path().join("count")).unwrap(), (2 * ROUNDS).to_string());
}

#[test]
fn a_lock_passes_on_at_unlock_clunk_and_disconnect() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("f"), "").unwrap();
    let (one, two) = pair(folder.path());
    let leave: [&dyn Fn(); 3] = [
        &|| assert_eq!(one.lock(Fid(1), LockType::UNLOCK, ALL, 1), Ok(LockStatus::SUCCESS)),
        &|| one.clunk(Fid(1)).unwrap(),
        &|| one.server.reset(),
    ];
    two.open_path(Fid(1), "f", OpenFlags::RDWR).unwrap();
    for leave in leave {
        let _ = one.clunk(Fid(1));
        one.open_path(Fid(1), "f", OpenFlags::RDWR).unwrap();
        assert_eq!(one.lock(Fid(1), LockType::WRITE, (5, 5), 1), Ok(LockStatus::SUCCESS));
        assert_eq!(two.lock(Fid(1), LockType::READ, ALL, 1), Ok(LockStatus::BLOCKED));
        assert_eq!(two.getlock(Fid(1), LockType::READ, ALL, 1).map(|lock| lock.0), Ok(LockType::WRITE));
        leave();
        assert_eq!(two.lock(Fid(1), LockType::READ, ALL, 1), Ok(LockStatus::SUCCESS));
        assert_eq!(two.lock(Fid(1), LockType::UNLOCK, ALL, 1), Ok(LockStatus::SUCCESS));
    }
}

#[test]
fn a_name_is_taken_once() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = pair(folder.path());
    let path = |name: &str| folder.path().join(name);

    let made = race(|_| (), (&one, &two), |client, _| client.mkdir(ROOT, b"d", 0o755).map(drop));
    assert_eq!(made.iter().filter(|(one, two)| one.is_ok() || two.is_ok()).count(), 1);
    assert_one_wins(&made[..1], &[Errno::EEXIST]);

    let exclusive = race(
        |_| drop(std::fs::remove_file(path("f"))),
        (&one, &two),
        |client, _| {
            let result = client.create_in_root(Fid(1), "f", OpenFlags::RDWR | OpenFlags::EXCL);
            client.clunk(Fid(1)).unwrap();
            result
        },
    );
    assert_one_wins(&exclusive, &[Errno::EEXIST]);

    let linked = race(
        |_| drop(std::fs::remove_file(path("l"))),
        (&one, &two),
        |client, _| client.symlink(ROOT, b"l", b"x").map(drop),
    );
    assert_one_wins(&linked, &[Errno::EEXIST]);
}

#[test]
fn creating_without_exclusion_gives_both_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = pair(folder.path());
    let opened = race(
        |_| drop(std::fs::remove_file(folder.path().join("f"))),
        (&one, &two),
        |client, _| {
            client.create_in_root(Fid(1), "f", OpenFlags::RDWR).unwrap();
            let path = client.getattr(Fid(1)).unwrap().qid.path;
            client.clunk(Fid(1)).unwrap();
            path
        },
    );
    assert!(opened.iter().all(|(one, two)| one == two));
}

#[test]
fn a_name_is_removed_once() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = pair(folder.path());
    let file = folder.path().join("f");
    let prepare = |_| std::fs::write(&file, "").unwrap();
    let by_name = race(prepare, (&one, &two), |client, _| client.unlinkat(ROOT, b"f", 0));
    assert_one_wins(&by_name, &[Errno::ENOENT]);
    let directory = folder.path().join("d");
    let by_name = race(
        |_| std::fs::create_dir(&directory).unwrap(),
        (&one, &two),
        |client, _| client.unlinkat(ROOT, b"d", 0x200),
    );
    assert_one_wins(&by_name, &[Errno::ENOENT]);
    let by_fid = race(
        |_| {
            std::fs::write(&file, "").unwrap();
            one.reach(Fid(1), "f").unwrap();
            two.reach(Fid(1), "f").unwrap();
        },
        (&one, &two),
        |client, _| client.remove(Fid(1)),
    );
    assert_one_wins(&by_fid, &[Errno::ENOENT]);
}

#[test]
fn a_file_is_moved_once() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = pair(folder.path());
    let results = race(
        |_| {
            let _ = std::fs::remove_dir_all(folder.path().join("x1"));
            let _ = std::fs::remove_dir_all(folder.path().join("x2"));
            std::fs::create_dir(folder.path().join("f")).unwrap();
        },
        (&one, &two),
        |client, number| client.renameat(ROOT, b"f", ROOT, format!("x{number}").as_bytes()),
    );
    assert_one_wins(&results, &[Errno::ENOENT]);
}

#[test]
fn directories_are_never_moved_into_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = pair(folder.path());
    let results = race(
        |_| {
            for name in ["d1", "d2"] {
                let _ = std::fs::remove_dir_all(folder.path().join(name));
            }
            for (client, other) in [(&one, "d2"), (&two, "d1")] {
                let _ = client.clunk(Fid(1));
                std::fs::create_dir_all(folder.path().join("d1")).unwrap();
                std::fs::create_dir_all(folder.path().join("d2")).unwrap();
                client.reach(Fid(1), other).unwrap();
            }
        },
        (&one, &two),
        |client, number| client.renameat(ROOT, format!("d{number}").as_bytes(), Fid(1), b"inner"),
    );
    assert_one_wins(&results, &[Errno::EINVAL, Errno::ENOENT]);
}

#[test]
fn appending_clients_do_not_overwrite_each_other() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("f"), "").unwrap();
    let (one, two) = pair(folder.path());
    for client in [&one, &two] {
        client.open_path(Fid(1), "f", OpenFlags::WRONLY | OpenFlags::APPEND).unwrap();
    }
    std::thread::scope(|scope| {
        for (client, letter) in [(&one, b'1'), (&two, b'2')] {
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    assert_eq!(client.write(Fid(1), 0, &[letter; 100]), Ok(100));
                }
            });
        }
    });
    let all = std::fs::read(folder.path().join("f")).unwrap();
    assert_eq!(all.len(), 200 * ROUNDS);
    assert!(all.chunks(100).all(|record| record.iter().all(|byte| *byte == record[0])));
    assert_eq!(all.iter().filter(|byte| **byte == b'1').count(), 100 * ROUNDS);
}

#[test]
fn an_unlinked_file_lives_on_for_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("f"), "old").unwrap();
    let (one, two) = pair(folder.path());
    one.open_path(Fid(1), "f", OpenFlags::RDWR).unwrap();
    one.reach(Fid(2), "f").unwrap();
    two.unlinkat(ROOT, b"f", 0).unwrap();
    two.create_in_root(Fid(1), "f", OpenFlags::RDWR).unwrap();
    two.write(Fid(1), 0, b"new").unwrap();

    assert_eq!(one.read(Fid(1), 0, 10).unwrap(), b"old");
    assert_eq!(one.write(Fid(1), 3, b"er"), Ok(2));
    assert_eq!(one.getattr(Fid(2)).map(|found| (found.nlink, found.size)), Ok((0, 5)));
    one.setattr(Fid(2), 0x8, |change| change.size = 2).unwrap();
    one.setattr(Fid(2), 0x1, |change| change.mode = 0o600).unwrap();
    one.fsync(Fid(1), 0).unwrap();
    one.open(Fid(2), OpenFlags::RDONLY).unwrap();
    assert_eq!(one.read(Fid(2), 0, 10).unwrap(), b"ol");
    assert_eq!(one.link(Fid(1), ROOT, b"back"), Err(Errno::ENOENT));
    assert_eq!(one.remove(Fid(2)), Err(Errno::ENOENT));
    assert_eq!(std::fs::read_to_string(folder.path().join("f")).unwrap(), "new");
}

#[test]
fn a_replaced_file_lives_on_for_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["f", "g"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    let (one, two) = pair(folder.path());
    one.open_path(Fid(1), "f", OpenFlags::RDONLY).unwrap();
    let before = one.getattr(Fid(1)).unwrap();
    two.renameat(ROOT, b"g", ROOT, b"f").unwrap();
    let after = one.getattr(Fid(1)).unwrap();
    assert_eq!((after.qid.path, after.nlink), (before.qid.path, 0));
    assert_eq!(one.read(Fid(1), 0, 10).unwrap(), b"f");
    one.open_path(Fid(2), "f", OpenFlags::RDONLY).unwrap();
    assert_eq!(one.read(Fid(2), 0, 10).unwrap(), b"g");
    assert_ne!(one.getattr(Fid(2)).unwrap().qid.path, before.qid.path);
}

#[test]
fn a_moved_directory_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("d/sub")).unwrap();
    let (one, two) = pair(folder.path());
    one.reach(Fid(1), "d/sub").unwrap();
    std::fs::write(folder.path().join("d/sub/f"), "").unwrap();
    one.reach(Fid(2), "d/sub/f").unwrap();
    two.renameat(ROOT, b"d", ROOT, b"e").unwrap();
    one.mkdir(Fid(1), b"made", 0o755).unwrap();
    assert!(folder.path().join("e/sub/made").is_dir());
    assert_eq!(one.walk(Fid(1), Fid(3), &[b"..", b".."]).unwrap().len(), 2);
    one.rename(Fid(2), ROOT, b"taken").unwrap();
    assert!(folder.path().join("taken").exists());
    two.renameat(ROOT, b"taken", ROOT, b"again").unwrap();
    one.remove(Fid(2)).unwrap();
    assert!(!folder.path().join("again").exists());
}

#[test]
fn a_removed_directory_is_empty_and_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    let (one, two) = pair(folder.path());
    one.reach(Fid(1), "d").unwrap();
    one.open_path(Fid(2), "d", 0).unwrap();
    two.unlinkat(ROOT, b"d", 0x200).unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    assert_eq!(one.mkdir(Fid(1), b"x", 0o755), Err(Errno::ENOENT));
    assert_eq!(one.symlink(Fid(1), b"x", b"y"), Err(Errno::ENOENT));
    assert_eq!(one.walk(Fid(1), Fid(3), &[b"x"]), Err(Errno::ENOENT));
    assert_eq!(one.list(Fid(2), 1000).map(drop), Err(Errno::ENOENT));
    assert_eq!(one.getattr(Fid(1)).map(|found| found.nlink), Ok(0));
    assert_eq!(std::fs::read_dir(folder.path().join("d")).unwrap().count(), 0);
}

#[test]
fn what_stays_in_a_directory_is_listed_once_while_others_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let stays: BTreeSet<String> = (0..500).map(|number| format!("stays{number}")).collect();
    for name in &stays {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    let (one, two) = pair(folder.path());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in (0..50).cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("goes{number}");
                if two.unlinkat(ROOT, name.as_bytes(), 0) == Err(Errno::ENOENT) {
                    two.create_in_root(Fid(1), &name, OpenFlags::RDWR).unwrap();
                    two.clunk(Fid(1)).unwrap();
                }
            }
        });
        one.open_path(Fid(1), "", 0).unwrap();
        for _ in 0..20 {
            let mut seen: Vec<String> = one.list(Fid(1), 700).unwrap().into_iter().map(|entry| entry.name).collect();
            seen.retain(|name| name.starts_with("stays"));
            assert_eq!(seen.len(), stays.len(), "one is missing or twice there");
            assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), stays);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn attributes_that_must_not_exist_are_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    std::fs::write(&file, "").unwrap();
    if rustix::fs::setxattr(&file, "user.a", b"x", rustix::fs::XattrFlags::empty()).is_err() {
        eprintln!("skipped: the file system has no user attributes");
        return;
    }
    let (one, two) = pair(folder.path());
    let results = race(
        |_| {
            let _ = rustix::fs::removexattr(&file, "user.a");
        },
        (&one, &two),
        |client, _| {
            client.reach(Fid(1), "f").unwrap();
            client.xattrcreate(Fid(1), b"user.a", 1, 1).unwrap();
            client.write(Fid(1), 0, b"v").unwrap();
            client.clunk(Fid(1))
        },
    );
    assert_one_wins(&results, &[Errno::EEXIST]);
}
