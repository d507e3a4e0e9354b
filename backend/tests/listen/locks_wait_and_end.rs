//! A lock that waits holds up nothing but itself, and locks end with their connection.

use std::fs::File;
use std::os::fd::AsRawFd;

use virtio_9p::wire::{AttrMask, Fid, LockStatus, LockType, Message, MessageType, Rflush, Tflush, Tgetattr};

use crate::client::{Client, ROOT, header, lock_status};
use crate::rig::Rig;

/// Two sessions with the same file open; the first has the lock, the second waits for it.
fn holder_and_waiter(rig: &Rig) -> (Client, Client) {
    let [mut holder, mut waiter] = [0, 1].map(|at| Client::connect(&rig.addresses()[at], 8192));
    holder.create_file(Fid(1), "file");
    waiter.open_file(Fid(1), "file");
    assert_eq!(holder.lock(Fid(1), LockType::WRITE), LockStatus::SUCCESS);
    waiter.start_lock(Fid(1));
    // Answered while the lock is not: the connection is free.
    let tag = waiter.start(&Tgetattr { fid: ROOT, request_mask: AttrMask::BASIC }, &[]);
    assert_eq!(header(&waiter.receive().unwrap()).tag, tag);
    (holder, waiter)
}

#[test]
fn a_lock_passes_on_when_it_is_given_up() {
    let rig = Rig::new();
    let (mut holder, mut waiter) = holder_and_waiter(&rig);
    assert_eq!(holder.lock(Fid(1), LockType::UNLOCK), LockStatus::SUCCESS);
    assert_eq!(lock_status(&waiter.receive().unwrap()), LockStatus::SUCCESS);
}

#[test]
fn a_lock_passes_on_when_its_client_vanishes() {
    let rig = Rig::new();
    let (holder, mut waiter) = holder_and_waiter(&rig);
    drop(holder);
    assert_eq!(lock_status(&waiter.receive().unwrap()), LockStatus::SUCCESS);
}

#[test]
fn a_flushed_lock_gets_no_answer() {
    let rig = Rig::new();
    let (mut holder, mut waiter) = holder_and_waiter(&rig);
    let waiting = waiter.start_lock(Fid(1));
    let flush = waiter.start(&Tflush { oldtag: waiting }, &[]);
    let reply = waiter.receive().unwrap();
    assert_eq!(header(&reply).tag, flush);
    assert!(Rflush::parse(&reply).is_ok());
    // The one that was not flushed is granted, and nothing else comes.
    holder.lock(Fid(1), LockType::UNLOCK);
    let granted = waiter.receive().unwrap();
    assert_eq!(lock_status(&granted), LockStatus::SUCCESS);
    assert_ne!(header(&granted).tag, waiting);
    waiter.call(&Tgetattr { fid: ROOT, request_mask: AttrMask::BASIC }, &[]);
}

/// Takes the whole file for this open file description: a lock of the process would go when the server, which is in the
/// same one, closes the file.
fn lock_on_the_host(file: &File) {
    // SAFETY: all-zero bytes are a valid `flock`.
    let mut flock: libc::flock = unsafe { std::mem::zeroed() };
    flock.l_type = libc::F_WRLCK.try_into().unwrap();
    // SAFETY: the call reads the struct alone.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const flock) }, 0);
}

#[test]
fn a_lock_of_the_host_is_waited_for() {
    let rig = Rig::new();
    let mut client = Client::connect(&rig.unix(), 8192);
    client.create_file(Fid(1), "file");
    let host = File::options().read(true).write(true).open(rig.folder().join("file")).unwrap();
    lock_on_the_host(&host);
    client.start_lock(Fid(1));
    client.start(&Tgetattr { fid: ROOT, request_mask: AttrMask::BASIC }, &[]);
    assert_eq!(header(&client.receive().unwrap()).kind, MessageType(MessageType::TGETATTR.0 + 1));
    drop(host);
    assert_eq!(lock_status(&client.receive().unwrap()), LockStatus::SUCCESS);
}
