//! Whole memory images with rings in them, read by a device while a second thread rewrites them.
//!
//! Checked: no crash, every call returns, and a device behind the IOMMU leaves RAM alone that is not mapped for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

use calgaryd::device::PollPolicy;
use calgaryd::device::iommu::{FaultRecord, Iommu, IommuDevice};
use calgaryd::device::share::{Attachment, ShareDevice};
use calgaryd::dma::{DmaFault, DmaFaultReason};
use calgaryd::ring::RingLayout;
use calgaryd::transport::Device;
use frontend_spec::iommu::{AttachFlags, AttachRequest, EVENT_QUEUE, MapFlags, MapRequest, REQUEST_QUEUE};
use iommu_calgary::{Access, TableSize};
use virtio_9p::wire::Dialect;
use virtio_9p::{Options, Passthrough, PassthroughOptions, Server};
use zerocopy::IntoBytes;

use crate::guest::{INDIRECT, Memory, NEXT, Silence, WRITE, descriptor, ring_at};
use crate::input::Input;
use crate::ninep;
use crate::tree::Tree;

/// Endpoint of the translated share.
const ENDPOINT: u32 = 0x30;
/// Pages of the first region, all of which the image may fill.
const PAGES: u64 = 64;
/// What fills RAM that no device is given.
const CANARY: u8 = 0x5c;
/// Times the rewriter goes through its list at most, so that a device which always finds new work ends.
const ROUNDS: usize = 512;
const PAGE: u64 = 4096;

struct Rig {
    memory: Arc<Memory>,
    devices: [Arc<dyn Device>; 3],
    iommu: Arc<Iommu>,
    rewriter: Rewriter,
    _tree: Tree,
}

/// A thread that stores numbers into guest memory as long as a device works.
struct Rewriter {
    work: SyncSender<Vec<(u16, u16)>>,
    done: Receiver<()>,
    started: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Rewriter {
    fn new(memory: Arc<Memory>) -> Self {
        let (work, jobs) = sync_channel::<Vec<(u16, u16)>>(1);
        let (finished, done) = sync_channel(1);
        let started = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let (begun, halt) = (Arc::clone(&started), Arc::clone(&stop));
        std::thread::spawn(move || {
            for job in jobs {
                begun.store(true, Ordering::Release);
                for _ in 0..ROUNDS {
                    for &(at, value) in &job {
                        memory.store_u16(usize::from(at), value);
                    }
                    if halt.load(Ordering::Acquire) {
                        break;
                    }
                }
                if finished.send(()).is_err() {
                    return;
                }
            }
        });
        Self { work, done, started, stop }
    }

    /// Runs `act` while the thread rewrites.
    fn during(&self, list: Vec<(u16, u16)>, act: impl FnOnce()) {
        if list.is_empty() {
            return act();
        }
        self.stop.store(false, Ordering::Release);
        self.started.store(false, Ordering::Release);
        self.work.send(list).expect("the thread lives");
        while !self.started.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        act();
        self.stop.store(true, Ordering::Release);
        self.done.recv().expect("the thread lives");
    }
}

/// Where the page of an IOVA lies for the translated share: neighbours are swapped.
fn real_page(page: u64) -> u64 {
    page ^ 1
}

/// How the translated share may use a page: most pages both ways, some one way, some not at all.
fn page_flags(page: u64) -> Option<MapFlags> {
    match page {
        0..16 => Some(MapFlags::READ_WRITE),
        _ => match page % 8 {
            5 => None,
            6 => Some(MapFlags::WRITE),
            7 => Some(MapFlags::READ),
            _ => Some(MapFlags::READ_WRITE),
        },
    }
}

/// Attaches the endpoint and maps its pages, through a ring as a driver does.
fn prepare(memory: &Memory, device: &IommuDevice) {
    let mut requests = vec![AttachRequest::new(1, ENDPOINT, AttachFlags::NONE).as_bytes().to_vec()];
    for page in 0..PAGES {
        if let Some(flags) = page_flags(page) {
            let first = page * PAGE;
            let map = MapRequest::new(1, first, first + PAGE - 1, real_page(page) * PAGE, flags);
            requests.push(map.as_bytes().to_vec());
        }
    }
    let layout = ring_at(1, false);
    device.activate(REQUEST_QUEUE, layout, 0, Arc::new(Silence));
    for (index, request) in (0_u16..).zip(&requests) {
        let buffer = 0x8000 + usize::from(index) * 64;
        memory.write(buffer, request);
        let len = u32::try_from(request.len()).expect("short");
        let head = index * 2;
        memory.write(0x1000 + usize::from(head) * 16, &descriptor(buffer as u64, len, NEXT, head + 1));
        memory.write(0x1000 + usize::from(head + 1) * 16, &descriptor(buffer as u64 + 48, 4, WRITE, 0));
        memory.store_u16(0x2004 + 2 * usize::from(index), head);
    }
    memory.store_u16(0x2002, u16::try_from(requests.len()).expect("few"));
    device.service(REQUEST_QUEUE);
    for index in 0..requests.len() {
        assert_eq!(memory.read(0x8000 + index * 64 + 48, 1), [0], "request {index} of the set-up");
    }
    device.stop(REQUEST_QUEUE);
}

fn rig() -> &'static Mutex<Rig> {
    static RIG: OnceLock<Mutex<Rig>> = OnceLock::new();
    RIG.get_or_init(|| {
        let memory = Arc::new(Memory::new());
        let tree = Tree::new();
        let server = || {
            let files = Passthrough::new(&tree.shared(), PassthroughOptions::default()).expect("a folder");
            let mut options = Options::default();
            options.readonly = true;
            Server::new(files, options)
        };
        let tag = "fuzz".parse().expect("a tag");
        let behind = Arc::new(Iommu::new(TableSize::MiB32, false).expect("memory for a table"));
        let phb = behind.add_endpoint(ENDPOINT).expect("the first endpoint");
        let control = IommuDevice::new(Arc::clone(&behind), PollPolicy::Off);
        control.set_memory(memory.ram());
        control.ack_features(u64::MAX);
        prepare(&memory, &control);
        let attachment = Attachment::Behind { iommu: Arc::clone(&behind), endpoint: ENDPOINT, phb };
        let iommu = Arc::new(Iommu::new(TableSize::MiB32, false).expect("memory for a table"));
        iommu.add_endpoint(ENDPOINT).expect("the first endpoint");
        let devices: [Arc<dyn Device>; 3] = [
            Arc::new(IommuDevice::new(Arc::clone(&iommu), PollPolicy::Off)),
            Arc::new(ShareDevice::new(&tag, server(), 64 << 10, Attachment::Direct, PollPolicy::Off).unwrap()),
            Arc::new(ShareDevice::new(&tag, server(), 64 << 10, attachment, PollPolicy::Off).unwrap()),
        ];
        for device in &devices {
            device.set_memory(memory.ram());
        }
        let rewriter = Rewriter::new(Arc::clone(&memory));
        Mutex::new(Rig { memory, devices, iommu, rewriter, _tree: tree })
    })
}

