//! Request bytes through [`Request::parse`] and the virtio-iommu's execution, in batches.
//!
//! Checked: what comes back for each request has the length that its bytes call for, nothing is written beyond it, and
//! an endpoint reaches only what some successful MAP gave it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use calgaryd::device::PollPolicy;
use calgaryd::device::iommu::{Iommu, IommuDevice, PROBE_SIZE};
use calgaryd::transport::Device;
use frontend_spec::iommu::{MapFlags, REQUEST_QUEUE, Request, feature};
use iommu_calgary::{Access, DmaPort, Iova, TableSize};

use crate::guest::{INDIRECT, Memory, NEXT, Silence, WRITE, descriptor, ring_at};
use crate::input::Input;

/// Endpoints that exist.
const ENDPOINTS: [u32; 2] = [0x30, 0x38];
/// Requests of one kick at most.
const BATCH: usize = 48;
/// What fills buffers before the device sees them.
const POISON: u8 = 0xa5;
/// Lengths of writable parts that matter.
const WRITABLE: [usize; 11] = [4, 4, 516, 4, 0, 1, 3, 5, 100, 515, 600];
const PAGE: u64 = 4096;

const RING_PAGE: u64 = 1;
const BUFFERS: usize = 0x8000;
const SLOT: usize = 2048;
const SLOT_WRITABLE: usize = 512;
const SLOT_TABLE: usize = 1280;

struct Rig {
    memory: Memory,
    iommu: Arc<Iommu>,
    device: IommuDevice,
    ports: Vec<DmaPort>,
}

fn rig() -> &'static Mutex<Rig> {
    static RIG: OnceLock<Mutex<Rig>> = OnceLock::new();
    RIG.get_or_init(|| {
        let memory = Memory::new();
        let iommu = Arc::new(Iommu::new(TableSize::MiB32, false).expect("memory for a table"));
        let ports = ENDPOINTS.map(|id| iommu.add_endpoint(id).expect("distinct ids").new_port()).into();
        let device = IommuDevice::new(Arc::clone(&iommu), PollPolicy::Off);
        device.set_memory(memory.ram());
        Mutex::new(Rig { memory, iommu, device, ports })
    })
}

/// A request in memory: what it was and what must come back.
struct Sent {
    bytes: Vec<u8>,
    writable: usize,
}

/// Runs one input.
///
/// # Panics
/// At a finding.
pub fn run(data: &[u8]) {
    let mut rig = rig().lock().expect("a finding ends the process");
    let mut input = Input::new(data);
    let setup = input.u8();
    let all = feature::MAP_UNMAP | feature::PROBE | feature::MMIO | feature::BYPASS_CONFIG;
    let negotiated = if setup & 0x40 == 0 { all } else { u64::from(input.u8()) & all };
    rig.device.reset();
    rig.device.ack_features(negotiated);
    rig.iommu.set_bypass(false);
    rig.memory.clear_low();
    let layout = ring_at(RING_PAGE, setup & 1 != 0);
    rig.device.activate(REQUEST_QUEUE, layout, 0, Arc::new(Silence));

    let mut reachable: HashMap<u64, Vec<(u64, MapFlags)>> = HashMap::new();
    let mut bypass_asked = false;
    let mut next: u16 = 0;
    while !input.is_empty() {
        let mut batch = Vec::new();
        while batch.len() < BATCH && !input.is_empty() {
            let shape = input.u8();
            let sent = Sent { bytes: request(&mut input), writable: input.pick(&WRITABLE) };
            place(
                &rig.memory,
                next.wrapping_add(u16::try_from(batch.len()).expect("small")),
                batch.len(),
                shape,
                &sent,
            );
            batch.push(sent);
            if shape & 0x80 != 0 {
                break;
            }
        }
        let used_before = next;
        next = next.wrapping_add(u16::try_from(batch.len()).expect("small"));
        rig.memory.store_u16(0x2002, next);
        rig.device.service(REQUEST_QUEUE);
        check(&rig, used_before, next, &batch, negotiated, &mut reachable, &mut bypass_asked);
        check_reach(&mut rig, &reachable, bypass_asked);
    }
    rig.device.stop(REQUEST_QUEUE);
    rig.device.reset();
    assert_eq!(rig.iommu.live_mappings(), 0, "mappings outlive a reset");
}

