//! A driver whose ring contradicts itself is told that only a reset helps (virtio 1.2 §2.1.2).

use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex};

use calgary_tests::guest::ninep::NONUNAME;
use calgary_tests::guest::{ClientOptions, Direct, GuestMemory, NinepClient, ROOT_FID};
use calgaryd::device::PollPolicy;
use calgaryd::device::share::{Attachment, ShareDevice};
use calgaryd::supervisor::{Port, Supervisor};
use calgaryd::transport::socket::BoundSocket;
use calgaryd::transport::vfio_user::wire::Command;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use virtio_9p::{Options, Server};

use crate::gate::{Gate, Stop, protocol};
use crate::raw::{RawClient, RawFunction, socket};

/// A bound, not an expectation.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// Registers of the common configuration.
const CONFIG_VECTOR: u64 = 0x10;
const STATUS: u64 = 0x14;
/// A driver that is ready, and the bit of a device that is not any more.
const READY: u8 = 15;
const NEEDS_RESET: u8 = 64;
/// Connects descriptors to MSI-X vectors 0 to 0: size, flags, index, first, count.
const SET_IRQS: [u32; 5] = [20, 1 << 2 | 1 << 5, 2, 0, 1];

#[test]
fn an_impossible_index_interrupts_the_driver_and_shows_in_the_status_until_a_reset() {
    let (_folder, socket) = socket();
    let (files, _begun, _open) = Gate::new();
    let tag = "gate".parse().unwrap();
    let server = Server::new(files, Options::default());
    let share = ShareDevice::new(&tag, server, 65536, Attachment::Direct, PollPolicy::Auto).unwrap();
    let port = Port::new(Arc::new(share), BoundSocket::bind(&socket).unwrap(), protocol()).unwrap();
    let (supervisor, stop) = Supervisor::new(vec![port], false, Box::new(|| {})).unwrap();
    std::thread::spawn(move || supervisor.run());
    let _stop = Stop(stop);

    let memory = Arc::new(GuestMemory::new(16).unwrap());
    let mut raw = RawClient::connect(&socket);
    raw.map(&memory);
    let changed = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let request = SET_IRQS.map(u32::to_ne_bytes).concat();
    assert_eq!(raw.ask(Command::DeviceSetIrqs, &request, &[changed.as_raw_fd()]).errno, 0);
    let function = RawFunction(Arc::new(Mutex::new(raw)));
    let status = || function.client().read(0, STATUS, 1).unwrap()[0];
    let device = Box::new(function.device());
    let mut client = NinepClient::start(device, memory, Arc::new(Direct), ClientOptions::default()).unwrap();
    function.client().write(0, CONFIG_VECTOR, &0_u16.to_le_bytes()).unwrap();
    client.version(8192).unwrap();
    assert_eq!(status(), READY);

    let queue = client.queue();
    let next = queue.ring().next_avail();
    queue.ring().raw_available_index(next.wrapping_add(0x7000)).unwrap();
    queue.force_kick().unwrap();
    let mut interrupt = [PollFd::from_borrowed_fd(changed.as_fd(), PollFlags::IN)];
    assert_eq!(poll(&mut interrupt, Some(&PATIENCE)), Ok(1), "the driver is not told");
    assert_eq!(status(), READY | NEEDS_RESET);

    client.stop().unwrap();
    client.restart(Arc::new(Direct)).unwrap();
    assert_eq!(status(), READY);
    client.version(8192).unwrap();
    client.attach(ROOT_FID, b"", NONUNAME).unwrap();
}
