//! An UNMAP that overlaps a file read in flight completes after it; any other completes at once; and a read that does not
//! end costs its endpoint the bus, not the guest's memory.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use calgary_tests::guest::iommu::{MAP_F_READ, MAP_F_WRITE, Request, Status};
use calgary_tests::guest::queue::Descriptor;
use calgary_tests::guest::{DeviceAddr, GuestOptions, GuestPhys, Mapping, ROOT_FID, Session, ShareOptions};
use calgaryd::device::PollPolicy;
use calgaryd::device::iommu::{Iommu, IommuDevice};
use calgaryd::device::share::{Attachment, ShareDevice};
use calgaryd::supervisor::{Port, StopHandle, Supervisor};
use calgaryd::transport::socket::BoundSocket;
use iommu_calgary::TableSize;
use virtio_9p::wire::{AttrMask, DirEntry, OpenFlags, Qid, Rgetattr, Rstatfs};
use virtio_9p::{Attach, Entry, Errno, FileSystem, Name, Opened, Options, Server, Writable};

const ENDPOINT: u32 = 6 << 3;
const CONTENT: &[u8] = b"came late";
/// Where the test maps the request and the reply by hand.
const REQUEST: u64 = 0x10_0000;
const REPLY: u64 = 0x20_0000;
const ELSEWHERE: u64 = 0x30_0000;

/// A file system of one file whose reads tell that they have begun and end when they are let.
struct Gate {
    begun: Mutex<Sender<()>>,
    open: Mutex<Receiver<()>>,
}

fn file() -> Qid {
    Qid { kind: virtio_9p::wire::QidType::FILE, version: 1, path: 1 }
}

impl FileSystem for Gate {
    type Node = ();
    type Handle = ();

    fn attach(&self, _: &Attach<'_>) -> Result<Entry<()>, Errno> {
        Ok(Entry { node: (), qid: file() })
    }

    fn lookup(&self, (): &(), _: Name<'_>) -> Result<Entry<()>, Errno> {
        Err(Errno::ENOTDIR)
    }

    fn parent(&self, (): &()) -> Result<Entry<()>, Errno> {
        Err(Errno::ENOTDIR)
    }

    fn getattr(&self, (): &(), _: AttrMask) -> Result<Rgetattr, Errno> {
        Err(Errno::EIO)
    }

    fn statfs(&self, (): &()) -> Result<Rstatfs, Errno> {
        Err(Errno::EIO)
    }

    fn open(&self, (): &(), _: OpenFlags) -> Result<Opened<()>, Errno> {
        Ok(Opened { handle: (), qid: file() })
    }

    fn read(&self, (): &(), _: u64, data: &Writable<'_>) -> Result<usize, Errno> {
        self.begun.lock().unwrap().send(()).map_err(|_| Errno::EIO)?;
        self.open.lock().unwrap().recv().map_err(|_| Errno::EIO)?;
        Ok(data.copy_from(0, CONTENT))
    }

    fn readdir(&self, (): &(), _: u64, _: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<(), Errno> {
        Err(Errno::ENOTDIR)
    }
}

/// The two devices on a [`Gate`], and a guest with the file open.
struct Bench {
    guest: Session,
    domain: u32,
    begun: Receiver<()>,
    open: Sender<()>,
    reply: GuestPhys,
    _stop: Stop,
    _folder: tempfile::TempDir,
}

struct Stop(StopHandle);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Bench {
    fn new(limit: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (begun_sender, begun) = channel();
        let (open, open_receiver) = channel();
        let gate = Gate { begun: Mutex::new(begun_sender), open: Mutex::new(open_receiver) };
        let iommu = Arc::new(Iommu::with_quiesce_limit(TableSize::MiB64, false, limit).unwrap());
        let phb = iommu.add_endpoint(ENDPOINT).unwrap();
        let attachment = Attachment::Behind { iommu: Arc::clone(&iommu), endpoint: ENDPOINT, phb };
        let server = Server::new(gate, Options::default());
        let tag = "gate".parse().unwrap();
        let share = Arc::new(ShareDevice::new(&tag, server, 65536, attachment, PollPolicy::Auto));
        let device = Arc::new(IommuDevice::new(iommu, PollPolicy::Auto));
        let sockets = ["iommu", "share"].map(|name| folder.path().join(name));
        let ports = vec![
            Port::new(device, BoundSocket::bind(&sockets[0]).unwrap(), None).unwrap(),
            Port::new(share, BoundSocket::bind(&sockets[1]).unwrap(), None).unwrap(),
        ];
        let (supervisor, stop) = Supervisor::new(ports, false, Box::new(|| {})).unwrap();
        std::thread::spawn(move || supervisor.run());
        let [iommu_socket, socket] = sockets;
        let mut guest = Session::boot(GuestOptions {
            iommu_socket: Some(iommu_socket),
            shares: vec![ShareOptions { socket, endpoint: ENDPOINT, translated: true }],
            mapping: Mapping::Strict,
            ..GuestOptions::default()
        })
        .unwrap();
        guest.shares[0].client.lopen(ROOT_FID, 0).unwrap();
        let domain = guest.shares[0].domain.unwrap();
        let reply = guest.memory.take_page().unwrap();
        Self { guest, domain, begun, open, reply, _stop: Stop(stop), _folder: folder }
    }

