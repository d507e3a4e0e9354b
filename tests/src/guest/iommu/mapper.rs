//! Buffers of one endpoint, mapped through the IOMMU.

mod waves;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::waves::Wave;
use super::driver::{Iommu, IommuError};
use super::iova::IovaAllocator;
use super::requests::{Kicks, Reply};
use super::wire::{MAP_F_READ, MAP_F_WRITE, Request, Status};
use crate::guest::address::{DeviceAddr, GuestPhys, PAGE};
use crate::guest::dma::{Buffer, Direction, DmaError, DmaMapper, Mapped, MapperCounts, Reach, unmap_each};

/// UNMAPs put off at most, as in Linux' flush queue.
const MAX_DEFERRED: usize = 256;

/// When mappings are made and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mapping {
    /// MAP before each request and UNMAP after it, both waited for (`iommu.strict=1`).
    #[default]
    Strict,
    /// The same, but all MAPs of a request go with one kick and are waited for together, and so do its UNMAPs: as Linux maps
    /// a scatter list (`dma_map_sg`), though page by page.
    StrictTogether,
    /// As [`Mapping::StrictTogether`] for file data; the driver's own messages and descriptor tables stay mapped.
    StrictData,
    /// MAP before each request; UNMAPs travel with the next MAP (`iommu.strict=0`).
    Lazy,
    /// MAP at the first use and keep it, both ways allowed: what a pool of bounce buffers costs.
    Kept,
}

/// Maps memory into one domain.
#[derive(Debug)]
pub struct DomainMapper {
    iommu: Arc<Iommu>,
    domain: u32,
    mapping: Mapping,
    state: Mutex<State>,
    maps: AtomicU64,
    unmaps: AtomicU64,
}

#[derive(Debug)]
struct State {
    iova: IovaAllocator,
    deferred: Vec<(DeviceAddr, u64)>,
    kept: Kept,
    // Reused from one batch to the next.
    requests: Vec<Request>,
    replies: Vec<Reply>,
    wave: Wave,
}

/// Mappings that stay, by the number of their first page.
#[derive(Debug, Default)]
struct Kept(Vec<Option<(DeviceAddr, u64)>>);

impl Kept {
    /// Where `pages` pages from `first` on are mapped already.
    fn find(&self, first: GuestPhys, pages: u64) -> Option<DeviceAddr> {
        let (iova, mapped) = self.0.get(page_number(first)).copied().flatten()?;
        (pages <= mapped).then_some(iova)
    }

    fn keep(&mut self, first: GuestPhys, pages: u64, iova: DeviceAddr) {
        let at = page_number(first);
        if self.0.len() <= at {
            self.0.resize(at + 1, None);
        }
        self.0[at] = Some((iova, pages));
    }
}

fn page_number(page: GuestPhys) -> usize {
    usize::try_from(page.0 / PAGE).unwrap_or(usize::MAX)
}

/// The whole pages that hold a buffer.
#[derive(Clone, Copy)]
struct Pages {
    offset: u64,
    pages: u64,
}

impl Pages {
    fn of(offset: u64, bytes: usize) -> Self {
        let pages = (offset + bytes as u64).div_ceil(PAGE).max(1);
        Self { offset, pages }
    }
}

/// The pages that a mapped buffer takes, and how many.
fn whole_pages(address: DeviceAddr, bytes: usize) -> (DeviceAddr, u64) {
    (address.page(), Pages::of(address.page_offset(), bytes).pages)
}

impl DomainMapper {
    /// A mapper for `domain`, to which the endpoint is attached, with the addresses of `iova`.
    #[must_use]
    pub fn new(iommu: Arc<Iommu>, domain: u32, iova: IovaAllocator, mapping: Mapping) -> Self {
        Self {
            iommu,
            domain,
            mapping,
            state: Mutex::new(State {
                iova,
                deferred: Vec::new(),
                kept: Kept::default(),
                requests: Vec::new(),
                replies: Vec::new(),
                wave: Wave::default(),
            }),
            maps: AtomicU64::new(0),
            unmaps: AtomicU64::new(0),
        }
    }

    /// The domain.
    #[must_use]
    pub fn domain(&self) -> u32 {
        self.domain
    }

