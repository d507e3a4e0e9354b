//! An UNMAP that overlaps a file read in flight completes after it; any other completes at once; and a read that does not
//! end costs its endpoint the bus, not the guest's memory.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use calgary_tests::guest::iommu::{MAP_F_READ, MAP_F_WRITE, Request, Status};
use calgary_tests::guest::queue::Descriptor;
use calgary_tests::guest::{DeviceAddr, GuestOptions, GuestPhys, Mapping, ROOT_FID, Session, ShareOptions};
use calgaryd::device::PollPolicy;
use calgaryd::device::iommu::{Iommu, IommuDevice};
use calgaryd::device::share::{Attachment, ShareDevice};
use calgaryd::supervisor::{Port, Supervisor};
use calgaryd::transport::socket::BoundSocket;
use iommu_calgary::TableSize;
use virtio_9p::{Options, Server};

use crate::TRANSPORT;
use crate::gate::{CONTENT, Gate, Stop, TREAD, protocol, tread};

const ENDPOINT: u32 = 6 << 3;
/// Where the test maps the request and the reply by hand.
const REQUEST: u64 = 0x10_0000;
const REPLY: u64 = 0x20_0000;
const ELSEWHERE: u64 = 0x30_0000;

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

impl Bench {
    fn new(limit: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (gate, begun, open) = Gate::new();
        let iommu = Arc::new(Iommu::with_quiesce_limit(TableSize::MiB64, false, limit).unwrap());
        let phb = iommu.add_endpoint(ENDPOINT).unwrap();
        let attachment = Attachment::Behind { iommu: Arc::clone(&iommu), endpoint: ENDPOINT, phb };
        let server = Server::new(gate, Options::default());
        let tag = "gate".parse().unwrap();
        let share = Arc::new(ShareDevice::new(&tag, server, 65536, attachment, PollPolicy::Auto));
        let device = Arc::new(IommuDevice::new(iommu, PollPolicy::Auto));
        let sockets = ["iommu", "share"].map(|name| folder.path().join(name));
        let ports = vec![
            Port::new(device, BoundSocket::bind(&sockets[0]).unwrap(), protocol()).unwrap(),
            Port::new(share, BoundSocket::bind(&sockets[1]).unwrap(), protocol()).unwrap(),
        ];
        let (supervisor, stop) = Supervisor::new(ports, false, Box::new(|| {})).unwrap();
        std::thread::spawn(move || supervisor.run());
        let [iommu_socket, socket] = sockets;
        let mut guest = Session::boot(GuestOptions {
            iommu_socket: Some(iommu_socket),
            shares: vec![ShareOptions { socket, endpoint: ENDPOINT, translated: true }],
            mapping: Mapping::Strict,
            iommu_transport: TRANSPORT,
            transport: TRANSPORT,
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
        let request = tread(&memory);
        let iommu = self.guest.iommu.clone().unwrap();
        let pages =
            [(REQUEST, request, MAP_F_READ), (REPLY, self.reply, MAP_F_WRITE), (ELSEWHERE, request, MAP_F_READ)];
        for (at, page, flags) in pages {
            iommu.map(self.domain, at, at + 4095, page, flags).unwrap();
        }
        let queue = self.guest.shares[0].client.queue();
        for (index, (at, bytes, flags)) in (0..).zip([(REQUEST, TREAD, 1), (REPLY, 4096, 2)]) {
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