/// Runs one input: which device, where its ring is, what is rewritten, then the image.
///
/// # Panics
/// At a finding.
pub fn run(data: &[u8]) {
    let rig = rig().lock().expect("a finding ends the process");
    let mut input = Input::new(data);
    let which = usize::from(input.u8()) % rig.devices.len();
    let device = &rig.devices[which];
    let shape = input.u8();
    let place = |code: u8, align: u64| u64::from(code) * 0x100 / align * align;
    let layout = RingLayout {
        size: 1 << (shape & 0xf).min(8),
        event_idx: shape & 0x10 != 0,
        descriptors: place(input.u8(), 16),
        avail: place(input.u8(), 2),
        used: place(input.u8(), 4),
    };
    let base = u16::from(input.u8());
    let count = usize::from(input.u8() % 32);
    let rewrites: Vec<_> = (0..count).map(|_| (input.u16(), input.u16())).collect();
    let translated = which == 2;
    rig.memory.clear_low();
    rig.memory.fill_high(CANARY);
    for (page, bytes) in (0_u64..).zip(input.rest().chunks(4096)).take_while(|(page, _)| *page < PAGES) {
        let page = if translated { real_page(page) } else { page };
        rig.memory.write(usize::try_from(page * PAGE).expect("small"), bytes);
    }
    if !layout.is_valid() {
        return;
    }
    let queue = usize::from(which == 0 && shape & 0x20 != 0);
    if queue == EVENT_QUEUE {
        let fault = DmaFault { address: 0x1234, access: Access::Read, reason: DmaFaultReason::NotRam };
        for endpoint in 0..3 {
            rig.iommu.faults().record(FaultRecord { endpoint, fault });
        }
    }
    device.ack_features(u64::MAX);
    device.activate(queue, layout, base, Arc::new(Silence));
    rig.rewriter.during(rewrites, || {
        device.service(queue);
        device.wake();
    });
    device.service(queue);
    device.stop(queue);
    device.reset();
    rig.iommu.set_bypass(false);
    assert!(!translated || rig.memory.high_is(CANARY), "a translated device wrote to RAM that is not mapped for it");
}

/// An image with `frame` as the one request of a ring of 16 entries, which starts at 0, at 0x1000 and at 0x2000.
fn image(device: u8, shape: u8, frame: &[u8], reply: u32, indirect: bool, rewrites: &[(u16, u16)]) -> Vec<u8> {
    let mut memory = vec![0; 0x6000];
    let chain =
        [descriptor(0x3000, u32::try_from(frame.len()).expect("short"), NEXT, 1), descriptor(0x4000, reply, WRITE, 0)];
    if indirect {
        memory[..16].copy_from_slice(&descriptor(0x5000, 32, INDIRECT, 0));
        memory[0x5000..0x5020].copy_from_slice(&chain.concat());
    } else {
        memory[..32].copy_from_slice(&chain.concat());
    }
    memory[0x1002] = 1;
    memory[0x3000..0x3000 + frame.len()].copy_from_slice(frame);
    let mut bytes = vec![device, shape, 0, 0x10, 0x20, 0, u8::try_from(rewrites.len()).expect("few")];
    for (at, value) in rewrites {
        bytes.extend(at.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(memory);
    bytes
}

/// One good request for each device, with and without a table, event index and rewriting.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let attach = AttachRequest::new(1, ENDPOINT, AttachFlags::NONE);
    let map = MapRequest::new(1, 0x1000, 0x4fff, 0x1000, MapFlags::READ_WRITE);
    let (attach, map) = (attach.as_bytes(), map.as_bytes());
    let version = ninep::version_frame(Dialect::Linux);
    let rewrites = [(0x1002, 2), (0x1002, 1), (8, 0xffff), (12, 4), (0x1004, 0xffff)];
    vec![
        image(0, 4, attach, 4, false, &[]),
        image(0, 0x14, map, 4, true, &[]),
        image(0, 4, attach, 4, true, &rewrites),
        image(0, 0x24, &[], 24, false, &[]),
        image(1, 4, &version, 64, false, &[]),
        image(1, 0x14, &version, 64, true, &rewrites),
        image(2, 4, &version, 64, true, &[]),
        image(2, 0x14, &version, 64, false, &rewrites),
    ]
}
