//! A lock that another owner holds keeps its request in the device and nothing else waiting; and whatever ends the wait, the
//! request goes back once, before what ended it is answered.

use std::sync::Arc;
use std::time::Duration;

use calgary_tests::guest::iommu::{MAP_F_READ, MAP_F_WRITE, Request, Status};
use calgary_tests::guest::ninep::{Call, LockRequest, NONUNAME, NinepClient, Tag};
use calgary_tests::guest::queue::Descriptor;
use calgary_tests::guest::{DeviceAddr, Direct, Mapping, NinepError, ROOT_FID, Session};

use crate::rig::{DIRECT, ENDPOINT, Rig, TRANSLATED};

pub(crate) const FILE: u32 = 5;
const EBADF: u32 = 9;
/// Kinds of a Tlock, and the answers.
const WRITE: u8 = 1;
const UNLOCK: u8 = 2;
pub(crate) const SUCCESS: u8 = 0;
pub(crate) const BLOCKED: u8 = 1;
/// Long enough for any machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A lock of the whole file for a process of the guest, which waits if it has to.
pub(crate) fn lock(process: u32) -> LockRequest<'static> {
    LockRequest { kind: WRITE, flags: 1, process, client: b"guest", ..LockRequest::default() }
}

pub(crate) fn unlock(process: u32) -> LockRequest<'static> {
    LockRequest { kind: UNLOCK, flags: 0, ..lock(process) }
}

fn open(client: &mut NinepClient) {
    client.walk(ROOT_FID, FILE, &[b"file"]).unwrap();
    client.lopen(FILE, 2).unwrap();
}

/// A guest with the file open through both shares.
pub(crate) fn guest(rig: &Rig) -> Session {
    std::fs::write(rig.shared().join("file"), b"content").unwrap();
    let mut guest = rig.guest(Mapping::Strict);
    for share in &mut guest.shares {
        open(&mut share.client);
    }
    guest
}

fn send(client: &mut NinepClient, call: Call) -> Tag {
    let tag = client.submit(call).unwrap();
    client.kick().unwrap();
    tag
}

pub(crate) fn status(client: &mut NinepClient, tag: Tag) -> u8 {
    client.collect(tag).unwrap().body[0]
}

/// Process 1 has the lock, and process 2 waits for it.
pub(crate) fn park(client: &mut NinepClient) -> Tag {
    assert_eq!(client.lock(FILE, &lock(1)).unwrap(), SUCCESS);
    let waiting = send(client, Call::lock(FILE, &lock(2)));
    // Answered after the lock was looked at, which is not: the share is free.
    client.getattr(FILE, 1).unwrap();
    assert!(!client.is_done(waiting).unwrap());
    waiting
}

pub(crate) fn parked(rig: &Rig, tag: &str) -> u64 {
    rig.daemon.share(tag).unwrap().stats().parked
}

#[test]
fn a_lock_is_granted_when_its_holder_gives_it_up() {
    let rig = Rig::new();
    let mut guest = guest(&rig);
    for (share, tag) in guest.shares.iter_mut().zip([TRANSLATED, DIRECT]) {
        let client = &mut share.client;
        let waiting = park(client);
        assert_eq!(parked(&rig, tag), 1);
        let unlocking = send(client, Call::lock(FILE, &unlock(1)));
        assert_eq!(client.wait_any().unwrap(), waiting, "{tag}: it goes back with what granted it, not later");
        assert_eq!(status(client, waiting), SUCCESS);
        assert_eq!(status(client, unlocking), SUCCESS);
        assert_eq!(parked(&rig, tag), 0);
        assert_eq!(client.lock(FILE, &LockRequest { flags: 0, ..lock(3) }).unwrap(), BLOCKED, "{tag}: 2 has it");
        client.clunk(FILE).unwrap();
    }
}

