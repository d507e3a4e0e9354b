//! What these tests know of a driver.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use calgaryd::ring::RingLayout;
use calgaryd::transport::{Device, Interrupt};
use frontend_spec::virtio::{Descriptor, USED_NO_NOTIFY, descriptor_flag};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use zerocopy::IntoBytes;

/// Endpoint id of 00:06.0.
pub(crate) const ENDPOINT: u32 = 6 << 3;
pub(crate) const SIZE: u16 = 8;
/// Where requests and answers lie.
pub(crate) const BUFFERS: u64 = 0x8000;

/// Hears no interrupt.
pub(crate) struct Deaf;

impl Interrupt for Deaf {
    fn signal(&self) {}
}

/// A ring as its driver sees it.
pub(crate) struct Ring {
    memory: GuestMemoryMmap,
    pub(crate) layout: RingLayout,
    made: u16,
}

impl Ring {
    /// A ring of [`SIZE`] entries with its parts at `places`: descriptors, available ring and used ring.
    pub(crate) fn new(memory: &GuestMemoryMmap, places: [u64; 3], event_idx: bool) -> Self {
        let [descriptors, avail, used] = places;
        let layout = RingLayout { descriptors, avail, used, size: SIZE, event_idx };
        Self { memory: memory.clone(), layout, made: 0 }
    }

    /// Offers requests at once, each with four bytes of room for its answer.
    pub(crate) fn offer(&mut self, requests: &[&[u8]]) {
        self.offer_with_room(requests, 4);
    }

    /// The same with so many bytes of room, at most 256.
    pub(crate) fn offer_with_room(&mut self, requests: &[&[u8]], room: u32) {
        for (place, request) in (0_u16..).zip(requests) {
            let len = u32::try_from(request.len()).unwrap();
            let (head, buffer) = (2 * place, BUFFERS + 0x200 * u64::from(place));
            let pair = [
                Descriptor::new(buffer, len, descriptor_flag::NEXT, head + 1),
                Descriptor::new(buffer + 0x100, room, descriptor_flag::WRITE, 0),
            ];
            let RingLayout { descriptors, avail, .. } = self.layout;
            self.memory.write_slice(request, GuestAddress(buffer)).unwrap();
            self.memory.write_slice(pair.as_bytes(), GuestAddress(descriptors + 16 * u64::from(head))).unwrap();
            self.memory.write_obj(head, GuestAddress(avail + 4 + 2 * u64::from(self.made % SIZE))).unwrap();
            self.made += 1;
        }
        self.memory.store(self.made, GuestAddress(self.layout.avail + 2), Ordering::SeqCst).unwrap();
    }

    fn word(&self, at: u64) -> u16 {
        self.memory.load(GuestAddress(at), Ordering::SeqCst).unwrap()
    }

    /// Whether the device has answered everything.
    pub(crate) fn is_answered(&self) -> bool {
        self.word(self.layout.used + 2) == self.made
    }

    /// Whether a driver that makes a request now has to kick.
    pub(crate) fn wants_kicks(&self) -> bool {
        match self.layout.event_idx {
            true => self.word(self.layout.used + 4 + 8 * u64::from(SIZE)) == self.made,
            false => self.word(self.layout.used) & USED_NO_NOTIFY == 0,
        }
    }
}

/// Waits until `is_so` within what a slow machine may need.
pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::yield_now();
    }
}

/// What a transport does once: wakes the device if it asks for that.
pub(crate) fn wake_if_asked(device: &dyn Device) {
    let epoll = Epoll::new().unwrap();
    epoll.ctl(ControlOperation::Add, device.wake_fd().unwrap(), EpollEvent::new(EventSet::IN, 0)).unwrap();
    if epoll.wait(0, &mut [EpollEvent::default()]).unwrap() > 0 {
        device.wake();
    }
}
