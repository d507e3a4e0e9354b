//! Batches of MAPs and UNMAPs of one page each, laid out in advance so that the client's own work is small.

use std::sync::Arc;
use std::time::{Duration, Instant};

use calgary_tests::guest::address::{GuestPhys, PAGE};
use calgary_tests::guest::iommu::{MAP_F_READ, MAP_F_WRITE, Request, Status};
use calgary_tests::guest::queue::{IndirectTable, QueueError, Segment};
use calgary_tests::guest::{GuestMemory, Iommu, IommuOptions, Transport, VirtQueue};

use crate::failure::Failure;
use crate::measure::Sample;

/// Entries of the ring; the largest number of requests per kick.
pub(super) const RING: u16 = 256;
/// Live mappings lie on the even pages of the window, the pages worked on between them.
const STRIDE: u64 = 2;
/// First page number of the window that is used.
const FIRST_PAGE: u64 = 256;
/// The domain.
const DOMAIN: u32 = 1;
/// A byte that no status has.
const POISON: u8 = 0xa5;
/// Bytes of a slot: request, tail, descriptors.
const SLOT: u64 = 256;
const TAIL: u64 = 128;
const TABLE: u64 = 192;
/// How long a batch may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The driver of one virtio-iommu with its batches.
#[derive(Debug)]
pub(super) struct Batches {
    peer: &'static str,
    iommu: Iommu,
    memory: Arc<GuestMemory>,
    maps: Vec<Slot>,
    unmaps: Vec<Slot>,
    live: u64,
    spread: u64,
}

/// One request in guest memory.
#[derive(Debug)]
struct Slot {
    at: GuestPhys,
    segments: [Segment; 2],
}

impl Batches {
    /// Starts the device, attaches `endpoint` to a domain and places the requests. At most `most` mappings will be live.
    pub(super) fn new(
        peer: &'static str,
        device: Box<dyn Transport>,
        memory: Arc<GuestMemory>,
        endpoint: u32,
        most: u64,
    ) -> Result<Self, Failure> {
        let options = IommuOptions { queue_size: RING, ..IommuOptions::default() };
        let iommu = Iommu::start(device, Arc::clone(&memory), &options)?;
        iommu.attach(DOMAIN, endpoint, 0)?;
        let slots = memory.take_run(usize::from(RING) * 2 * 256)?;
        // Spread over the whole range, as a guest's buffers are.
        let spread = (most / u64::from(RING)).max(1);
        let mut batches = Self { peer, iommu, memory, maps: Vec::new(), unmaps: Vec::new(), live: 0, spread };
        for index in 0..u64::from(RING) {
            let (map, unmap) = (batches.map(batches.worked_on(index)), unmap(batches.worked_on(index)));
            let map = batches.place(slots + 2 * index * SLOT, &map)?;
            batches.maps.push(map);
            let unmap = batches.place(slots + (2 * index + 1) * SLOT, &unmap)?;
            batches.unmaps.push(unmap);
        }
        Ok(batches)
    }

    /// Window page of the `index`-th page worked on.
    fn worked_on(&self, index: u64) -> u64 {
        FIRST_PAGE + STRIDE * index * self.spread + 1
    }

    fn map(&self, page: u64) -> Request {
        let region = self.memory.regions()[0];
        let target = region.base + (page * PAGE) % region.bytes;
        Request::Map {
            domain: DOMAIN,
            first: page * PAGE,
            last: page * PAGE + PAGE - 1,
            target,
            flags: MAP_F_READ | MAP_F_WRITE,
        }
    }

    fn place(&self, at: GuestPhys, request: &Request) -> Result<Slot, Failure> {
        let bytes = request.to_bytes();
        self.memory.write(at, &bytes)?;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let segments = [
            Segment { address: at.into(), bytes: length, writable: false },
            Segment { address: (at + TAIL).into(), bytes: 4, writable: true },
        ];
        Ok(Slot { at, segments })
    }

