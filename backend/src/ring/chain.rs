//! Descriptor chains: what one request points at.

use iommu_calgary::Access;

use frontend_spec::virtio::{Descriptor, descriptor_flag};

use crate::dma::{DmaFault, Piece, Window};
use crate::prefetch::Hint;
use crate::ring::RingLayout;

/// Most descriptors of one chain that the device follows: the most that Linux puts into one request is 128 + 2; a chain
/// may not be longer than the ring, and an indirect table not longer than this.
pub(super) const MAX_DESCRIPTORS: usize = 1024;

const DESCRIPTOR_BYTES: u64 = size_of::<Descriptor>() as u64;

/// One piece of a request, in the device's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// First byte.
    pub address: u64,
    /// Bytes, possibly 0.
    pub len: u32,
}

/// Why a chain cannot be used. Its head can still be returned, with a used length of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// An index points outside its table.
    #[error("descriptor index {0} is outside the table")]
    Index(u16),
    /// A loop, or more descriptors than allowed.
    #[error("the chain is longer than the ring or than {MAX_DESCRIPTORS} descriptors")]
    TooLong,
    /// An indirect table that is empty, not a whole number of descriptors, nested, or followed by NEXT.
    #[error("malformed indirect descriptor")]
    Indirect,
    /// A readable descriptor after a writable one.
    #[error("a device-readable descriptor follows a device-writable one")]
    Order,
    /// A descriptor could not be read.
    #[error("descriptor at {:#x} is not reachable", .0.address)]
    Fault(DmaFault),
}

impl From<DmaFault> for ChainError {
    fn from(fault: DmaFault) -> Self {
        Self::Fault(fault)
    }
}

/// The buffers of one request. Reused from request to request, so that following a chain allocates nothing.
#[derive(Debug, Default)]
pub struct Chain {
    /// What the device may read, in order.
    pub readable: Vec<Buffer>,
    /// What the device may write, in order.
    pub writable: Vec<Buffer>,
    /// Where its descriptors are, if they are in a table of their own.
    pub(crate) table: Hint,
}

impl Chain {
    /// Follows the chain that starts at `head`. Each descriptor is copied once. `piece` is the ring's table, if that is one
    /// piece.
    ///
    /// # Errors
    /// See [`ChainError`]; the buffers are unspecified then.
    pub(super) fn load(
        &mut self,
        window: &Window<'_>,
        layout: &RingLayout,
        piece: Option<Piece<'_>>,
        head: u16,
    ) -> Result<(), ChainError> {
        self.readable.clear();
        self.writable.clear();
        self.table = Hint::default();
        let mut table = Table { address: layout.descriptors, entries: u32::from(layout.size), indirect: false, piece };
        let mut index = head;
        let mut budget = u32::from(layout.size);
        loop {
            if budget == 0 {
                return Err(ChainError::TooLong);
            }
            budget -= 1;
            let descriptor = table.read(window, index)?;
            let flags = descriptor.flags.get();
            if flags & descriptor_flag::INDIRECT != 0 {
                // §2.7.5.3.1: one table, not nested, and not combined with NEXT.
                if table.indirect || flags & descriptor_flag::NEXT != 0 {
                    return Err(ChainError::Indirect);
                }
                table = Table::indirect(window, &descriptor)?;
                self.table = table.piece.map_or(Hint::default(), |piece| piece.hint());
                budget = table.entries;
                index = 0;
                continue;
            }
            let buffer = Buffer { address: descriptor.addr.get(), len: descriptor.len.get() };
            if flags & descriptor_flag::WRITE != 0 {
                self.writable.push(buffer);
            } else if self.writable.is_empty() {
                self.readable.push(buffer);
            } else {
                return Err(ChainError::Order);
            }
            if self.readable.len() + self.writable.len() > MAX_DESCRIPTORS {
                return Err(ChainError::TooLong);
            }
            if flags & descriptor_flag::NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next.get();
        }
    }

    /// Bytes the device may read.
    #[must_use]
    pub fn readable_len(&self) -> u64 {
        self.readable.iter().map(|buffer| u64::from(buffer.len)).sum()
    }

    /// Bytes the device may write.
    #[must_use]
    pub fn writable_len(&self) -> u64 {
        self.writable.iter().map(|buffer| u64::from(buffer.len)).sum()
    }

    /// Copies the first bytes of the readable part, however it is split; returns how many there were.
    ///
    /// # Errors
    /// A buffer is not reachable.
    pub fn copy_in(&self, window: &Window<'_>, bytes: &mut [u8]) -> Result<usize, DmaFault> {
        let mut done = 0;
        for buffer in &self.readable {
            let part = (buffer.len as usize).min(bytes.len() - done);
            window.copy_in(buffer.address, &mut bytes[done..done + part])?;
            done += part;
        }
        Ok(done)
    }

    /// Copies `bytes` to the start of the writable part, however it is split; returns how many fitted.
    ///
    /// # Errors
    /// A buffer is not reachable.
    pub fn copy_out(&self, window: &Window<'_>, bytes: &[u8]) -> Result<usize, DmaFault> {
        let mut done = 0;
        for buffer in &self.writable {
            let part = (buffer.len as usize).min(bytes.len() - done);
            window.copy_out(buffer.address, &bytes[done..done + part])?;
            done += part;
        }
        Ok(done)
    }
}

/// A descriptor table: the ring's own or an indirect one.
struct Table<'w> {
    address: u64,
    entries: u32,
    indirect: bool,
    /// All of it, if it is one piece.
    piece: Option<Piece<'w>>,
}

impl<'w> Table<'w> {
    fn indirect(window: &'w Window<'_>, descriptor: &Descriptor) -> Result<Self, ChainError> {
        let bytes = u64::from(descriptor.len.get());
        if bytes == 0 || !bytes.is_multiple_of(DESCRIPTOR_BYTES) {
            return Err(ChainError::Indirect);
        }
        let entries = bytes / DESCRIPTOR_BYTES;
        if entries > MAX_DESCRIPTORS as u64 {
            return Err(ChainError::TooLong);
        }
        let entries = u32::try_from(entries).map_err(|_| ChainError::TooLong)?;
        let address = descriptor.addr.get();
        Ok(Self { address, entries, indirect: true, piece: window.piece(address, bytes, Access::Read) })
    }

    #[inline]
    fn read(&self, window: &Window<'_>, index: u16) -> Result<Descriptor, ChainError> {
        if u32::from(index) >= self.entries {
            return Err(ChainError::Index(index));
        }
        let mut bytes = [0; size_of::<Descriptor>()];
        match self.piece.and_then(|piece| piece.read(bytes.len() * usize::from(index))) {
            Some(whole) => bytes = whole,
            None => {
                let offset = DESCRIPTOR_BYTES * u64::from(index);
                let address = self.address.checked_add(offset).ok_or(ChainError::Index(index))?;
                window.copy_in(address, &mut bytes)?;
            }
        }
        Ok(zerocopy::transmute!(bytes))
    }
}
