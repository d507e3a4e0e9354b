//! A ring that is not in guest memory for a while, as a front end may have it that replaces memory piece by piece: nothing is
//! taken from it meanwhile, and it is served when it is back, with no kick to say so.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use calgaryd::device::PollPolicy;
use calgaryd::device::iommu::{FaultRecord, Iommu, IommuDevice};
use calgaryd::device::share::{Attachment, ShareDevice};
use calgaryd::dma::{DmaFault, DmaFaultReason};
use calgaryd::memory::GuestRam;
use calgaryd::transport::Device;
use frontend_spec::iommu::{
    AttachFlags, AttachRequest, EVENT_QUEUE, FaultEvent, MapFlags, MapRequest, REQUEST_QUEUE, feature,
};
use frontend_spec::virtio::{Descriptor, descriptor_flag};
use iommu_calgary::{Access, TableSize};
use virtio_9p::wire::{
    Fid, LockFlags, LockType, Message, NOFID, NONUNAME, OpenFlags, Tag, Tattach, Tlock, Tlopen, Tversion, Twalk,
    WalkNames,
};
use virtio_9p::{Options, Passthrough, PassthroughOptions, Server};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

use crate::driver::{BUFFERS, Deaf, ENDPOINT, Ring, until, wake_if_asked};

/// Where the parts of a ring lie, each in a region of its own.
const PARTS: [u64; 3] = [0x10_0000, 0x20_0000, 0x30_0000];
const PART_BYTES: usize = 0x1000;

/// The parts of a ring that is put into memory, and whether the two sides tell each other of events by index.
fn cases() -> impl Iterator<Item = (u64, bool)> {
    PARTS.into_iter().flat_map(|missing| [(missing, false), (missing, true)])
}

fn memory() -> GuestMemoryMmap {
    let [descriptors, avail, used] = PARTS.map(|part| (GuestAddress(part), PART_BYTES));
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000), descriptors, avail, used]).unwrap()
}

fn without(memory: &GuestMemoryMmap, part: u64) -> Arc<GuestRam> {
    GuestRam::new(&memory.remove_region(GuestAddress(part), PART_BYTES as u64).unwrap().0)
}

/// A device with the ring `queue`, and requests in it that come while `missing` is not in memory.
fn ring_comes_back(device: &dyn Device, queue: usize, missing: u64, event_idx: bool, requests: &[&[u8]]) {
    let memory = memory();
    let mut ring = Ring::new(&memory, PARTS, event_idx);
    device.set_memory(GuestRam::new(&memory));
    device.activate(queue, ring.layout, 0, Arc::new(Deaf));
    // Found where it is before it goes.
    device.service(queue);
    assert!(ring.wants_kicks());

    device.set_memory(without(&memory, missing));
    ring.offer(requests);
    device.service(queue);
    device.service(queue);
    assert!(!ring.is_answered());
    // It is the same with memory that helps nothing.
    device.set_memory(without(&memory, missing));
    wake_if_asked(device);
    assert!(!ring.is_answered());

    device.set_memory(GuestRam::new(&memory));
    wake_if_asked(device);
    assert!(ring.is_answered(), "{missing:#x}, event_idx {event_idx}: the ring was given up");
    assert!(ring.wants_kicks());
}

#[test]
fn requests_to_the_iommu_wait_for_their_ring() {
    for (missing, event_idx) in cases() {
        let iommu = Arc::new(Iommu::new(TableSize::MiB32, false).unwrap());
        iommu.add_endpoint(ENDPOINT).unwrap();
        let device = IommuDevice::new(Arc::clone(&iommu), PollPolicy::Off);
        device.ack_features(feature::MAP_UNMAP);
        let attach = AttachRequest::new(1, ENDPOINT, AttachFlags::NONE);
        let map = MapRequest::new(1, 0x1000, 0x1fff, 0, MapFlags::READ_WRITE);
        ring_comes_back(&device, REQUEST_QUEUE, missing, event_idx, &[attach.as_bytes(), map.as_bytes()]);
        let stats = iommu.stats().snapshot();
        assert_eq!((stats.attaches, stats.maps, stats.ok, stats.malformed), (1, 1, 2, 0));
        assert_eq!(iommu.live_mappings(), 1);
    }
}

