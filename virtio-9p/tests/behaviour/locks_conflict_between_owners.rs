//! Locks are real: between owners of one session, between sessions, and with the host.

use std::fs::File;
use std::os::fd::AsRawFd;

use crate::client::{Client, ROOT, connect, connect_fresh, connect_with};
use virtio_9p::wire::{Fid, LockFlags, LockStatus, LockType, NONUNAME, OpenFlags, Tlock};
use virtio_9p::{Errno, Options, PassthroughOptions, Server};

const ALL: (u64, u64) = (0, 0);

fn open_file(client: &Client, fids: &[u32]) {
    for fid in fids {
        client.walk(ROOT, Fid(*fid), &[]).unwrap();
        client.create(Fid(*fid), b"f", OpenFlags::RDWR, 0o644).unwrap();
    }
}

/// Takes a lock of the host on a range, by an open file description lock; false if it conflicts.
fn host_lock(file: &File, kind: libc::c_int, range: (i64, i64)) -> bool {
    // SAFETY: all-zero bytes are a valid `flock`.
    let mut flock: libc::flock = unsafe { std::mem::zeroed() };
    flock.l_type = kind.try_into().unwrap();
    (flock.l_start, flock.l_len) = range;
    // SAFETY: the call reads the struct alone.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const flock) == 0 }
}

#[test]
fn owners_conflict_and_shared_locks_do_not() {
    let (_folder, client) = connect_fresh();
    open_file(&client, &[1, 2]);
    let lock = |fid, kind, range, owner| client.lock(Fid(fid), kind, range, owner).unwrap();
    assert_eq!(lock(1, LockType::WRITE, (0, 10), 100), LockStatus::SUCCESS);
    assert_eq!(lock(2, LockType::WRITE, (9, 1), 200), LockStatus::BLOCKED);
    assert_eq!(lock(2, LockType::READ, (9, 1), 200), LockStatus::BLOCKED);
    assert_eq!(lock(2, LockType::WRITE, (10, 5), 200), LockStatus::SUCCESS);
    // The same owner through another fid.
    assert_eq!(lock(2, LockType::READ, (0, 10), 100), LockStatus::SUCCESS);
    assert_eq!(lock(1, LockType::READ, (0, 10), 300), LockStatus::SUCCESS);
    assert_eq!(lock(1, LockType::UNLOCK, ALL, 100), LockStatus::SUCCESS);
    assert_eq!(lock(1, LockType::WRITE, (0, 10), 200), LockStatus::BLOCKED, "owner 300 reads");
    assert_eq!(lock(1, LockType::UNLOCK, (0, 5), 300), LockStatus::SUCCESS);
    assert_eq!(lock(1, LockType::WRITE, (0, 5), 200), LockStatus::SUCCESS);
    assert_eq!(lock(1, LockType::WRITE, (0, 6), 200), LockStatus::BLOCKED);
    assert_eq!(lock(1, LockType::UNLOCK, ALL, 999), LockStatus::SUCCESS, "nothing to release");
}

#[test]
fn locks_meet_those_of_the_host() {
    let (folder, client) = connect_fresh();
    open_file(&client, &[1]);
    let host = File::options().read(true).write(true).open(folder.path().join("f")).unwrap();
    client.lock(Fid(1), LockType::WRITE, (100, 0), 1).unwrap();
    assert!(!host_lock(&host, libc::F_RDLCK, (i64::MAX - 1, 1)), "length 0 reaches to the end");
    assert!(host_lock(&host, libc::F_WRLCK, (0, 100)));
    assert_eq!(client.lock(Fid(1), LockType::READ, (99, 1), 1), Ok(LockStatus::BLOCKED));
    let conflict = client.getlock(Fid(1), LockType::UNLOCK, (50, 10), 1).unwrap();
    assert_eq!(conflict, (LockType::WRITE, 0, 100, 0, Vec::new()), "a program of the host has no name here");
}

#[test]
fn getlock_names_the_owner() {
    let (_folder, client) = connect_fresh();
    open_file(&client, &[1, 2]);
    client.lock(Fid(1), LockType::READ, (10, 10), 100).unwrap();
    let free = (LockType::UNLOCK, 12, 1, 100, b"vm".to_vec());
    assert_eq!(client.getlock(Fid(1), LockType::WRITE, (12, 1), 100).unwrap(), free);
    let held = (LockType::READ, 10, 10, 100, b"vm".to_vec());
    assert_eq!(client.getlock(Fid(2), LockType::WRITE, (12, 1), 200).unwrap(), held);
    assert_eq!(client.getlock(Fid(2), LockType::UNLOCK, ALL, 200).unwrap(), held);
    assert_eq!(client.getlock(Fid(2), LockType::READ, (12, 1), 200).unwrap().0, LockType::UNLOCK);
}