    /// The IOMMU.
    #[must_use]
    pub fn iommu(&self) -> &Arc<Iommu> {
        &self.iommu
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// MAP `pages` pages at `target` to `iova`; the UNMAPs put off before are then done too.
    fn send_map(
        &self,
        state: &mut State,
        iova: Option<DeviceAddr>,
        target: GuestPhys,
        pages: u64,
        flags: u32,
    ) -> Result<DeviceAddr, DmaError> {
        let iova = match iova {
            Some(iova) => iova,
            None => {
                self.settle(state)?;
                let taken = state.iova.take(pages);
                taken.ok_or(DmaError::IovaExhausted { pages })?
            }
        };
        self.maps.fetch_add(1, Ordering::Relaxed);
        let mapped = self.iommu.map(self.domain, iova.0, iova.0 + pages * PAGE - 1, target, flags);
        for (iova, pages) in state.deferred.drain(..) {
            state.iova.give_back(iova, pages);
        }
        if let Err(error) = mapped {
            state.iova.give_back(iova, pages);
            return Err(error.into());
        }
        Ok(iova)
    }

    fn unmap_request(&self, first: DeviceAddr, pages: u64) -> Request {
        Request::Unmap { domain: self.domain, first: first.0, last: first.0 + pages * PAGE - 1 }
    }

    /// Whether the MAPs of a request go with one kick.
    fn goes_together(&self) -> bool {
        matches!(self.mapping, Mapping::StrictTogether | Mapping::StrictData)
    }

    /// Whether a buffer stays mapped from its first use on.
    fn keeps(&self, buffer: Buffer) -> bool {
        match self.mapping {
            Mapping::Kept => true,
            Mapping::StrictData => buffer.lasting,
            Mapping::Strict | Mapping::StrictTogether | Mapping::Lazy => false,
        }
    }

    /// Makes a buffer reachable.
    fn map_one(&self, state: &mut State, buffer: Buffer) -> Result<Mapped, DmaError> {
        let Pages { offset, pages } = Pages::of(buffer.gpa.page_offset(), buffer.bytes);
        let (target, stays) = (buffer.gpa.page(), self.keeps(buffer));
        let iova = match state.kept.find(target, pages).filter(|_| stays) {
            Some(iova) => iova,
            None => {
                let iova = state.iova.take(pages);
                let flags = if stays { MAP_F_READ | MAP_F_WRITE } else { flags(buffer.direction) };
                let iova = self.send_map(state, iova, target, pages, flags)?;
                if stays {
                    state.kept.keep(target, pages, iova);
                }
                iova
            }
        };
        Ok(Mapped { address: iova + offset, bytes: buffer.bytes, stays })
    }

    /// Makes all of `buffers` reachable, those that are not to be kept at the same time and with `kicks`. What succeeded is
    /// added to `mapped`.
    fn map_together(
        &self,
        state: &mut State,
        buffers: &[Buffer],
        mapped: &mut Vec<Mapped>,
        kicks: Kicks,
    ) -> Result<(), DmaError> {
        let before = mapped.len();
        let mut requests = std::mem::take(&mut state.requests);
        requests.clear();
        let mut outcome = Ok(());
        for buffer in buffers.iter().copied() {
            if self.keeps(buffer) {
                match self.map_one(state, buffer) {
                    Ok(kept) => mapped.push(kept),
                    Err(error) => outcome = outcome.and(Err(error)),
                }
                continue;
            }
            let Pages { offset, pages } = Pages::of(buffer.gpa.page_offset(), buffer.bytes);
            let Some(iova) = state.iova.take(pages) else {
                outcome = outcome.and(Err(DmaError::IovaExhausted { pages }));
                continue;
            };
            requests.push(Request::Map {
                domain: self.domain,
                first: iova.0,
                last: iova.0 + pages * PAGE - 1,
                target: buffer.gpa.page(),
                flags: flags(buffer.direction),
            });
            mapped.push(Mapped { address: iova + offset, bytes: buffer.bytes, stays: false });
        }
        self.maps.fetch_add(requests.len() as u64, Ordering::Relaxed);
        let State { iova, replies, .. } = state;
        if !requests.is_empty() {
            self.iommu.batch_into(&requests, replies, kicks)?;
        }
        let mut replies = requests.iter().zip(replies);
        let mut at = 0;
        mapped.retain(|one| {
            at += 1;
            if at <= before || one.stays {
                return true;
            }
            let reply = replies.next().map(|(request, reply)| accepted(*request, reply.status()?));
            if let Some(Err(error)) = reply {
                outcome = std::mem::replace(&mut outcome, Ok(())).and(Err(error.into()));
                let (first, pages) = whole_pages(one.address, one.bytes);
                iova.give_back(first, pages);
                return false;
            }
            true
        });
        state.requests = requests;
        outcome
    }

    /// Ends all of `mapped` that does not stay, at the same time and with `kicks`.
    fn unmap_together(&self, state: &mut State, mapped: &mut Vec<Mapped>, kicks: Kicks) -> Result<(), DmaError> {
        let State { iova, requests, replies, .. } = state;
        let place = |end: &Mapped| whole_pages(end.address, end.bytes);
        mapped.retain(|end| !end.stays);
        requests.clear();
        requests.extend(mapped.iter().map(place).map(|(first, pages)| self.unmap_request(first, pages)));
        if requests.is_empty() {
            return Ok(());
        }
        self.unmaps.fetch_add(requests.len() as u64, Ordering::Relaxed);
        self.iommu.batch_into(requests, replies, kicks)?;
        let mut result = Ok(());
        for ((request, reply), end) in requests.iter().zip(replies).zip(mapped.drain(..)) {
            match reply.status().and_then(|status| accepted(*request, status)) {
                Ok(()) => {
                    let (first, pages) = place(&end);
                    iova.give_back(first, pages);
                }
                Err(error) => result = result.and(Err(error.into())),
            }
        }
        result
    }

    fn settle(&self, state: &mut State) -> Result<(), DmaError> {
        if !state.deferred.is_empty() {
            self.iommu.sync()?;
            for (iova, pages) in state.deferred.drain(..) {
                state.iova.give_back(iova, pages);
            }
        }
        Ok(())
    }
}

impl DmaMapper for DomainMapper {
    fn map(&self, gpa: GuestPhys, bytes: usize, direction: Direction) -> Result<DeviceAddr, DmaError> {
        let buffer = Buffer { gpa, bytes, direction, lasting: false };
        Ok(self.map_one(&mut self.state(), buffer)?.address)
    }