#[test]
fn a_lock_is_granted_when_somebody_else_gives_it_up() {
    let rig = Rig::new();
    let mut guest = guest(&rig);
    let [waiter, holder] = &mut guest.shares[..] else { panic!("two shares") };
    assert_eq!(holder.client.lock(FILE, &lock(1)).unwrap(), SUCCESS);
    let waiting = send(&mut waiter.client, Call::lock(FILE, &lock(1)));
    waiter.client.getattr(FILE, 1).unwrap();
    assert!(!waiter.client.is_done(waiting).unwrap());
    // No request of the waiting share tells it.
    assert_eq!(holder.client.lock(FILE, &unlock(1)).unwrap(), SUCCESS);
    assert_eq!(status(&mut waiter.client, waiting), SUCCESS);
}

#[test]
fn a_flushed_lock_goes_back_empty_before_the_flush_is_answered() {
    let rig = Rig::new();
    let mut guest = guest(&rig);
    for share in &mut guest.shares {
        let client = &mut share.client;
        let waiting = park(client);
        // Fails if the order is another.
        client.flush(waiting).unwrap();
        assert!(matches!(client.collect(waiting), Err(NinepError::Dropped)));
        assert_eq!(client.lock(FILE, &unlock(1)).unwrap(), SUCCESS);
        assert_eq!(client.lock(FILE, &lock(3)).unwrap(), SUCCESS, "nobody took it for the flushed one");
        client.clunk(FILE).unwrap();
    }
}

#[test]
fn a_flush_of_another_request_leaves_the_lock_waiting() {
    let rig = Rig::new();
    let mut guest = guest(&rig);
    let client = &mut guest.shares[0].client;
    let waiting = park(client);
    client.call(Call::flush(waiting.0 + 7)).unwrap();
    assert!(!client.is_done(waiting).unwrap());
    client.lock(FILE, &unlock(1)).unwrap();
    assert_eq!(status(client, waiting), SUCCESS);
}

#[test]
fn a_lock_fails_with_its_fid_before_the_clunk_is_answered() {
    let rig = Rig::new();
    let mut guest = guest(&rig);
    for share in &mut guest.shares {
        let client = &mut share.client;
        let waiting = park(client);
        let clunk = send(client, Call::clunk(FILE));
        assert_eq!(client.wait_any().unwrap(), waiting);
        assert_eq!(client.collect(waiting).unwrap_err().errno(), Some(EBADF));
        client.collect(clunk).unwrap();
    }
}

#[test]
fn a_lock_goes_back_empty_before_a_new_session_begins() {
    let rig = Rig::new();
    let mut guest = guest(&rig);
    for (share, tag) in guest.shares.iter_mut().zip([TRANSLATED, DIRECT]) {
        let client = &mut share.client;
        let waiting = park(client);
        let version = send(client, Call::version(8192, b"9P2000.L"));
        assert_eq!(client.wait_any().unwrap(), waiting, "{tag}");
        assert!(matches!(client.collect(waiting), Err(NinepError::Dropped)));
        client.collect(version).unwrap();
        assert_eq!(parked(&rig, tag), 0);
    }
}

