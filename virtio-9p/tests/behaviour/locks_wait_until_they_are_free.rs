//! A lock that must wait is parked, answered as soon as it is free, and cancelled by a flush before the flush is answered.

use std::os::fd::AsRawFd;
use std::path::Path;

use crate::client::{Client, ROOT, connect, frame};
use virtio_9p::wire::{
    Decoder, Fid, Header, LockFlags, LockStatus, LockType, Message, NOTAG, OpenFlags, Rlerror, Rlock, Tag, Tclunk,
    Tflush, Tlock, Tversion,
};
use virtio_9p::{Errno, Options, Outcome, PassthroughOptions, Readable, Segment, Started, Writable};

const ALL: (u64, u64) = (0, 0);

/// A request whose wait is over: its ticket, and what it was answered, if it was.
type Done = (u64, Option<(Tag, Result<LockStatus, Errno>)>);

/// A session whose requests may wait, with `f` open as fids 1 and 2.
fn scene(folder: &Path) -> Client {
    std::fs::write(folder.join("f"), "").unwrap();
    let client = connect(folder);
    for fid in [1, 2] {
        client.open_path(Fid(fid), "f", OpenFlags::RDWR).unwrap();
    }
    client
}

fn start<'m>(client: &Client, tag: u16, message: &impl Message<'m>, ticket: u64) -> (Started, Vec<u8>) {
    let mut request = frame(message, &[]);
    request[5..7].copy_from_slice(&tag.to_le_bytes());
    let mut reply = vec![0; 64];
    // SAFETY: both buffers outlive the segments and are not touched while they are used.
    let (from, to) = unsafe {
        ([Segment::new(request.as_mut_ptr(), request.len())], [Segment::new(reply.as_mut_ptr(), reply.len())])
    };
    let started = client.server.start(&Readable::new(&from), &Writable::new(&to), ticket);
    if let Started::Done(Outcome::Reply(len)) = started {
        reply.truncate(len);
    }
    (started, reply)
}

fn lock_message(fid: u32, kind: LockType, owner: u32, flags: u32) -> Tlock<'static> {
    let (start, length) = ALL;
    Tlock { fid: Fid(fid), kind, flags: LockFlags(flags), start, length, proc_id: owner, client_id: b"vm" }
}

/// Asks for the whole file, ready to wait.
fn want(client: &Client, tag: u16, fid: u32, kind: LockType, owner: u32) -> Started {
    start(client, tag, &lock_message(fid, kind, owner, LockFlags::BLOCK), u64::from(tag) * 10).0
}

/// Every request whose wait is over: ticket, and tag with status, error, or nothing if it was dropped.
fn completed(client: &Client) -> Vec<Done> {
    std::iter::from_fn(|| client.server.next_completed())
        .map(|done| {
            let mut reply = [0xaa; 64];
            // SAFETY: the buffer outlives the segment and is not touched while it is used.
            let to = [unsafe { Segment::new(reply.as_mut_ptr(), reply.len()) }];
            let answer = match done.finish(&Writable::new(&to)) {
                Outcome::Dropped => {
                    assert_eq!(reply, [0xaa; 64]);
                    None
                }
                Outcome::Reply(len) => {
                    let reply = &reply[..len];
                    let header: Header = Decoder::new(reply).field().unwrap();
                    assert_eq!(usize::try_from(header.size).unwrap(), len);
                    Some(match Rlock::parse(reply) {
                        Ok((tag, lock)) => (tag, Ok(lock.status)),
                        Err(_) => {
                            let (tag, error) = Rlerror::parse(reply).unwrap();
                            (tag, Err(Errno::from_raw(error.ecode.try_into().unwrap())))
                        }
                    })
                }
            };
            (done.ticket(), answer)
        })
        .collect()
}

fn granted(tag: u16) -> Done {
    (u64::from(tag) * 10, Some((Tag(tag), Ok(LockStatus::SUCCESS))))
}

const DONE_LOCK: Started = Started::Done(Outcome::Reply(8));

