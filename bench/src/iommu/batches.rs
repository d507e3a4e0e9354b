//! Batches of MAPs and UNMAPs of one page each, worked out in advance so that the client's own work is small.
//!
//! They lie where Linux's driver puts them: it allocates an object for each request, which holds the readable part, the
//! writable part right behind it and 32 bytes of its own before them, and the ring allocates a table of two descriptors.
//! Its allocator has objects of 96, 64 and 32 bytes for a MAP, an UNMAP and a table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use calgary_tests::guest::address::{GuestPhys, PAGE};
use calgary_tests::guest::iommu::{MAP_F_READ, MAP_F_WRITE, Request, Status};
use calgary_tests::guest::queue::{IndirectTable, QueueError, Segment};
use calgary_tests::guest::transport::F_INDIRECT_DESC;
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
/// Bytes of an answer.
const TAIL: usize = 4;
/// A byte that no status has.
const POISON: u8 = 0xa5;
/// What the driver keeps in front of a request, in bytes.
const OWN: u64 = 32;
/// Bytes from one MAP to the next, one UNMAP to the next and one table to the next.
const MAP_OBJECT: u64 = 96;
const UNMAP_OBJECT: u64 = 64;
const TABLE_OBJECT: u64 = 32;
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
    /// The first of the tables; the `n`-th request of a batch has the `n`-th one.
    tables: GuestPhys,
    live: u64,
    spread: u64,
}

/// One request and its place in guest memory.
#[derive(Debug)]
struct Slot {
    at: GuestPhys,
    /// What the driver writes there: the request, and poison for the tail.
    bytes: Vec<u8>,
    segments: [Segment; 2],
}

impl Slot {
    fn new(at: GuestPhys, request: &Request) -> Self {
        let mut bytes = request.to_bytes();
        let readable = bytes.len() as u64;
        bytes.extend([POISON; TAIL]);
        let segments = [
            Segment { address: at.into(), bytes: u32::try_from(readable).unwrap_or(u32::MAX), writable: false },
            Segment { address: (at + readable).into(), bytes: 4, writable: true },
        ];
        Self { at, bytes, segments }
    }

    /// Where the answer is.
    fn tail(&self) -> GuestPhys {
        self.at + (self.bytes.len() - TAIL) as u64
    }
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
        let place = |object: u64| memory.take_run(usize::from(RING) * usize::try_from(object).unwrap_or(usize::MAX));
        let (maps, unmaps, tables) = (place(MAP_OBJECT)?, place(UNMAP_OBJECT)?, place(TABLE_OBJECT)?);
        // Spread over the whole range, as a guest's buffers are.
        let spread = (most / u64::from(RING)).max(1);
        let mut batches = Self { peer, iommu, memory, maps: Vec::new(), unmaps: Vec::new(), tables, live: 0, spread };
        for index in 0..u64::from(RING) {
            let page = batches.worked_on(index);
            let map = Slot::new(maps + index * MAP_OBJECT + OWN, &batches.map(page));
            batches.maps.push(map);
            batches.unmaps.push(Slot::new(unmaps + index * UNMAP_OBJECT + OWN, &unmap(page)));
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
        let has_tables = self.iommu.features() & F_INDIRECT_DESC != 0;
        for (index, slot) in (0..).zip(slots) {
            self.memory.write(slot.at, &slot.bytes)?;
            let memory = self.tables + index * TABLE_OBJECT;
            queue.add(&slot.segments, has_tables.then(|| IndirectTable { memory, device: memory.into() }))?;
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
            let mut tail = [POISON; TAIL];
            self.memory.read(slot.tail(), &mut tail)?;
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