#[test]
fn an_unmap_does_not_wait_for_a_lock_and_its_answer_goes_nowhere() {
    const REQUEST: u64 = 0x10_0000;
    const REPLY: u64 = 0x20_0000;
    let rig = Rig::new();
    let mut guest = guest(&rig);
    let (memory, iommu, domain) = (guest.memory.clone(), guest.iommu.clone().unwrap(), guest.shares[0].domain.unwrap());
    let [waiter, holder] = &mut guest.shares[..] else { panic!("two shares") };
    assert_eq!(holder.client.lock(FILE, &lock(1)).unwrap(), SUCCESS);

    let [request, reply] = [(); 2].map(|()| memory.take_page().unwrap());
    let body = [&FILE.to_le_bytes()[..], &[WRITE], &1_u32.to_le_bytes(), &[0; 16], &1_u32.to_le_bytes(), &[1, 0, b'g']];
    let body = body.concat();
    let bytes = u32::try_from(7 + body.len()).unwrap();
    memory.write(request, &[&bytes.to_le_bytes()[..], &[52], &9_u16.to_le_bytes(), &body].concat()).unwrap();
    memory.write(reply, &[0xaa; 64]).unwrap();
    iommu.map(domain, REQUEST, REQUEST + 4095, request, MAP_F_READ).unwrap();
    iommu.map(domain, REPLY, REPLY + 4095, reply, MAP_F_WRITE).unwrap();
    let queue = waiter.client.queue();
    for (index, (at, bytes, flags)) in (0..).zip([(REQUEST, bytes, 1), (REPLY, 64, 2)]) {
        let descriptor = Descriptor { address: DeviceAddr(at), bytes, flags, next: 1 };
        queue.ring().raw_descriptor(index, descriptor).unwrap();
    }
    queue.ring().raw_offer(0, 64).unwrap();
    queue.publish().unwrap();
    queue.force_kick().unwrap();
    while parked(&rig, TRANSLATED) == 0 {
        std::thread::yield_now();
    }
    // The lock is waited for all the time, or this would hang.
    for at in [REQUEST, REPLY] {
        assert_eq!(iommu.request(Request::Unmap { domain, first: at, last: at + 4095 }).unwrap(), Status::Ok);
    }
    assert_eq!(holder.client.lock(FILE, &unlock(1)).unwrap(), SUCCESS);
    let used = waiter.client.queue().take().unwrap();
    assert_eq!((used.head, used.bytes), (0, 0));
    let mut page = [0; 64];
    memory.read(reply, &mut page).unwrap();
    assert_eq!(page, [0xaa; 64], "a byte moved after the UNMAP");
    let event = iommu.wait_fault(LIMIT).unwrap().unwrap();
    assert_eq!((event.endpoint, event.address), (ENDPOINT, REPLY));
}

#[test]
fn a_lock_ends_with_its_driver() {
    let rig = Rig::new();
    let mut guest = guest(&rig);
    let [holder, waiter] = &mut guest.shares[..] else { panic!("two shares") };
    assert_eq!(holder.client.lock(FILE, &lock(1)).unwrap(), SUCCESS);
    send(&mut waiter.client, Call::lock(FILE, &lock(2)));
    waiter.client.getattr(FILE, 1).unwrap();
    assert_eq!(parked(&rig, DIRECT), 1);
    waiter.client.stop().unwrap();
    waiter.client.restart(Arc::new(Direct)).unwrap();
    assert_eq!(parked(&rig, DIRECT), 0);
    // Nothing comes back that the new driver did not send, and nobody has the lock when its holder gives it up.
    waiter.client.version(8192).unwrap();
    waiter.client.attach(ROOT_FID, b"", NONUNAME).unwrap();
    assert_eq!(holder.client.lock(FILE, &unlock(1)).unwrap(), SUCCESS);
    open(&mut waiter.client);
    assert_eq!(holder.client.lock(FILE, &LockRequest { flags: 0, ..lock(3) }).unwrap(), SUCCESS);
}

#[test]
fn locks_beyond_the_limit_are_to_be_asked_for_again() {
    for most in [0, 2] {
        let rig = Rig::with_limits(|limits| limits.max_parked_locks = most);
        let mut guest = guest(&rig);
        let client = &mut guest.shares[0].client;
        assert_eq!(client.lock(FILE, &lock(1)).unwrap(), SUCCESS);
        let waiting: Vec<Tag> = (0..most).map(|_| send(client, Call::lock(FILE, &lock(2)))).collect();
        assert_eq!(client.lock(FILE, &lock(3)).unwrap(), BLOCKED, "{most} may wait");
        assert_eq!(client.lock(FILE, &unlock(1)).unwrap(), SUCCESS);
        for tag in waiting {
            assert_eq!(status(client, tag), SUCCESS);
        }
    }
}