#[test]
fn requests_to_a_share_wait_for_their_ring() {
    for (missing, event_idx) in cases() {
        let files = Passthrough::new(std::env::temp_dir().as_ref(), PassthroughOptions::default()).unwrap();
        let server = Server::new(files, Options::default());
        let tag = "home".parse().unwrap();
        let device = ShareDevice::new(&tag, server, 65536, Attachment::Direct, PollPolicy::Off).unwrap();
        // No messages, and as such handed back.
        ring_comes_back(&device, 0, missing, event_idx, &[&[1], &[2]]);
        assert_eq!(device.stats().dropped, 2);
    }
}

/// Takes the whole of `file` for this open file description, or lets go of it.
fn lock_on_the_host(file: &File, kind: libc::c_int) {
    // SAFETY: all-zero bytes are a valid `flock`.
    let mut flock: libc::flock = unsafe { std::mem::zeroed() };
    flock.l_type = kind.try_into().unwrap();
    // SAFETY: the call reads the struct alone.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const flock) }, 0);
}

/// One message.
fn message<'a>(request: &impl Message<'a>) -> Vec<u8> {
    let mut bytes = vec![0; 256];
    let len = request.emit(Tag(1), &mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

/// A share whose guest waits for a lock that somebody on the host holds.
struct WaitsForLock {
    memory: GuestMemoryMmap,
    ring: Ring,
    device: ShareDevice,
    holder: File,
    _folder: tempfile::TempDir,
}

impl WaitsForLock {
    fn new(event_idx: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"content").unwrap();
        let files = Passthrough::new(folder.path(), PassthroughOptions::default()).unwrap();
        let server = Server::new(files, Options::default());
        let tag = "home".parse().unwrap();
        let device = ShareDevice::new(&tag, server, 65536, Attachment::Direct, PollPolicy::Off).unwrap();
        let memory = memory();
        let mut ring = Ring::new(&memory, PARTS, event_idx);
        device.set_memory(GuestRam::new(&memory));
        device.activate(0, ring.layout, 0, Arc::new(Deaf));
        let mut ask = |request: &[u8]| {
            ring.offer_with_room(&[request], 256);
            device.service(0);
            ring.is_answered()
        };
        let (root, fid) = (Fid(0), Fid(1));
        assert!(ask(&message(&Tversion { msize: 65536, version: b"9P2000.L" })));
        let (uname, aname) = (b"".as_slice(), b"".as_slice());
        assert!(ask(&message(&Tattach { fid: root, afid: NOFID, uname, aname, n_uname: Some(NONUNAME) })));
        let names: [&[u8]; 1] = [b"file"];
        assert!(ask(&message(&Twalk { fid: root, newfid: fid, names: WalkNames::new(&names).unwrap() })));
        assert!(ask(&message(&Tlopen { fid, flags: OpenFlags(2) })));
        let holder = File::options().write(true).open(&path).unwrap();
        lock_on_the_host(&holder, libc::F_WRLCK);
        let lock = Tlock {
            fid,
            kind: LockType::WRITE,
            flags: LockFlags(LockFlags::BLOCK),
            start: 0,
            length: 0,
            proc_id: 1,
            client_id: b"guest",
        };
        assert!(!ask(&message(&lock)));
        assert_eq!(device.stats().parked, 1);
        Self { memory, ring, device, holder, _folder: folder }
    }
}

#[test]
fn a_lock_that_can_be_had_waits_for_the_ring_of_its_share() {
    for (missing, event_idx) in cases() {
        let WaitsForLock { memory, ring, device, holder, .. } = WaitsForLock::new(event_idx);
        device.set_memory(without(&memory, missing));
        lock_on_the_host(&holder, libc::F_UNLCK);
        device.service(0);
        assert!(!ring.is_answered());
        device.set_memory(GuestRam::new(&memory));
        let what = format!("{missing:#x}, event_idx {event_idx}: the lock is granted and its request goes back");
        until(&what, || {
            wake_if_asked(&device);
            ring.is_answered()
        });
        assert_eq!(device.stats().parked, 0);
    }
}

#[test]
fn what_a_stop_cannot_give_back_goes_back_when_the_ring_goes_on() {
    for ((missing, event_idx), starts_early) in cases().flat_map(|case| [(case, false), (case, true)]) {
        let WaitsForLock { memory, mut ring, device, holder: _holder, .. } = WaitsForLock::new(event_idx);
        device.set_memory(without(&memory, missing));
        let stopped = device.stop(0);
        assert_eq!(stopped, Some(5), "all that was taken");
        if starts_early {
            device.activate(0, ring.layout, 5, Arc::new(Deaf));
            wake_if_asked(&device);
        }
        device.set_memory(GuestRam::new(&memory));
        if !starts_early {
            device.activate(0, ring.layout, 5, Arc::new(Deaf));
        }
        wake_if_asked(&device);
        assert!(ring.is_answered(), "{missing:#x}, event_idx {event_idx}: the guest waits for ever");
        // Rlock, BLOCKED: to be asked for again.
        let mut reply = [0; 8];
        memory.read_slice(&mut reply, GuestAddress(BUFFERS + 0x100)).unwrap();
        assert_eq!((reply[4], reply[7]), (53, 1));
        // And the ring goes on.
        ring.offer(&[&[1]]);
        device.service(0);
        assert!(ring.is_answered());
    }
}

#[test]
fn a_new_driver_gets_nothing_that_was_owed_to_the_last_one() {
    let WaitsForLock { memory, ring, device, holder: _holder, .. } = WaitsForLock::new(true);
    device.set_memory(without(&memory, PARTS[2]));
    assert_eq!(device.stop(0), Some(5));
    device.set_memory(GuestRam::new(&memory));
    for part in PARTS {
        memory.write_slice(&[0; PART_BYTES], GuestAddress(part)).unwrap();
    }
    let mut anew = Ring::new(&memory, PARTS, true);
    device.activate(0, ring.layout, 0, Arc::new(Deaf));
    wake_if_asked(&device);
    device.service(0);
    assert!(anew.is_answered(), "a used element that nobody asked for");
    anew.offer(&[&[1], &[2]]);
    device.service(0);
    assert!(anew.is_answered());
}

#[test]
fn a_reset_forgets_what_was_owed() {
    let WaitsForLock { memory, ring, device, holder: _holder, .. } = WaitsForLock::new(true);
    device.set_memory(without(&memory, PARTS[2]));
    assert_eq!(device.stop(0), Some(5));
    device.reset();
    device.set_memory(GuestRam::new(&memory));
    device.activate(0, ring.layout, 5, Arc::new(Deaf));
    wake_if_asked(&device);
    assert!(!ring.is_answered(), "an answer from before the reset");
}

#[test]
fn a_fault_waits_for_the_ring_of_events() {
    for (missing, event_idx) in cases() {
        let iommu = Arc::new(Iommu::new(TableSize::MiB32, false).unwrap());
        let device = IommuDevice::new(Arc::clone(&iommu), PollPolicy::Off);
        let memory = memory();
        device.set_memory(GuestRam::new(&memory));
        let requests = Ring::new(&memory, [0x1000, 0x2000, 0x3000], event_idx);
        device.activate(REQUEST_QUEUE, requests.layout, 0, Arc::new(Deaf));
        let events = Ring::new(&memory, PARTS, event_idx).layout;
        device.activate(EVENT_QUEUE, events, 0, Arc::new(Deaf));
        let room = Descriptor::new(BUFFERS, 24, descriptor_flag::WRITE, 0);
        memory.write_slice(room.as_bytes(), GuestAddress(events.descriptors)).unwrap();
        memory.write_obj(1_u16, GuestAddress(events.avail + 2)).unwrap();
        let used = || memory.read_obj::<u16>(GuestAddress(events.used + 2)).unwrap();

        device.set_memory(without(&memory, missing));
        let fault = DmaFault { address: 0x5000, access: Access::Read, reason: DmaFaultReason::NotRam };
        iommu.faults().record(FaultRecord { endpoint: ENDPOINT, fault });
        wake_if_asked(&device);
        assert_eq!(used(), 0);
        device.set_memory(GuestRam::new(&memory));
        wake_if_asked(&device);
        assert_eq!(used(), 1, "{missing:#x}, event_idx {event_idx}: the ring was given up");
        let mut event = [0; FaultEvent::SIZE];
        memory.read_slice(&mut event, GuestAddress(BUFFERS)).unwrap();
        assert_eq!((event[8], event[17]), (u8::try_from(ENDPOINT).unwrap(), 0x50));
    }
}
