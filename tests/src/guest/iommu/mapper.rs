//! Buffers of one endpoint, mapped through the IOMMU.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::driver::{Iommu, IommuError};
use super::iova::IovaAllocator;
use super::wire::{MAP_F_READ, MAP_F_WRITE, Request, Status};
use crate::guest::address::{DeviceAddr, GuestPhys, PAGE};
use crate::guest::dma::{Buffer, Direction, DmaError, DmaMapper, MapperCounts, map_each, unmap_each};

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
    kept: HashMap<(GuestPhys, u64), DeviceAddr>,
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

impl DomainMapper {
    /// A mapper for `domain`, to which the endpoint is attached, with the addresses of `iova`.
    #[must_use]
    pub fn new(iommu: Arc<Iommu>, domain: u32, iova: IovaAllocator, mapping: Mapping) -> Self {
        Self {
            iommu,
            domain,
            mapping,
            state: Mutex::new(State { iova, deferred: Vec::new(), kept: HashMap::new() }),
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

    /// Makes all of `buffers` reachable with one kick. What succeeded is added to `mapped`.
    fn map_together(&self, buffers: &[Buffer], mapped: &mut Vec<(DeviceAddr, usize)>) -> Result<(), DmaError> {
        let mut state = self.state();
        let mut requests = Vec::with_capacity(buffers.len());
        let mut places = Vec::with_capacity(buffers.len());
        let mut room = Ok(());
        for buffer in buffers {
            let Pages { offset, pages } = Pages::of(buffer.gpa.page_offset(), buffer.bytes);
            let Some(iova) = state.iova.take(pages) else {
                room = Err(DmaError::IovaExhausted { pages });
                break;
            };
            requests.push(Request::Map {
                domain: self.domain,
                first: iova.0,
                last: iova.0 + pages * PAGE - 1,
                target: buffer.gpa.page(),
                flags: flags(buffer.direction),
            });
            places.push((iova, offset, pages, buffer.bytes));
        }
        self.maps.fetch_add(requests.len() as u64, Ordering::Relaxed);
        let replies = self.iommu.batch(&requests)?;
        for ((request, reply), (iova, offset, pages, bytes)) in requests.iter().zip(replies).zip(places) {
            match accepted(*request, reply.status()?) {
                Ok(()) => mapped.push((iova + offset, bytes)),
                Err(error) => {
                    state.iova.give_back(iova, pages);
                    room = room.and(Err(error.into()));
                }
            }
        }
        room
    }

    /// Ends all of `mapped` with one kick.
    fn unmap_together(&self, mapped: &mut Vec<(DeviceAddr, usize)>) -> Result<(), DmaError> {
        let ranges = mapped.drain(..).map(|(address, bytes)| (address.page(), Pages::of(address.page_offset(), bytes)));
        let ranges: Vec<(DeviceAddr, u64)> = ranges.map(|(iova, pages)| (iova, pages.pages)).collect();
        let request = |(iova, pages): &(DeviceAddr, u64)| Request::Unmap {
            domain: self.domain,
            first: iova.0,
            last: iova.0 + pages * PAGE - 1,
        };
        let requests: Vec<Request> = ranges.iter().map(request).collect();
        self.unmaps.fetch_add(requests.len() as u64, Ordering::Relaxed);
        let mut state = self.state();
        let replies = self.iommu.batch(&requests)?;
        let mut result = Ok(());
        for ((request, reply), (iova, pages)) in requests.iter().zip(replies).zip(ranges) {
            match accepted(*request, reply.status()?) {
                Ok(()) => state.iova.give_back(iova, pages),
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
        let Pages { offset, pages } = Pages::of(gpa.page_offset(), bytes);
        let target = gpa.page();
        let flags = match direction {
            _ if self.mapping == Mapping::Kept => MAP_F_READ | MAP_F_WRITE,
            direction => flags(direction),
        };
        let mut state = self.state();
        if self.mapping == Mapping::Kept
            && let Some(iova) = state.kept.get(&(target, pages))
        {
            return Ok(*iova + offset);
        }
        let iova = state.iova.take(pages);
        let iova = self.send_map(&mut state, iova, target, pages, flags)?;
        if self.mapping == Mapping::Kept {
            state.kept.insert((target, pages), iova);
        }
        Ok(iova + offset)
    }

    fn unmap(&self, address: DeviceAddr, bytes: usize) -> Result<(), DmaError> {
        if self.mapping == Mapping::Kept {
            return Ok(());
        }
        let Pages { pages, .. } = Pages::of(address.page_offset(), bytes);
        let iova = address.page();
        let request = Request::Unmap { domain: self.domain, first: iova.0, last: iova.0 + pages * PAGE - 1 };
        let mut state = self.state();
        self.unmaps.fetch_add(1, Ordering::Relaxed);
        if matches!(self.mapping, Mapping::Strict | Mapping::StrictTogether) {
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

    fn map_all(&self, buffers: &[Buffer], mapped: &mut Vec<(DeviceAddr, usize)>) -> Result<(), DmaError> {
        if self.mapping == Mapping::StrictTogether {
            return self.map_together(buffers, mapped);
        }
        map_each(self, buffers, mapped)
    }

    fn unmap_all(&self, mapped: &mut Vec<(DeviceAddr, usize)>) -> Result<(), DmaError> {
        if self.mapping == Mapping::StrictTogether {
            return self.unmap_together(mapped);
        }
        unmap_each(self, mapped)
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
