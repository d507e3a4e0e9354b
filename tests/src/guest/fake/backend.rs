//! A vhost-user back end that walks rings by hand, each address through a translation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use vhost::vhost_user::{Listener, VhostUserProtocolFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringMutex, VringT};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// A request that the device holds.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) queue: usize,
    pub(crate) head: u16,
    pub(crate) readable: Vec<u8>,
    /// Address and length of each writable segment.
    pub(crate) writable: Vec<(u64, u32)>,
    /// Lengths of the readable segments.
    pub(crate) readable_pieces: Vec<u32>,
    pub(crate) indirect: bool,
}

/// What a device does with its requests.
pub(crate) trait Model: Send + Sync + 'static {
    fn queues(&self) -> usize;
    fn features(&self) -> u64;
    fn config(&self) -> Vec<u8>;
    fn write_config(&self, _offset: u32, _bytes: &[u8]) {}
    /// The guest-physical address of device address `address`, for an access of one page at most.
    fn translate(&self, address: u64, _write: bool) -> Option<u64> {
        Some(address)
    }
    /// Take one request; returns requests to give back with the bytes written to them.
    fn serve(&self, chain: Chain) -> Vec<(Chain, Vec<u8>)>;
    /// A new driver is there.
    fn reset(&self) {}
}

struct Backend<M> {
    model: Arc<M>,
    memory: Mutex<Option<Memory>>,
    acked: Arc<AtomicU64>,
    stopped: AtomicBool,
}

/// A running fake device; its thread ends with the process.
pub(crate) struct FakeDevice<M> {
    pub(crate) model: Arc<M>,
    acked: Arc<AtomicU64>,
    socket: PathBuf,
    _directory: TempDir,
}

impl<M: Model> FakeDevice<M> {
    pub(crate) fn start(model: M) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("device.sock");
        let model = Arc::new(model);
        let acked = Arc::new(AtomicU64::new(0));
        let backend = Arc::new(Backend {
            model: Arc::clone(&model),
            memory: Mutex::new(None),
            acked: Arc::clone(&acked),
            stopped: AtomicBool::new(false),
        });
        let mut listener = Listener::new(&socket, true).unwrap();
        std::thread::spawn(move || {
            loop {
                let memory = Memory::new(GuestMemoryMmap::new());
                let mut daemon = VhostUserDaemon::new("fake".to_owned(), Arc::clone(&backend), memory).unwrap();
                if daemon.start(&mut listener).is_err() {
                    return;
                }
                let _ = daemon.wait();
                backend.stopped.store(true, Ordering::SeqCst);
                // Its worker threads have no exit event, and dropping it would join them.
                std::mem::forget(daemon);
            }
        });
        Self { model, acked, socket, _directory: directory }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The features of the last SET_FEATURES.
    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }
}

impl<M: Model> VhostUserBackend for Backend<M> {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        self.model.queues()
    }

    fn max_queue_size(&self) -> usize {
        256
    }

    fn features(&self) -> u64 {
        self.model.features() | 1 << 30
    }

    fn acked_features(&self, features: u64) {
        self.acked.store(features, Ordering::SeqCst);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::BACKEND_REQ
    }

    fn set_event_idx(&self, _: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = self.model.config();
        config.resize((offset + size) as usize, 0);
        config[offset as usize..].to_vec()
    }

    fn set_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        self.model.write_config(offset, bytes);
        Ok(())
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        *self.memory.lock().unwrap() = Some(memory);
        Ok(())
    }

    fn stop_vring(&self, _: u32) -> io::Result<()> {
        self.stopped.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn handle_event(&self, event: u16, _: EventSet, vrings: &[VringMutex], _: usize) -> io::Result<()> {
        let Some(vring) = vrings.get(usize::from(event)) else { return Ok(()) };
        let memory = self.memory.lock().unwrap().clone().unwrap();
        let mut state = vring.get_mut();
        if !state.get_queue().ready() {
            return Ok(());
        }
        if self.stopped.swap(false, Ordering::SeqCst) && state.get_queue().next_avail() == 0 {
            self.model.reset();
        }
        let queue = state.get_queue_mut();
        let mut walk = Walk {
            memory: &memory.memory(),
            model: self.model.as_ref(),
            queue: usize::from(event),
            size: queue.size(),
            event_idx: queue.event_idx_enabled(),
            descriptors: queue.desc_table(),
            available: queue.avail_ring(),
            used: queue.used_ring(),
            next_avail: queue.next_avail(),
        };
        let signal = walk.run();
        let next = walk.next_avail;
        queue.set_next_avail(next);
        if signal {
            state.signal_used_queue()?;
        }
        Ok(())
    }
}