#[test]
fn locks_end_with_the_last_fid_of_their_owner() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (connect(folder.path()), connect(folder.path()));
    open_file(&one, &[1, 2]);
    open_file(&two, &[1]);
    let blocked = || two.lock(Fid(1), LockType::WRITE, ALL, 1).unwrap() == LockStatus::BLOCKED;
    let release = || two.lock(Fid(1), LockType::UNLOCK, ALL, 1).unwrap();

    one.lock(Fid(1), LockType::WRITE, (0, 1), 1).unwrap();
    one.lock(Fid(2), LockType::WRITE, (1, 1), 1).unwrap();
    one.clunk(Fid(1)).unwrap();
    assert!(blocked(), "the owner still has a fid through which it locked");
    one.clunk(Fid(2)).unwrap();
    assert!(!blocked());
    release();

    open_file(&one, &[1]);
    one.lock(Fid(1), LockType::READ, ALL, 1).unwrap();
    assert!(blocked());
    one.server.reset();
    assert!(!blocked(), "the end of the session frees its locks");
}

#[test]
fn a_readable_file_takes_shared_locks_only_if_it_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("f"), "").unwrap();
    let client = connect(folder.path());
    client.open_path(Fid(1), "f", OpenFlags::RDONLY).unwrap();
    assert_eq!(client.lock(Fid(1), LockType::READ, ALL, 1), Ok(LockStatus::SUCCESS));
    assert_eq!(client.lock(Fid(1), LockType::WRITE, ALL, 1), Ok(LockStatus::SUCCESS), "as flock allows");
    client.open_path(Fid(2), "", OpenFlags::RDONLY).unwrap();
    assert_eq!(client.lock(Fid(2), LockType::READ, ALL, 1), Ok(LockStatus::SUCCESS));
    assert_eq!(client.lock(Fid(2), LockType::WRITE, ALL, 1), Err(Errno::EBADF));
}

#[test]
fn senseless_locks_are_refused() {
    let (_folder, client) = connect_fresh();
    open_file(&client, &[1]);
    assert_eq!(client.lock(ROOT, LockType::READ, ALL, 1), Err(Errno::EBADF));
    assert_eq!(client.lock(Fid(1), LockType(3), ALL, 1), Err(Errno::EINVAL));
    assert_eq!(client.lock(Fid(1), LockType::READ, (1 << 63, 1), 1), Err(Errno::EINVAL));
    assert_eq!(client.lock(Fid(1), LockType::READ, (1, u64::MAX), 1), Err(Errno::EOVERFLOW));
    let message = Tlock {
        fid: Fid(1),
        kind: LockType::READ,
        flags: LockFlags(4),
        start: 0,
        length: 0,
        proc_id: 1,
        client_id: b"",
    };
    assert_eq!(client.call(&message), Err(Errno::EINVAL));
    let long = [b'x'; 256];
    assert_eq!(client.call(&Tlock { flags: LockFlags(0), client_id: &long, ..message }), Err(Errno::EINVAL));
}

#[test]
fn ranges_are_bounded_and_come_back() {
    // Spread over files, since the kernel walks all ranges of one for each lock.
    const FILES: usize = 64;
    let (_folder, client) = connect_fresh();
    let fids: Vec<Fid> = (1..=64).map(Fid).collect();
    for fid in &fids {
        client.create_in_root(*fid, &fid.0.to_string(), OpenFlags::RDWR).unwrap();
    }
    let taken = (0..)
        .take_while(|at| {
            let start = u64::try_from(at / FILES * 2).unwrap();
            client.lock(fids[at % FILES], LockType::READ, (start, 1), 1) == Ok(LockStatus::SUCCESS)
        })
        .count();
    assert_eq!(taken, virtio_9p::limits::MAX_LOCK_RANGES);
    assert_eq!(client.lock(Fid(1), LockType::READ, (1 << 40, 1), 2), Err(Errno::ENOLCK));
    client.lock(Fid(2), LockType::UNLOCK, ALL, 1).unwrap();
    assert_eq!(client.lock(Fid(1), LockType::READ, (1 << 40, 1), 2), Ok(LockStatus::SUCCESS));
    client.clunk(Fid(3)).unwrap();
    assert_eq!(client.lock(Fid(1), LockType::READ, (1 << 41, 1), 2), Ok(LockStatus::SUCCESS));
}