#[test]
fn a_lock_waits_for_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let client = scene(folder.path());
    assert_eq!(want(&client, 1, 1, LockType::WRITE, 100), DONE_LOCK);
    assert_eq!(want(&client, 2, 2, LockType::WRITE, 200), Started::Parked);
    assert_eq!(want(&client, 3, 2, LockType::READ, 300), Started::Parked);
    assert_eq!(client.server.parked_count(), 2);
    assert_eq!(completed(&client), []);
    assert_eq!(want(&client, 4, 1, LockType::UNLOCK, 100), DONE_LOCK);
    assert_eq!(completed(&client), [granted(2)], "in the order in which they came");
    assert_eq!(want(&client, 4, 1, LockType::UNLOCK, 200), DONE_LOCK);
    assert_eq!(completed(&client), [granted(3)]);
    assert_eq!(client.server.parked_count(), 0);
    assert_eq!(client.lock(Fid(1), LockType::WRITE, ALL, 100), Ok(LockStatus::BLOCKED), "they really lock");
}

#[test]
fn readers_that_wait_come_together() {
    let folder = tempfile::tempdir().unwrap();
    let client = scene(folder.path());
    want(&client, 1, 1, LockType::WRITE, 100);
    for tag in [2, 3, 4] {
        assert_eq!(want(&client, tag, 2, LockType::READ, u32::from(tag)), Started::Parked);
    }
    // To share is to give up the exclusive lock.
    assert_eq!(want(&client, 5, 1, LockType::READ, 100), DONE_LOCK);
    assert_eq!(completed(&client), [granted(2), granted(3), granted(4)]);
}

#[test]
fn a_flush_gives_the_old_request_back_first() {
    let folder = tempfile::tempdir().unwrap();
    let client = scene(folder.path());
    want(&client, 1, 1, LockType::WRITE, 100);
    assert_eq!(want(&client, 2, 2, LockType::WRITE, 200), Started::Parked);
    assert_eq!(want(&client, 3, 2, LockType::WRITE, 300), Started::Parked);
    let (flush, reply) = start(&client, 9, &Tflush { oldtag: Tag(2) }, 90);
    assert_eq!((flush, reply[4]), (Started::Done(Outcome::Reply(7)), 109));
    assert_eq!(completed(&client), [(20, None)]);
    want(&client, 4, 1, LockType::UNLOCK, 100);
    assert_eq!(completed(&client), [granted(3)]);
    assert_eq!(client.lock(Fid(2), LockType::UNLOCK, ALL, 300), Ok(LockStatus::SUCCESS));
    assert_eq!(
        client.lock(Fid(1), LockType::WRITE, ALL, 100),
        Ok(LockStatus::SUCCESS),
        "what was flushed locks nothing"
    );
    // Too late: the lock was granted, and its real answer comes before the flush's.
    assert_eq!(want(&client, 5, 2, LockType::WRITE, 200), Started::Parked);
    want(&client, 6, 1, LockType::UNLOCK, 100);
    start(&client, 9, &Tflush { oldtag: Tag(5) }, 90);
    assert_eq!(completed(&client), [granted(5)]);
    start(&client, 9, &Tflush { oldtag: Tag(77) }, 90);
    assert_eq!(completed(&client), []);
}

#[test]
fn a_lock_on_a_fid_that_goes_is_refused_and_one_behind_it_granted() {
    let folder = tempfile::tempdir().unwrap();
    let client = scene(folder.path());
    client.open_path(Fid(3), "f", OpenFlags::RDWR).unwrap();
    want(&client, 1, 1, LockType::WRITE, 100);
    assert_eq!(want(&client, 2, 1, LockType::WRITE, 200), Started::Parked);
    assert_eq!(want(&client, 3, 2, LockType::WRITE, 300), Started::Parked);
    assert_eq!(want(&client, 4, 3, LockType::READ, 400), Started::Parked);
    start(&client, 8, &Tclunk { fid: Fid(3) }, 80);
    assert_eq!(completed(&client), [(40, Some((Tag(4), Err(Errno::EBADF))))]);
    // The holder's own fid, on which another waits: with it goes the lock.
    start(&client, 8, &Tclunk { fid: Fid(1) }, 80);
    assert_eq!(completed(&client), [(20, Some((Tag(2), Err(Errno::EBADF)))), granted(3)]);
}

