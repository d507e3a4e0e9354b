//! Registers answer while a queue hangs in a file system; what must wait for the request in hand, waits.

use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};

use calgary_tests::guest::ninep::NONUNAME;
use calgary_tests::guest::queue::Descriptor;
use calgary_tests::guest::{ClientOptions, DeviceAddr, Direct, GuestMemory, GuestPhys, NinepClient, ROOT_FID};
use calgaryd::device::PollPolicy;
use calgaryd::device::share::{Attachment, ShareDevice};
use calgaryd::supervisor::{Port, Supervisor};
use calgaryd::transport::socket::BoundSocket;
use calgaryd::transport::vfio_user::wire::Command;
use tempfile::TempDir;
use virtio_9p::{Options, Server};

use crate::gate::{CONTENT, Gate, Stop, TREAD, protocol, tread};
use crate::raw::{RawClient, RawFunction, dma_map, dma_unmap, socket};

/// The status register.
const STATUS: u64 = 0x14;
/// A driver that is ready.
const READY: u8 = 15;
const MEMORY_MIB: u64 = 16;

/// A share outside the IOMMU whose reads a test holds up, with a read in flight.
struct Bench {
    client: NinepClient,
    function: RawFunction,
    memory: Arc<GuestMemory>,
    reply: GuestPhys,
    open: Sender<()>,
    _begun: Receiver<()>,
    _stop: Stop,
    _folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let (folder, socket) = socket();
        let (gate, begun, open) = Gate::new();
        let server = Server::new(gate, Options::default());
        let tag = "gate".parse().unwrap();
        let share = ShareDevice::new(&tag, server, 65536, Attachment::Direct, PollPolicy::Auto).unwrap();
        let port = Port::new(Arc::new(share), BoundSocket::bind(&socket).unwrap(), protocol()).unwrap();
        let (supervisor, stop) = Supervisor::new(vec![port], false, Box::new(|| {})).unwrap();
        std::thread::spawn(move || supervisor.run());
        let memory = Arc::new(GuestMemory::new(MEMORY_MIB).unwrap());
        let mut raw = RawClient::connect(&socket);
        raw.map(&memory);
        let function = RawFunction(Arc::new(Mutex::new(raw)));
        let options = ClientOptions::default();
        let device = Box::new(function.device());
        let mut client = NinepClient::start(device, Arc::clone(&memory), Arc::new(Direct), options).unwrap();
        client.version(8192).unwrap();
        client.attach(ROOT_FID, b"", NONUNAME).unwrap();
        client.lopen(ROOT_FID, 0).unwrap();
        let (request, reply) = (tread(&memory), memory.take_page().unwrap());
        let queue = client.queue();
        for (index, (page, bytes, flags)) in (0..).zip([(request, TREAD, 1), (reply, 4096, 2)]) {
            let descriptor = Descriptor { address: DeviceAddr(page.0), bytes, flags, next: 1 };
            queue.ring().raw_descriptor(index, descriptor).unwrap();
        }
        queue.ring().raw_offer(0, 4096).unwrap();
        queue.publish().unwrap();
        queue.force_kick().unwrap();
        begun.recv().unwrap();
        Self { client, function, memory, reply, open, _begun: begun, _stop: Stop(stop), _folder: folder }
    }

    fn raw(&self) -> std::sync::MutexGuard<'_, RawClient> {
        self.function.client()
    }

    fn status(&self) -> u8 {
        self.raw().read(0, STATUS, 1).unwrap()[0]
    }

    /// What the read has put into its reply so far.
    fn content(&self) -> Vec<u8> {
        self.memory.read_vec(self.reply + 11, CONTENT.len()).unwrap()
    }
}

#[test]
fn a_kick_and_every_register_answer_while_a_read_hangs() {
    let mut bench = Bench::new();
    assert_eq!(bench.status(), READY);
    assert_eq!(bench.raw().read(7, 0, 256).unwrap().len(), 256);
    assert_eq!(bench.raw().read(0, 0x2000, 6).unwrap(), b"\x04\0gate");
    bench.client.queue().force_kick().unwrap();
    assert_eq!(bench.status(), READY);
    bench.open.send(()).unwrap();
    assert_eq!(bench.client.queue().take().unwrap().bytes, 20);
    assert_eq!(bench.content(), CONTENT);
}

#[test]
fn a_reset_is_done_when_the_status_says_so() {
    let bench = Bench::new();
    bench.raw().write(0, STATUS, &[0]).unwrap();
    assert_eq!(bench.status(), READY, "a request is still in hand");
    bench.open.send(()).unwrap();
    while bench.status() != 0 {
        std::thread::yield_now();
    }
    assert_eq!(bench.content(), CONTENT, "the last access came before the end of the reset");
}

#[test]
fn an_unmap_is_answered_when_nothing_uses_the_memory_any_more() {
    let bench = Bench::new();
    let (unmap, map) = {
        let mut raw = bench.raw();
        let unmap = raw.send(Command::DmaUnmap as u16, 0, &dma_unmap(0, 0, MEMORY_MIB << 20), &[]);
        let payload = dma_map(3, 0, 0, MEMORY_MIB << 20);
        (unmap, raw.send(Command::DmaMap as u16, 0, &payload, &[bench.memory.file().as_raw_fd()]))
    };
    // Were the unmap acknowledged now, its answer would come in place of this one.
    assert_eq!(bench.status(), READY);
    bench.open.send(()).unwrap();
    let mut raw = bench.raw();
    let answers = [raw.receive(), raw.receive()];
    assert_eq!(answers.clone().map(|answer| (answer.id, answer.errno)), [(unmap, 0), (map, 0)]);
    assert_eq!(answers[0].payload, dma_unmap(0, 0, MEMORY_MIB << 20));
    drop(raw);
    assert_eq!(bench.content(), CONTENT, "the last access came before the answer");
}

#[test]
fn a_device_reset_is_answered_when_it_is_done() {
    let mut bench = Bench::new();
    let reset = bench.raw().send(Command::DeviceReset as u16, 0, &[], &[]);
    assert_eq!(bench.status(), READY);
    bench.open.send(()).unwrap();
    assert_eq!(bench.raw().receive().id, reset);
    assert_eq!(bench.status(), 0);
    assert_eq!(bench.content(), CONTENT);
    // The device is as good as new.
    bench.client.stop().unwrap();
    bench.client.restart(Arc::new(Direct)).unwrap();
    bench.client.version(8192).unwrap();
    bench.client.attach(ROOT_FID, b"", NONUNAME).unwrap();
}
