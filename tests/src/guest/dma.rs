//! How a driver makes memory reachable for a device.

use std::fmt::Debug;

use super::address::{DeviceAddr, GuestPhys};
use super::iommu::IommuError;
use super::memory::MemoryError;
use super::queue::QueueError;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The device reads.
    ToDevice,
    /// The device writes.
    FromDevice,
    /// Both, as for rings.
    Both,
}

/// Why memory could not be made reachable, or a request on it failed.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// The IOMMU refused.
    #[error(transparent)]
    Iommu(#[from] IommuError),
    /// The queue failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Guest memory is short or the address is wrong.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// No free range of device addresses.
    #[error("no {pages} free page(s) of IOVA left: use a larger window or fewer requests at once")]
    IovaExhausted {
        /// Pages asked for.
        pages: u64,
    },
}

/// Requests that a mapper sent to its IOMMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapperCounts {
    /// MAP requests.
    pub maps: u64,
    /// UNMAP requests.
    pub unmaps: u64,
}

impl std::ops::Sub for MapperCounts {
    type Output = Self;
    fn sub(self, earlier: Self) -> Self {
        Self { maps: self.maps - earlier.maps, unmaps: self.unmaps - earlier.unmaps }
    }
}

/// A piece of guest memory for one request, contiguous there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Where it is.
    pub gpa: GuestPhys,
    /// Its length.
    pub bytes: usize,
    /// Which way its bytes go.
    pub direction: Direction,
    /// It is the driver's own and holds one message after the other, unlike the data of its callers.
    pub lasting: bool,
}

/// A buffer that the device can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Where it does.
    pub address: DeviceAddr,
    /// Its length.
    pub bytes: usize,
    /// It stays so after the request.
    pub stays: bool,
}

/// What one of several requests needs, and what it got.
#[derive(Debug, Default)]
pub struct Reach {
    /// What is to be reachable.
    pub buffers: Vec<Buffer>,
    /// What is, in the same order.
    pub mapped: Vec<Mapped>,
}

/// Turns guest memory into device addresses, for one device.
pub trait DmaMapper: Debug + Send + Sync {
    /// Make `bytes` contiguous bytes at `gpa` reachable for one request.
    ///
    /// # Errors
    /// [`DmaError`] when the IOMMU refuses or has no room.
    fn map(&self, gpa: GuestPhys, bytes: usize, direction: Direction) -> Result<DeviceAddr, DmaError>;

    /// End one `map`, with the address it returned and the same length.
    ///
    /// # Errors
    /// [`DmaError`] when the IOMMU refuses.
    fn unmap(&self, address: DeviceAddr, bytes: usize) -> Result<(), DmaError>;

    /// Makes every one of `buffers` reachable and adds each to `mapped`, in their order.
    ///
    /// # Errors
    /// As [`DmaMapper::map`]; what was added is mapped and remains so.
    fn map_all(&self, buffers: &[Buffer], mapped: &mut Vec<Mapped>) -> Result<(), DmaError> {
        for Buffer { gpa, bytes, direction, .. } in buffers.iter().copied() {
            mapped.push(Mapped { address: self.map(gpa, bytes, direction)?, bytes, stays: false });
        }
        Ok(())
    }

    /// Ends what [`DmaMapper::map_all`] did, as far as it does not stay; `mapped` is empty then.
    ///
    /// # Errors
    /// The first one's; the others were unmapped all the same.
    fn unmap_all(&self, mapped: &mut Vec<Mapped>) -> Result<(), DmaError> {
        unmap_each(self, mapped)
    }

    /// Makes the buffers of several requests reachable, as a driver on as many processors does: what one of them waits for keeps
    /// no other one waiting.
    ///
    /// # Errors
    /// As [`DmaMapper::map`]; what is in any of the lists is mapped and remains so.
    fn map_requests(&self, requests: &mut [Reach]) -> Result<(), DmaError> {
        map_requests_each(self, requests)
    }

    /// Ends what [`DmaMapper::map_requests`] did, likewise.
    ///
    /// # Errors
    /// As [`DmaMapper::unmap_all`].
    fn unmap_requests(&self, requests: &mut [Reach]) -> Result<(), DmaError> {
        unmap_requests_each(self, requests)
    }

    /// Make `bytes` bytes at `gpa` reachable both ways for as long as the device runs, at an
    /// address below `limit`: ring memory, whose address a VMM must be able to take for one of
    /// guest RAM.
    ///
    /// # Errors
    /// [`DmaError`] when the IOMMU refuses or has no room below `limit`.
    fn map_ring(&self, gpa: GuestPhys, bytes: usize, limit: DeviceAddr) -> Result<DeviceAddr, DmaError>;

    /// Finish everything that was put off.
    ///
    /// # Errors
    /// [`DmaError`] when the IOMMU refuses.
    fn flush(&self) -> Result<(), DmaError>;

    /// Requests sent so far.
    fn counts(&self) -> MapperCounts;
}

/// [`DmaMapper::unmap_all`], one after the other.
pub(super) fn unmap_each(mapper: &(impl DmaMapper + ?Sized), mapped: &mut Vec<Mapped>) -> Result<(), DmaError> {
    let mut result = Ok(());
    for Mapped { address, bytes, .. } in mapped.drain(..).filter(|mapped| !mapped.stays) {
        result = result.and(mapper.unmap(address, bytes));
    }
    result
}

/// [`DmaMapper::map_requests`], one after the other.
pub(super) fn map_requests_each(mapper: &(impl DmaMapper + ?Sized), requests: &mut [Reach]) -> Result<(), DmaError> {
    requests.iter_mut().try_for_each(|Reach { buffers, mapped }| mapper.map_all(buffers, mapped))
}

/// [`DmaMapper::unmap_requests`], one after the other.
pub(super) fn unmap_requests_each(mapper: &(impl DmaMapper + ?Sized), requests: &mut [Reach]) -> Result<(), DmaError> {
    let mut result = Ok(());
    for request in requests {
        result = result.and(mapper.unmap_all(&mut request.mapped));
    }
    result
}

/// No IOMMU: the device uses guest-physical addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct;

impl DmaMapper for Direct {
    fn map(&self, gpa: GuestPhys, _: usize, _: Direction) -> Result<DeviceAddr, DmaError> {
        Ok(gpa.into())
    }

    fn unmap(&self, _: DeviceAddr, _: usize) -> Result<(), DmaError> {
        Ok(())
    }

    fn map_ring(&self, gpa: GuestPhys, _: usize, _: DeviceAddr) -> Result<DeviceAddr, DmaError> {
        Ok(gpa.into())
    }

    fn flush(&self) -> Result<(), DmaError> {
        Ok(())
    }

    fn counts(&self) -> MapperCounts {
        MapperCounts::default()
    }
}