#[test]
fn holes_in_ranges_are_bounded_too() {
    const FILES: usize = 64;
    let (_folder, client) = connect_fresh();
    let fids: Vec<Fid> = (1..=64).map(Fid).collect();
    for fid in &fids {
        client.create_in_root(*fid, &fid.0.to_string(), OpenFlags::RDWR).unwrap();
        assert_eq!(client.lock(*fid, LockType::WRITE, ALL, 1), Ok(LockStatus::SUCCESS));
    }
    let unlock = |at: usize| {
        let start = u64::try_from(at / FILES * 2 + 1).unwrap();
        client.lock(fids[at % FILES], LockType::UNLOCK, (start, 1), 1)
    };
    let most = virtio_9p::limits::MAX_LOCK_RANGES;
    let made = (0..=most).take_while(|at| unlock(*at) == Ok(LockStatus::SUCCESS)).count();
    assert_eq!(made, most - FILES, "each unlock in the middle of a range makes one more");
    assert_eq!(unlock(made), Err(Errno::ENOLCK));
    // One that makes none more is never refused.
    assert_eq!(client.lock(Fid(1), LockType::UNLOCK, ALL, 1), Ok(LockStatus::SUCCESS));
    assert_eq!(unlock(made + 1), Ok(LockStatus::SUCCESS));
}

#[test]
fn owners_are_bounded_and_come_back() {
    let (_folder, client) = connect_fresh();
    open_file(&client, &[1]);
    let owners = u32::try_from(virtio_9p::limits::MAX_LOCK_OWNERS).unwrap();
    let granted =
        (0..).take_while(|owner| client.lock(Fid(1), LockType::READ, ALL, *owner) == Ok(LockStatus::SUCCESS)).count();
    let Ok(granted) = u32::try_from(granted) else { panic!("no bound") };
    if granted < owners {
        eprintln!("skipped: descriptors ran out at {granted} owners");
    } else {
        assert_eq!(client.lock(Fid(1), LockType::READ, ALL, owners), Err(Errno::ENOLCK));
    }
    client.lock(Fid(1), LockType::UNLOCK, ALL, 0).unwrap();
    assert_eq!(client.lock(Fid(1), LockType::READ, ALL, owners), Ok(LockStatus::SUCCESS));
}

#[test]
fn few_descriptors_are_enough_for_the_locks_of_some_programs() {
    let folder = tempfile::tempdir().unwrap();
    let mut few = PassthroughOptions::default();
    few.max_descriptors = 8;
    let client = connect_with(folder.path(), Options::default(), few.clone());
    open_file(&client, &[1, 2]);
    for owner in 0..16 {
        assert_eq!(client.lock(Fid(1), LockType::READ, ALL, owner), Ok(LockStatus::SUCCESS));
        assert_eq!(client.write(Fid(2), 0, b"x"), Ok(1));
    }
    assert_eq!(client.lock(Fid(1), LockType::READ, ALL, 16), Err(Errno::ENOLCK));
    assert_eq!(client.lock(Fid(2), LockType::WRITE, ALL, 5), Ok(LockStatus::BLOCKED));

    few.max_lock_owners = 2;
    let client = connect_with(folder.path(), Options::default(), few);
    open_file(&client, &[1]);
    let lock = |owner| client.lock(Fid(1), LockType::READ, ALL, owner);
    assert_eq!([lock(1), lock(2)], [Ok(LockStatus::SUCCESS); 2]);
    assert_eq!(lock(3), Err(Errno::ENOLCK));
    client.lock(Fid(1), LockType::UNLOCK, ALL, 1).unwrap();
    assert_eq!(lock(3), Ok(LockStatus::SUCCESS));
}

#[test]
fn owners_of_one_name_in_two_sessions_conflict() {
    let (_folder, one) = connect_fresh();
    open_file(&one, &[1]);
    let files = one.server.file_system().for_another_session();
    let two = Client::new(Server::new(files, Options::default()));
    two.version(1 << 20);
    two.attach(ROOT, NONUNAME).unwrap();
    two.open_path(Fid(1), "f", OpenFlags::RDWR).unwrap();
    assert_eq!(one.lock(Fid(1), LockType::WRITE, ALL, 1), Ok(LockStatus::SUCCESS));
    assert_eq!(two.lock(Fid(1), LockType::WRITE, ALL, 1), Ok(LockStatus::BLOCKED));
    let holder = two.getlock(Fid(1), LockType::WRITE, ALL, 1).unwrap();
    assert_eq!((holder.0, holder.3, &holder.4[..]), (LockType::WRITE, 1, &b"vm"[..]));
    one.clunk(Fid(1)).unwrap();
    assert_eq!(two.lock(Fid(1), LockType::WRITE, ALL, 1), Ok(LockStatus::SUCCESS));
}