    fn unmap(&self, address: DeviceAddr, bytes: usize) -> Result<(), DmaError> {
        if self.mapping == Mapping::Kept {
            return Ok(());
        }
        let (iova, pages) = whole_pages(address, bytes);
        let request = self.unmap_request(iova, pages);
        let mut state = self.state();
        self.unmaps.fetch_add(1, Ordering::Relaxed);
        if self.mapping != Mapping::Lazy {
            self.iommu.execute(request)?;
            state.iova.give_back(iova, pages);
            return Ok(());
        }
        self.iommu.defer(request)?;
        state.deferred.push((iova, pages));
        if state.deferred.len() >= MAX_DEFERRED {
            self.settle(&mut state)?;
        }
        Ok(())
    }

    fn map_all(&self, buffers: &[Buffer], mapped: &mut Vec<Mapped>) -> Result<(), DmaError> {
        let mut state = self.state();
        if self.goes_together() {
            return self.map_together(&mut state, buffers, mapped, Kicks::Together);
        }
        for buffer in buffers {
            mapped.push(self.map_one(&mut state, *buffer)?);
        }
        Ok(())
    }

    fn unmap_all(&self, mapped: &mut Vec<Mapped>) -> Result<(), DmaError> {
        if self.goes_together() {
            return self.unmap_together(&mut self.state(), mapped, Kicks::Together);
        }
        unmap_each(self, mapped)
    }

    fn map_requests(&self, requests: &mut [Reach]) -> Result<(), DmaError> {
        self.map_in_waves(requests)
    }

    fn unmap_requests(&self, requests: &mut [Reach]) -> Result<(), DmaError> {
        self.unmap_in_waves(requests)
    }

    fn map_ring(&self, gpa: GuestPhys, bytes: usize, limit: DeviceAddr) -> Result<DeviceAddr, DmaError> {
        let Pages { offset, pages } = Pages::of(gpa.page_offset(), bytes);
        let mut state = self.state();
        let iova = state.iova.take_below(pages, limit.0);
        let iova = iova.ok_or(DmaError::IovaExhausted { pages })?;
        let flags = MAP_F_READ | MAP_F_WRITE;
        let iova = self.send_map(&mut state, Some(iova), gpa.page(), pages, flags)?;
        Ok(iova + offset)
    }

    fn flush(&self) -> Result<(), DmaError> {
        self.settle(&mut self.state())
    }

    fn counts(&self) -> MapperCounts {
        MapperCounts { maps: self.maps.load(Ordering::Relaxed), unmaps: self.unmaps.load(Ordering::Relaxed) }
    }
}

/// The permissions for an access this way.
fn flags(direction: Direction) -> u32 {
    match direction {
        Direction::ToDevice => MAP_F_READ,
        Direction::FromDevice => MAP_F_WRITE,
        Direction::Both => MAP_F_READ | MAP_F_WRITE,
    }
}

/// Insists on OK.
fn accepted(request: Request, status: Status) -> Result<(), IommuError> {
    match status {
        Status::Ok => Ok(()),
        status => Err(IommuError::Refused { request, status }),
    }
}

#[cfg(test)]
mod tests;