/// The readable bytes of the next request.
fn request(input: &mut Input<'_>) -> Vec<u8> {
    let kind = input.u8();
    if kind & 0x80 != 0 {
        let len = usize::from(input.u8()) % 100;
        return input.bytes(len).to_vec();
    }
    let domain = match input.u8() {
        0xff => u32::MAX,
        small => u32::from(small % 4),
    };
    let endpoint = input.pick(&[ENDPOINTS[0], ENDPOINTS[1], 0]);
    let flags = u32::from(input.u8());
    let mut range = || {
        let (page, pages, skew) = (u64::from(input.u16() % 0x2010), u64::from(input.u8() % 40), input.u8());
        let first = page * PAGE;
        let last = first.wrapping_add(pages * PAGE).wrapping_sub(1);
        match skew {
            0xff => (0, u64::MAX),
            0xfe => (u64::MAX - 4095, u64::MAX),
            0xfd => (first + 1, last),
            0xfc => (first, last.wrapping_add(1)),
            0xfb => (last, first),
            _ => (first, last),
        }
    };
    let word = |bytes: &mut Vec<u8>, value: u32| bytes.extend(value.to_le_bytes());
    let long = |bytes: &mut Vec<u8>, value: u64| bytes.extend(value.to_le_bytes());
    let mut bytes = vec![kind % 6, 0, 0, 0];
    match kind % 6 {
        1 => {
            word(&mut bytes, domain);
            word(&mut bytes, endpoint);
            word(&mut bytes, flags % 3);
            word(&mut bytes, u32::from(flags > 250));
        }
        2 => {
            word(&mut bytes, domain);
            word(&mut bytes, endpoint);
            bytes.resize(20, 0);
        }
        3 => {
            let (first, last) = range();
            word(&mut bytes, domain);
            long(&mut bytes, first);
            long(&mut bytes, last);
            let phys = input.u32();
            long(&mut bytes, if phys % 32 == 31 { u64::from(phys) << 20 } else { u64::from(phys % 0x1_0000) * PAGE });
            word(&mut bytes, flags % 9);
        }
        4 => {
            let (first, last) = range();
            word(&mut bytes, domain);
            long(&mut bytes, first);
            long(&mut bytes, last);
            word(&mut bytes, 0);
        }
        5 => {
            word(&mut bytes, endpoint);
            bytes.resize(72, 0);
        }
        _ => bytes.resize(24, 0),
    }
    bytes
}

/// Writes the chain of one request: the readable part cut in two and the writable part cut in two, in a table or not.
fn place(memory: &Memory, index: u16, slot: usize, shape: u8, sent: &Sent) {
    let base = BUFFERS + slot * SLOT;
    memory.write(base, &sent.bytes);
    memory.write(base + SLOT_WRITABLE, &[POISON; SLOT_TABLE - SLOT_WRITABLE]);
    let cut = usize::from(shape & 0x1f).min(sent.bytes.len());
    let writable_cut = (usize::from(shape >> 5 & 1)).min(sent.writable);
    let at = |offset: usize| (base + offset) as u64;
    let len = |bytes: usize| u32::try_from(bytes).expect("small");
    let pieces = [
        (at(0), len(cut), 0),
        (at(cut), len(sent.bytes.len() - cut), 0),
        (at(SLOT_WRITABLE), len(writable_cut), WRITE),
        (at(SLOT_WRITABLE + writable_cut), len(sent.writable - writable_cut), WRITE),
    ];
    let ring = ring_at(RING_PAGE, false);
    let table = usize::try_from(ring.descriptors).expect("small");
    let head = u16::try_from(slot * 4).expect("at most 192");
    let indirect = shape & 0x40 != 0;
    for (number, (address, bytes, flags)) in (0_u16..).zip(pieces) {
        let link = if number < 3 { NEXT } else { 0 };
        let first = if indirect { 0 } else { head };
        let entry = descriptor(address, bytes, flags | link, first + number + 1);
        let position = usize::from(number) * 16;
        memory.write(if indirect { base + SLOT_TABLE } else { table + usize::from(head) * 16 } + position, &entry);
    }
    if indirect {
        memory.write(table + usize::from(head) * 16, &descriptor(at(SLOT_TABLE), 64, INDIRECT, 0));
    }
    let avail = usize::try_from(ring.avail).expect("small") + 4 + 2 * (usize::from(index) % 256);
    memory.store_u16(avail, head);
}