    /// Offers a read of the file into the page at [`REPLY`] and waits until it is in flight.
    fn begin_read(&mut self) {
        let memory = Arc::clone(&self.guest.memory);
        let request = memory.take_page().unwrap();
        let body = [&ROOT_FID.to_le_bytes()[..], &0_u64.to_le_bytes(), &64_u32.to_le_bytes()].concat();
        let frame = [&23_u32.to_le_bytes()[..], &[116], &1_u16.to_le_bytes(), &body].concat();
        memory.write(request, &frame).unwrap();
        let iommu = self.guest.iommu.clone().unwrap();
        let pages =
            [(REQUEST, request, MAP_F_READ), (REPLY, self.reply, MAP_F_WRITE), (ELSEWHERE, request, MAP_F_READ)];
        for (at, page, flags) in pages {
            iommu.map(self.domain, at, at + 4095, page, flags).unwrap();
        }
        let queue = self.guest.shares[0].client.queue();
        for (index, (at, bytes, flags)) in (0..).zip([(REQUEST, 23, 1), (REPLY, 4096, 2)]) {
            let descriptor = Descriptor { address: DeviceAddr(at), bytes, flags, next: 1 };
            queue.ring().raw_descriptor(index, descriptor).unwrap();
        }
        queue.ring().raw_offer(0, 4096).unwrap();
        queue.publish().unwrap();
        queue.force_kick().unwrap();
        self.begun.recv().unwrap();
    }

    fn unmap(&self, at: u64) -> Status {
        unmap(self.guest.iommu.as_ref().unwrap(), self.domain, at)
    }
}

fn unmap(iommu: &calgary_tests::guest::Iommu, domain: u32, at: u64) -> Status {
    iommu.request(Request::Unmap { domain, first: at, last: at + 4095 }).unwrap()
}

#[test]
fn only_an_unmap_that_overlaps_the_read_waits_for_it() {
    let mut bench = Bench::new(Duration::from_secs(60));
    bench.begin_read();
    // The read is in flight all the time, or this would hang.
    assert_eq!(bench.unmap(ELSEWHERE), Status::Ok);
    let (done_sender, done) = channel();
    let (iommu, memory) = (bench.guest.iommu.clone().unwrap(), Arc::clone(&bench.guest.memory));
    let (domain, reply) = (bench.domain, bench.reply);
    let unmapper = std::thread::spawn(move || {
        let status = unmap(&iommu, domain, REPLY);
        let mut page = [0; 20];
        memory.read(reply, &mut page).unwrap();
        done_sender.send((status, page)).unwrap();
    });
    assert!(done.recv_timeout(Duration::from_millis(200)).is_err(), "the UNMAP did not wait");
    bench.open.send(()).unwrap();
    let (status, page) = done.recv().unwrap();
    unmapper.join().unwrap();
    assert_eq!(status, Status::Ok);
    assert_eq!(&page[11..], CONTENT, "what the device wrote was there before the UNMAP was answered");
    assert_eq!(bench.guest.shares[0].client.queue().take().unwrap().bytes, 20);
}

#[test]
fn a_read_that_does_not_end_costs_the_endpoint_the_bus() {
    let mut bench = Bench::new(Duration::from_millis(20));
    bench.begin_read();
    assert_eq!(bench.unmap(REPLY), Status::DeviceError, "what is not true is not acknowledged");
    bench.open.send(()).unwrap();
    // The ring itself is out of reach now: no used element appears, and the guest is told of the access.
    let event = bench.guest.iommu.as_ref().unwrap().wait_fault(Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!((event.reason, event.endpoint), (0, ENDPOINT));
    assert!(bench.guest.shares[0].client.queue().take_within(Duration::from_millis(50)).unwrap().is_none());
    // Once the read has ended, a new driver has the device back.
    bench.guest.reboot().unwrap();
    bench.guest.shares[0].client.lopen(ROOT_FID, 0).unwrap();
}
