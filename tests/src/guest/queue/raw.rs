//! Requests that no well-behaved driver makes.

use std::sync::Arc;

use super::ring::{IndirectTable, QueueError, Segment, SplitQueue};
use super::virtqueue::VirtQueue;
use crate::guest::address::{DeviceAddr, GuestPhys};
use crate::guest::dma::{Direction, DmaError, DmaMapper};
use crate::guest::memory::GuestMemory;

/// A descriptor as it lies in the table, any values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Address of the buffer, or of an indirect table.
    pub address: DeviceAddr,
    /// Length in bytes.
    pub bytes: u32,
    /// NEXT 1, WRITE 2, INDIRECT 4, and bits that mean nothing.
    pub flags: u16,
    /// The next descriptor of the chain.
    pub next: u16,
}

impl Descriptor {
    /// The 16 bytes of the descriptor.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// The hostile side of the driver. None of these check anything beyond staying inside the ring's
/// own memory; after them the queue's account of free descriptors is wrong until
/// [`SplitQueue::reset`].
impl SplitQueue {
    /// Write a descriptor of the ring's table.
    ///
    /// # Errors
    /// [`QueueError::BadSize`] when `index` is outside the table.
    pub fn raw_descriptor(&mut self, index: u16, descriptor: Descriptor) -> Result<(), QueueError> {
        if index >= self.size() {
            return Err(QueueError::BadSize(index));
        }
        let at = self.placement().descriptors.memory + u64::from(index) * 16;
        Ok(self.memory().write(at, &descriptor.to_bytes())?)
    }

    /// Put any number into the next entry of the available ring; the next publish or kick shows it. A descriptor of
    /// the table counts as outstanding, so that it can come back with at most `writable` bytes.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn raw_offer(&mut self, head: u16, writable: u64) -> Result<(), QueueError> {
        self.write_available(self.next_avail(), head)?;
        self.adopt(head, writable);
        Ok(())
    }

    /// Write an entry of the available ring, any slot modulo the size, any head.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn raw_available(&mut self, slot: u16, head: u16) -> Result<(), QueueError> {
        self.write_available(slot, head)
    }

    /// Store any available index. The driver's own count does not change.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn raw_available_index(&mut self, index: u16) -> Result<(), QueueError> {
        let at = self.placement().available.memory + 2;
        Ok(self.memory().store_u16(at, index, std::sync::atomic::Ordering::Release)?)
    }
}

/// One request of arbitrary bytes in arbitrary pieces.
#[derive(Clone, Debug, Default)]
pub struct RawExchange {
    /// The readable pieces, one descriptor each, in order. An empty piece is a descriptor of
    /// length 0.
    pub readable: Vec<Vec<u8>>,
    /// The lengths of the writable pieces in bytes, one descriptor each.
    pub writable: Vec<u32>,
    /// Put the descriptors into an indirect table.
    pub indirect: bool,
}

/// What came back for a [`RawExchange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawReply {
    /// The used length in bytes.
    pub used_bytes: u32,
    /// All writable pieces, one after the other. Bytes that the device did not write are
    /// [`RawExchange::POISON`].
    pub writable: Vec<u8>,
}

impl RawExchange {
    /// The byte that fills the writable pieces before the device sees them.
    pub const POISON: u8 = 0xa5;

    /// A request of one readable and one writable piece.
    #[must_use]
    pub fn new(readable: &[u8], writable: u32) -> Self {
        Self { readable: vec![readable.to_vec()], writable: vec![writable], indirect: false }
    }

    /// The readable bytes of `self` in pieces that end at the offsets `cuts` (ascending; others are
    /// skipped).
    #[must_use]
    pub fn cut_readable(mut self, cuts: &[usize]) -> Self {
        let whole = self.readable.concat();
        let mut pieces = Vec::new();
        let mut start = 0;
        for cut in cuts {
            if *cut > start && *cut < whole.len() {
                pieces.push(whole[start..*cut].to_vec());
                start = *cut;
            }
        }
        pieces.push(whole[start..].to_vec());
        self.readable = pieces;
        self
    }

    /// Send the request alone on `queue` and wait for it.
    ///
    /// # Errors
    /// [`DmaError`] when memory or a mapping cannot be had, or as [`VirtQueue::take`].
    pub fn run(
        &self,
        queue: &mut VirtQueue,
        memory: &Arc<GuestMemory>,
        mapper: &dyn DmaMapper,
    ) -> Result<RawReply, DmaError> {
        let mut pieces: Vec<Piece> = Vec::new();
        let result = self.exchange(queue, memory, mapper, &mut pieces);
        // After a time-out the device may still own the pieces: leaking them keeps it away from
        // memory that is used again.
        if !matches!(result, Err(DmaError::Queue(QueueError::Timeout(_)))) {
            for piece in pieces {
                mapper.unmap(piece.device, piece.bytes)?;
                memory.give_run(piece.memory, piece.bytes);
            }
        }
        result
    }

    fn exchange(
        &self,
        queue: &mut VirtQueue,
        memory: &Arc<GuestMemory>,
        mapper: &dyn DmaMapper,
        pieces: &mut Vec<Piece>,
    ) -> Result<RawReply, DmaError> {
        let mut segments = Vec::new();
        for readable in &self.readable {
            let piece = Piece::new(readable.len(), Direction::ToDevice, memory, mapper)?;
            memory.write(piece.memory, readable)?;
            segments.push(piece.segment(false));
            pieces.push(piece);
        }
        let first_writable = pieces.len();
        for bytes in &self.writable {
            let bytes = usize::try_from(*bytes).unwrap_or(usize::MAX);
            let piece = Piece::new(bytes, Direction::FromDevice, memory, mapper)?;
            memory.fill(piece.memory, Self::POISON, bytes)?;
            segments.push(piece.segment(true));
            pieces.push(piece);
        }
        let last_writable = pieces.len();
        let table = if self.indirect {
            let piece = Piece::new(16 * segments.len(), Direction::ToDevice, memory, mapper)?;
            let table = IndirectTable { memory: piece.memory, device: piece.device };
            pieces.push(piece);
            Some(table)
        } else {
            None
        };
        let head = queue.add(&segments, table)?;
        queue.kick()?;
        let used = queue.take()?;
        if used.head != head {
            return Err(QueueError::DeviceUsedId(u32::from(used.head)).into());
        }
        let mut writable = Vec::new();
        for piece in &pieces[first_writable..last_writable] {
            writable.extend(memory.read_vec(piece.memory, piece.bytes)?);
        }
        Ok(RawReply { used_bytes: used.bytes, writable })
    }
}

/// One mapped buffer of a raw exchange.
#[derive(Debug)]
struct Piece {
    memory: GuestPhys,
    device: DeviceAddr,
    bytes: usize,
}

impl Piece {
    fn new(
        bytes: usize,
        direction: Direction,
        memory: &Arc<GuestMemory>,
        mapper: &dyn DmaMapper,
    ) -> Result<Self, DmaError> {
        let run = memory.take_run(bytes)?;
        let device = mapper.map(run, bytes, direction)?;
        Ok(Self { memory: run, device, bytes })
    }

    fn segment(&self, writable: bool) -> Segment {
        Segment { address: self.device, bytes: u32::try_from(self.bytes).unwrap_or(u32::MAX), writable }
    }
}