/// Compares the answers of a batch with what its bytes call for.
fn check(
    rig: &Rig,
    before: u16,
    after: u16,
    batch: &[Sent],
    negotiated: u64,
    reachable: &mut HashMap<u64, Vec<(u64, MapFlags)>>,
    bypass_asked: &mut bool,
) {
    let used = 0x3000;
    assert_eq!(rig.memory.read(used + 2, 2), after.to_le_bytes(), "not every request was answered");
    let probe = PROBE_SIZE as usize + 4;
    for (slot, sent) in batch.iter().enumerate() {
        let entry = used + 4 + 8 * ((usize::from(before) + slot) % 256);
        let element = rig.memory.read(entry, 8);
        assert_eq!(element[..4], u32::try_from(slot * 4).expect("small").to_le_bytes(), "answers are out of order");
        let len = u32::from_le_bytes([element[4], element[5], element[6], element[7]]) as usize;
        let answer = rig.memory.read(BUFFERS + slot * SLOT + SLOT_WRITABLE, SLOT_TABLE - SLOT_WRITABLE);
        assert!(answer[len..].iter().all(|&byte| byte == POISON), "written beyond the used length");
        let parsed = Request::parse(&sent.bytes).ok().filter(|request| {
            let needed = match request {
                Request::Map { .. } | Request::Unmap { .. } => feature::MAP_UNMAP,
                Request::Probe { .. } => feature::PROBE,
                _ => 0,
            };
            negotiated & needed == needed && sent.writable >= 4
        });
        let expected = match parsed {
            None => 0,
            Some(Request::Probe { .. }) => sent.writable.min(probe),
            Some(_) => 4,
        };
        assert_eq!(len, expected, "used length of {parsed:?} with {} writable bytes", sent.writable);
        let Some(request) = parsed else { continue };
        let tail = &answer[len - 4..len];
        assert!(tail[0] <= 8 && tail[1..] == [0; 3], "tail {tail:?}");
        if tail[0] != 0 {
            continue;
        }
        match request {
            Request::Map { virt_start, virt_end, phys_start, flags, .. } => {
                for page in 0..(virt_end - virt_start + 1) / PAGE {
                    let address = phys_start + page * PAGE;
                    reachable.entry(virt_start / PAGE + page).or_default().push((address, flags));
                }
            }
            Request::Attach { flags, .. } if flags.0 != 0 => *bypass_asked = true,
            _ => {}
        }
    }
}

/// Every page that an endpoint reaches was given to it once, with that permission.
fn check_reach(rig: &mut Rig, reachable: &HashMap<u64, Vec<(u64, MapFlags)>>, bypass_asked: bool) {
    if bypass_asked {
        return;
    }
    for port in &mut rig.ports {
        let epoch = port.enter();
        for (&page, given) in reachable {
            for (access, flag) in [(Access::Read, MapFlags::READ), (Access::Write, MapFlags::WRITE)] {
                if let Ok(run) = epoch.translate(Iova(page * PAGE), 1, access) {
                    let known = given.iter().any(|(real, flags)| *real == run.real.0 && flags.contains(flag));
                    assert!(known, "page {page:#x} leads to {:#x}, which no MAP said", run.real.0);
                }
            }
        }
        for page in [0, 0x9f, 0xa0, 0xff, 0x100, 0x1fff, 0x2000] {
            if !reachable.contains_key(&page) {
                assert!(
                    epoch.translate(Iova(page * PAGE), 1, Access::Read).is_err(),
                    "page {page:#x} was never mapped"
                );
            }
        }
    }
}

/// A batch of each request, a life of two domains, and raw bytes.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    // shape, then the request's fields, then the choice of writable length.
    let attach = |domain: u8, endpoint: u8, flags: u8| vec![0x8a, 1, domain, endpoint, flags, 0];
    let detach = |domain: u8, endpoint: u8| vec![0x80, 2, domain, endpoint, 0, 0];
    let map = |domain: u8, page: u16, pages: u8, flags: u8| {
        let mut bytes = vec![0x00, 3, domain, 0, flags];
        bytes.extend(page.to_le_bytes());
        bytes.extend([pages, 0, 7, 0, 0, 0, 0]);
        bytes
    };
    let unmap = |domain: u8, page: u16, pages: u8, skew: u8| {
        let mut bytes = vec![0xc4, 4, domain, 0, 0];
        bytes.extend(page.to_le_bytes());
        bytes.extend([pages, skew, 0]);
        bytes
    };
    let probe = |room: u8| vec![0x83, 5, 0, 0, 0, room];
    let raw = |bytes: &[u8]| [&[0x80, 0x80, u8::try_from(bytes.len()).expect("short")], bytes, &[2]].concat();
    vec![
        [vec![0], attach(1, 0, 0), map(1, 16, 4, 3), map(1, 20, 1, 1), unmap(1, 16, 4, 0), detach(1, 0)].concat(),
        [vec![1], attach(1, 0, 0), attach(1, 1, 0), map(1, 300, 9, 2), attach(2, 0, 0), unmap(1, 0, 0, 0xff)].concat(),
        [vec![0], attach(3, 1, 1), map(3, 1, 1, 3), unmap(3, 1, 1, 0), detach(3, 1), attach(3, 1, 0)].concat(),
        [vec![0], probe(2), probe(4), probe(8), probe(9), probe(10)].concat(),
        [vec![1], attach(1, 0, 0), map(1, 0xa0, 1, 3), map(1, 0x1fff, 2, 3), map(1, 5, 0, 3)].concat(),
        [vec![0x40, 0], attach(1, 0, 0), map(1, 1, 1, 3), probe(2)].concat(),
        [vec![0], raw(&[3, 1, 2, 3]), raw(&[9; 40]), raw(&[])].concat(),
    ]
}