struct Walk<'a, M> {
    memory: &'a GuestMemoryMmap,
    model: &'a M,
    queue: usize,
    size: u16,
    event_idx: bool,
    descriptors: u64,
    available: u64,
    used: u64,
    next_avail: u16,
}

impl<M: Model> Walk<'_, M> {
    /// Serve all requests. Returns whether the driver wants to hear of it.
    fn run(&mut self) -> bool {
        let old_used = self.load16(self.used + 2);
        loop {
            while self.next_avail != self.load16(self.available + 2) {
                let slot = u64::from(self.next_avail % self.size);
                let head = self.load16(self.available + 4 + 2 * slot);
                self.next_avail = self.next_avail.wrapping_add(1);
                let chain = self.chain(head);
                for (chain, written) in self.model.serve(chain) {
                    self.complete(&chain, &written);
                }
            }
            if self.event_idx {
                self.store16(self.used + 4 + 8 * u64::from(self.size), self.next_avail);
            }
            fence(Ordering::SeqCst);
            if self.next_avail == self.load16(self.available + 2) {
                break;
            }
        }
        let new_used = self.load16(self.used + 2);
        if self.event_idx {
            let event = self.load16(self.available + 4 + 2 * u64::from(self.size));
            new_used.wrapping_sub(event).wrapping_sub(1) < new_used.wrapping_sub(old_used)
        } else {
            new_used != old_used && self.load16(self.available) & 1 == 0
        }
    }

    fn chain(&self, head: u16) -> Chain {
        let mut chain = Chain {
            queue: self.queue,
            head,
            readable: Vec::new(),
            writable: Vec::new(),
            readable_pieces: Vec::new(),
            indirect: false,
        };
        let (mut table, mut index) = (self.descriptors, head);
        loop {
            let bytes = self.read(table + 16 * u64::from(index), 16);
            let address = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let length = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
            let flags = u16::from_le_bytes(bytes[12..14].try_into().unwrap());
            if flags & 4 != 0 {
                chain.indirect = true;
                (table, index) = (address, 0);
                continue;
            }
            if flags & 2 != 0 {
                chain.writable.push((address, length));
            } else {
                chain.readable.extend(self.read(address, length as usize));
                chain.readable_pieces.push(length);
            }
            if flags & 1 == 0 {
                return chain;
            }
            index = u16::from_le_bytes(bytes[14..].try_into().unwrap());
        }
    }

    fn complete(&self, chain: &Chain, mut written: &[u8]) {
        let total = u32::try_from(written.len()).unwrap();
        for (address, length) in &chain.writable {
            let (now, later) = written.split_at(written.len().min(*length as usize));
            self.write(*address, now);
            written = later;
        }
        assert!(written.is_empty(), "the reply does not fit the buffers");
        let index = self.load16(self.used + 2);
        let entry = self.used + 4 + 8 * u64::from(index % self.size);
        self.write(entry, &u32::from(chain.head).to_le_bytes());
        self.write(entry + 4, &total.to_le_bytes());
        self.store16(self.used + 2, index.wrapping_add(1));
    }

    fn at(&self, address: u64, write: bool) -> GuestAddress {
        let gpa = self.model.translate(address, write);
        GuestAddress(gpa.unwrap_or_else(|| panic!("DMA fault at {address:#x}, write {write}")))
    }

    fn read(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        for (from, range) in pages(address, bytes) {
            self.memory.read_slice(&mut data[range], self.at(from, false)).unwrap();
        }
        data
    }

    fn write(&self, address: u64, data: &[u8]) {
        for (to, range) in pages(address, data.len()) {
            self.memory.write_slice(&data[range], self.at(to, true)).unwrap();
        }
    }

    fn load16(&self, address: u64) -> u16 {
        self.memory.load(self.at(address, false), Ordering::Acquire).unwrap()
    }

    fn store16(&self, address: u64, value: u16) {
        self.memory.store(value, self.at(address, true), Ordering::Release).unwrap();
    }
}

fn pages(address: u64, bytes: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = address + done as u64;
        let length = (4096 - (at % 4096) as usize).min(bytes - done);
        let range = done..done + length;
        done += length;
        (length > 0).then_some((at, range))
    })
}