#[test]
fn a_lock_of_the_host_is_noticed_when_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let client = scene(folder.path());
    let host = std::fs::File::options().write(true).open(folder.path().join("f")).unwrap();
    // SAFETY: all-zero bytes are a valid `flock`.
    let mut flock: libc::flock = unsafe { std::mem::zeroed() };
    let mut set = |kind: libc::c_int| {
        flock.l_type = kind.try_into().unwrap();
        // SAFETY: the call reads the struct alone.
        assert_eq!(unsafe { libc::fcntl(host.as_raw_fd(), libc::F_OFD_SETLK, &raw const flock) }, 0);
    };
    set(libc::F_WRLCK);
    assert_eq!(want(&client, 1, 1, LockType::READ, 100), Started::Parked);
    client.server.retry_parked();
    assert_eq!(completed(&client), []);
    set(libc::F_UNLCK);
    client.server.retry_parked();
    assert_eq!(completed(&client), [granted(1)]);
}

#[test]
fn a_new_session_gives_everything_back_and_a_reset_forgets_it() {
    let folder = tempfile::tempdir().unwrap();
    let client = scene(folder.path());
    want(&client, 1, 1, LockType::WRITE, 100);
    want(&client, 2, 2, LockType::WRITE, 200);
    let (version, _) = start(&client, NOTAG.0, &Tversion { msize: 8192, version: b"9P2000.L" }, 0);
    assert!(matches!(version, Started::Done(Outcome::Reply(_))));
    assert_eq!(completed(&client), [(20, None)]);

    let client = scene(folder.path());
    want(&client, 1, 1, LockType::WRITE, 100);
    want(&client, 2, 2, LockType::WRITE, 200);
    client.server.reset();
    assert_eq!((client.server.parked_count(), completed(&client)), (0, Vec::new()));
}

#[test]
fn who_does_not_want_to_wait_and_who_is_too_many_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("f"), "").unwrap();
    let mut options = Options::default();
    options.max_parked_locks = 2;
    let client = crate::client::connect_with(folder.path(), options, PassthroughOptions::default());
    client.open_path(Fid(1), "f", OpenFlags::RDWR).unwrap();
    want(&client, 1, 1, LockType::WRITE, 100);
    let (started, reply) = start(&client, 2, &lock_message(1, LockType::WRITE, 200, 0), 20);
    assert_eq!((started, reply[7]), (DONE_LOCK, LockStatus::BLOCKED.0));
    assert_eq!(want(&client, 3, 1, LockType::WRITE, 300), Started::Parked);
    assert_eq!(want(&client, 4, 1, LockType::WRITE, 400), Started::Parked);
    let (started, reply) = start(&client, 5, &lock_message(1, LockType::WRITE, 500, LockFlags::BLOCK), 50);
    assert_eq!((started, reply[7]), (DONE_LOCK, LockStatus::BLOCKED.0));
    assert_eq!(client.lock(Fid(1), LockType::WRITE, ALL, 600), Ok(LockStatus::BLOCKED), "without a ticket");
    let _ = client.clunk(ROOT);
    assert_eq!(client.server.parked_count(), 2);
}

#[test]
fn a_reply_buffer_that_shrank_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let client = scene(folder.path());
    want(&client, 1, 1, LockType::WRITE, 100);
    want(&client, 2, 2, LockType::WRITE, 200);
    want(&client, 3, 1, LockType::UNLOCK, 100);
    let done = client.server.next_completed().unwrap();
    let mut reply = [0xaa; 10];
    // SAFETY: the buffer outlives the segment and is not touched while it is used.
    let to = [unsafe { Segment::new(reply.as_mut_ptr(), reply.len()) }];
    assert_eq!(done.finish(&Writable::new(&to)), Outcome::Dropped);
    assert_eq!(reply, [0xaa; 10]);
}