    /// Maps or unmaps until `live` mappings stand besides those worked on.
    pub(super) fn set_live(&mut self, live: u64) -> Result<(), Failure> {
        while self.live != live {
            let grow = self.live < live;
            let from = if grow { self.live } else { live };
            let to = self.live.max(live).min(from + u64::from(RING));
            let pages = (from..to).map(|index| FIRST_PAGE + STRIDE * index);
            let requests: Vec<_> = if grow {
                pages.map(|page| self.map(page)).collect()
            } else {
                // From the end, so that what is left is always the first ones.
                (self.live - (to - from)..self.live).map(|index| unmap(FIRST_PAGE + STRIDE * index)).collect()
            };
            for reply in self.iommu.batch(&requests)? {
                self.check(reply.used_bytes, reply.status)?;
            }
            self.live = if grow { to } else { self.live - (to - from) };
        }
        Ok(())
    }

    /// Batches of `per_kick` MAPs and as many UNMAPs, for about `time`. The wall time is that from the kick until the
    /// last request is used; `cpu` reads the server's clock.
    pub(super) fn sample(
        &self,
        per_kick: u16,
        time: Duration,
        cpu: &dyn Fn() -> Result<Duration, Failure>,
    ) -> Result<Sample, Failure> {
        let (maps, unmaps) = (&self.maps[..usize::from(per_kick)], &self.unmaps[..usize::from(per_kick)]);
        self.iommu.with_requests(|queue| {
            let mut sample = Sample { operations: 0, wall: Duration::ZERO, cpu: Duration::ZERO };
            let before = cpu()?;
            let start = Instant::now();
            while start.elapsed() < time {
                sample.wall += self.batch(queue, maps)?;
                sample.wall += self.batch(queue, unmaps)?;
                sample.operations += 2 * u64::from(per_kick);
            }
            sample.cpu = cpu()?.saturating_sub(before);
            Ok(sample)
        })
    }

    /// Notifies the device although there is no request.
    pub(super) fn kick(&self) -> Result<(), Failure> {
        Ok(self.iommu.with_requests(VirtQueue::force_kick)?)
    }

    fn batch(&self, queue: &mut VirtQueue, slots: &[Slot]) -> Result<Duration, Failure> {
        for slot in slots {
            self.memory.write(slot.at + TAIL, &[POISON; 4])?;
            let table = IndirectTable { memory: slot.at + TABLE, device: (slot.at + TABLE).into() };
            queue.add(&slot.segments, Some(table))?;
        }
        let end = queue.ring().device_used_index()?.wrapping_add(queue.ring().outstanding());
        let start = Instant::now();
        queue.kick()?;
        let wall = wait(queue, end, start)?;
        for _ in slots {
            let used = queue.try_take()?.ok_or_else(|| Failure::wrong(self.peer, "a used entry vanished"))?;
            if used.bytes != 4 {
                return Err(Failure::wrong(self.peer, format!("{} bytes written where an answer has 4", used.bytes)));
            }
        }
        for slot in slots {
            let mut tail = [POISON; 4];
            self.memory.read(slot.at + TAIL, &mut tail)?;
            self.check(4, Status::from(tail[0]))?;
        }
        Ok(wall)
    }

    fn check(&self, used_bytes: u32, status: Status) -> Result<(), Failure> {
        if used_bytes == 4 && status == Status::Ok {
            return Ok(());
        }
        Err(Failure::wrong(self.peer, format!("{status:?} in {used_bytes} bytes where Ok in 4 is due")))
    }
}

fn unmap(page: u64) -> Request {
    Request::Unmap { domain: DOMAIN, first: page * PAGE, last: page * PAGE + PAGE - 1 }
}

/// Polls until the used index is `end`; returns the time since `start`.
fn wait(queue: &mut VirtQueue, end: u16, start: Instant) -> Result<Duration, Failure> {
    let mut spins = 0_u32;
    while queue.ring().device_used_index()? != end {
        std::hint::spin_loop();
        spins = spins.wrapping_add(1);
        if spins.is_multiple_of(1 << 16) && start.elapsed() > LIMIT {
            return Err(QueueError::Timeout(LIMIT).into());
        }
    }
    Ok(start.elapsed())
}
