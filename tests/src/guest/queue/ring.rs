//! A split ring: descriptors out, used entries in.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::layout::{DESCRIPTOR_BYTES, RingBytes, RingPlacement, USED_ENTRY_BYTES};
use crate::guest::address::{DeviceAddr, GuestPhys};
use crate::guest::memory::{GuestMemory, MemoryError};

const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const DESC_F_INDIRECT: u16 = 4;
const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_F_NO_NOTIFY: u16 = 1;

/// One piece of a request, as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Address of the first byte.
    pub address: DeviceAddr,
    /// Length in bytes.
    pub bytes: u32,
    /// Whether the device writes it (otherwise it reads it).
    pub writable: bool,
}

/// A table for the descriptors of one request, outside the ring: 16 bytes for each segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndirectTable {
    /// Where the driver writes it.
    pub memory: GuestPhys,
    /// Where the device reads it.
    pub device: DeviceAddr,
}

/// A request that the device gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The head descriptor, as returned when the request was added.
    pub head: u16,
    /// Bytes the device says it wrote, checked to fit the writable segments.
    pub bytes: u32,
}

/// Why a ring operation failed. The variants named after the device are faults of the device.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// There are not enough free descriptors: take used requests back first.
    #[error("the ring is full: take used requests back first")]
    Full,
    /// The request has no segment, or a readable one after a writable one, or more than fit.
    #[error("a request needs 1 to {limit} segments, readable before writable")]
    BadRequest {
        /// The largest number of segments.
        limit: u16,
    },
    /// The size of a ring is a power of two of at most 32768.
    #[error("{0} is no ring size: use a power of two of at most 32768")]
    BadSize(u16),
    /// The device's used index ran past what was given to it.
    #[error("the device returned {returned} requests although {outstanding} were outstanding")]
    DeviceUsedIndex {
        /// Entries the used index promises.
        returned: u16,
        /// Requests the device had.
        outstanding: u16,
    },
    /// The device returned a descriptor that it did not have.
    #[error("the device returned descriptor {0}, which heads no outstanding request")]
    DeviceUsedId(u32),
    /// The device claims to have written more than it could.
    #[error("the device says it wrote {bytes} bytes into the {writable} of request {head}")]
    DeviceUsedLength {
        /// Head of the request.
        head: u16,
        /// Bytes it claims.
        bytes: u32,
        /// Bytes of the writable segments.
        writable: u64,
    },
    /// Nothing came back in time.
    #[error("the device did not answer within {0:?}: see its log")]
    Timeout(std::time::Duration),
    /// The doorbell or the interrupt failed.
    #[error("cannot notify, or hear from, the device: {0}")]
    Notify(#[from] std::io::Error),
    /// The ring is not in guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

#[derive(Clone, Copy, Debug, Default)]
struct Chain {
    /// Descriptors of the ring it holds; 0 when it is not outstanding.
    descriptors: u16,
    writable: u64,
}

/// The driver side of one split ring.
///
/// Requests are added without telling the device, [`SplitQueue::publish`] makes all of them
/// visible with one store of the index, and [`SplitQueue::needs_kick`] says whether the device wants
/// a notification for them.
#[derive(Debug)]
pub struct SplitQueue {
    memory: Arc<GuestMemory>,
    ring: RingPlacement,
    size: u16,
    event_idx: bool,
    free: Vec<u16>,
    next: Vec<u16>,
    chains: Vec<Chain>,
    outstanding: u16,
    next_avail: u16,
    kicked_avail: u16,
    next_used: u16,
}

impl SplitQueue {
    /// A ring of `size` entries in zeroed memory.
    ///
    /// # Errors
    /// [`QueueError::BadSize`], or [`QueueError::Memory`] when a part is not in RAM.
    pub fn new(memory: Arc<GuestMemory>, ring: RingPlacement, size: u16, event_idx: bool) -> Result<Self, QueueError> {
        if !size.is_power_of_two() {
            return Err(QueueError::BadSize(size));
        }
        let mut queue = Self {
            memory,
            ring,
            size,
            event_idx,
            free: Vec::new(),
            next: vec![0; usize::from(size)],
            chains: Vec::new(),
            outstanding: 0,
            next_avail: 0,
            kicked_avail: 0,
            next_used: 0,
        };
        queue.reset()?;
        Ok(queue)
    }

    /// Forget all requests and zero the ring, as a driver does before it starts a device anew.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn reset(&mut self) -> Result<(), QueueError> {
        let bytes = RingBytes::of(self.size);
        let parts = [
            (self.ring.descriptors, bytes.descriptors),
            (self.ring.available, bytes.available),
            (self.ring.used, bytes.used),
        ];
        for (part, bytes) in parts {
            self.memory.fill(part.memory, 0, bytes)?;
        }
        self.free = (0..self.size).rev().collect();
        self.chains = vec![Chain::default(); usize::from(self.size)];
        self.outstanding = 0;
        self.next_avail = 0;
        self.kicked_avail = 0;
        self.next_used = 0;
        Ok(())
    }

    /// Entries of the ring.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where the ring is.
    #[must_use]
    pub fn placement(&self) -> &RingPlacement {
        &self.ring
    }

    /// The memory the ring is in.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Free descriptors.
    #[must_use]
    pub fn free_descriptors(&self) -> usize {
        self.free.len()
    }

    /// Requests added and not yet taken back.
    #[must_use]
    pub fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// The index of the next entry that will be made available (free-running).
    #[must_use]
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Add a request that takes one descriptor for each segment. Returns its head.
    ///
    /// # Errors
    /// [`QueueError::Full`], [`QueueError::BadRequest`] or [`QueueError::Memory`].
    pub fn add(&mut self, segments: &[Segment]) -> Result<u16, QueueError> {
        let count = self.check(segments, self.size)?;
        if self.free.len() < segments.len() {
            return Err(QueueError::Full);
        }
        let heads = self.free.split_off(self.free.len() - segments.len());
        // The free list is a stack: its last element is the first descriptor of the chain.
        for (index, segment) in segments.iter().enumerate() {
            let at = heads[heads.len() - 1 - index];
            let next = heads.len().checked_sub(index + 2).map(|next| heads[next]);
            self.next[usize::from(at)] = next.unwrap_or(0);
            let flags = if next.is_some() { DESC_F_NEXT } else { 0 };
            self.write_descriptor(at, segment, flags, next.unwrap_or(0))?;
        }
        let head = heads[heads.len() - 1];
        self.offer(head, count, segments)
    }

    /// Add a request whose descriptors are in `table`, so that it takes one descriptor of the ring.
    /// Returns its head.
    ///
    /// # Errors
    /// [`QueueError::Full`], [`QueueError::BadRequest`] or [`QueueError::Memory`].
    pub fn add_indirect(&mut self, segments: &[Segment], table: IndirectTable) -> Result<u16, QueueError> {
        // virtio 1.2 §2.7.5.3.1: no chain is longer than the ring, in a table either.
        let count = self.check(segments, self.size)?;
        let head = *self.free.last().ok_or(QueueError::Full)?;
        for index in 0..count {
            let last = index + 1 == count;
            let (flags, next) = if last { (0, 0) } else { (DESC_F_NEXT, index + 1) };
            let segment = &segments[usize::from(index)];
            let at = table.memory + u64::from(index) * DESCRIPTOR_BYTES;
            self.write_descriptor_at(at, segment, flags, next)?;
        }
        let whole = Segment { address: table.device, bytes: u32::from(count) * 16, writable: false };
        self.write_descriptor(head, &whole, DESC_F_INDIRECT, 0)?;
        self.free.pop();
        self.offer(head, 1, segments)
    }

    /// Make the requests added so far visible to the device, without notifying it.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn publish(&mut self) -> Result<(), QueueError> {
        let index = self.ring.available.memory + 2;
        self.memory.store_u16(index, self.next_avail, Ordering::Release)?;
        Ok(())
    }

    /// Whether the device wants a notification for what was published since the last call
    /// (virtio 1.2 §2.7.13.4).
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn needs_kick(&mut self) -> Result<bool, QueueError> {
        // The index must be visible before the device's wish is read, or both sides may sleep.
        fence(Ordering::SeqCst);
        let (old, new) = (self.kicked_avail, self.next_avail);
        self.kicked_avail = new;
        if old == new {
            return Ok(false);
        }
        if self.event_idx {
            let event = self
                .memory
                .load_u16(self.ring.used.memory + 4 + USED_ENTRY_BYTES * u64::from(self.size), Ordering::Acquire)?;
            Ok(passes(event, new, old))
        } else {
            let flags = self.memory.load_u16(self.ring.used.memory, Ordering::Acquire)?;
            Ok(flags & USED_F_NO_NOTIFY == 0)
        }
    }

    /// Ask for no interrupt.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn disable_interrupts(&mut self) -> Result<(), QueueError> {
        if self.event_idx {
            // An index that was just passed comes round again after 65535 requests only.
            self.set_used_event(self.next_used.wrapping_sub(1))
        } else {
            let flags = self.ring.available.memory;
            Ok(self.memory.store_u16(flags, AVAIL_F_NO_INTERRUPT, Ordering::Release)?)
        }
    }

    /// Ask for an interrupt at the next used request. Returns whether one is there already, in
    /// which case the interrupt may never come.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn enable_interrupts(&mut self) -> Result<bool, QueueError> {
        if self.event_idx {
            self.set_used_event(self.next_used)?;
        } else {
            let flags = self.ring.available.memory;
            self.memory.store_u16(flags, 0, Ordering::Release)?;
        }
        fence(Ordering::SeqCst);
        Ok(self.device_used_index()? != self.next_used)
    }

    /// Take back one request, if the device returned one.
    ///
    /// # Errors
    /// The `Device…` variants when the device broke the rules; the entry is then consumed.
    pub fn take_used(&mut self) -> Result<Option<Used>, QueueError> {
        let returned = self.device_used_index()?.wrapping_sub(self.next_used);
        if returned == 0 {
            return Ok(None);
        }
        if returned > self.outstanding {
            return Err(QueueError::DeviceUsedIndex { returned, outstanding: self.outstanding });
        }
        let slot = u64::from(self.next_used & (self.size - 1));
        let mut entry = [0; 8];
        self.memory.read(self.ring.used.memory + 4 + slot * USED_ENTRY_BYTES, &mut entry)?;
        self.next_used = self.next_used.wrapping_add(1);
        let [i0, i1, i2, i3, l0, l1, l2, l3] = entry;
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        let bytes = u32::from_le_bytes([l0, l1, l2, l3]);
        let head = u16::try_from(id).map_err(|_| QueueError::DeviceUsedId(id))?;
        let chain = self
            .chains
            .get_mut(usize::from(head))
            .map(std::mem::take)
            .filter(|chain| chain.descriptors != 0)
            .ok_or(QueueError::DeviceUsedId(id))?;
        self.outstanding -= 1;
        self.release(head, chain.descriptors);
        if u64::from(bytes) > chain.writable {
            return Err(QueueError::DeviceUsedLength { head, bytes, writable: chain.writable });
        }
        Ok(Some(Used { head, bytes }))
    }

    /// The device's used index as it stands.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn device_used_index(&self) -> Result<u16, QueueError> {
        let index = self.ring.used.memory + 2;
        Ok(self.memory.load_u16(index, Ordering::Acquire)?)
    }

    /// Write one entry of the available ring without touching the index; `slot` is free-running.
    pub(super) fn write_available(&self, slot: u16, head: u16) -> Result<(), QueueError> {
        let slot = u64::from(slot & (self.size - 1));
        let at = self.ring.available.memory + 4 + 2 * slot;
        Ok(self.memory.store_u16(at, head, Ordering::Relaxed)?)
    }

    /// Count a hand-made available entry, so that it is published and can be taken back.
    pub(super) fn adopt(&mut self, head: u16, writable: u64) {
        self.next_avail = self.next_avail.wrapping_add(1);
        if let Some(chain) = self.chains.get_mut(usize::from(head)) {
            self.free.retain(|free| *free != head);
            *chain = Chain { descriptors: 1, writable };
            self.outstanding = self.outstanding.saturating_add(1);
        }
    }

    fn check(&self, segments: &[Segment], limit: u16) -> Result<u16, QueueError> {
        let ordered = segments.is_sorted_by_key(|segment| segment.writable);
        match u16::try_from(segments.len()) {
            Ok(count) if count >= 1 && count <= limit && ordered => Ok(count),
            _ => Err(QueueError::BadRequest { limit }),
        }
    }

    fn offer(&mut self, head: u16, descriptors: u16, segments: &[Segment]) -> Result<u16, QueueError> {
        self.write_available(self.next_avail, head)?;
        let writable = segments.iter().filter(|segment| segment.writable);
        self.chains[usize::from(head)] =
            Chain { descriptors, writable: writable.map(|segment| u64::from(segment.bytes)).sum() };
        self.next_avail = self.next_avail.wrapping_add(1);
        self.outstanding += 1;
        Ok(head)
    }

    fn release(&mut self, head: u16, descriptors: u16) {
        let start = self.free.len();
        let mut at = head;
        for _ in 0..descriptors {
            self.free.push(at);
            at = self.next[usize::from(at)];
        }
        self.free[start..].reverse();
    }

    fn set_used_event(&self, index: u16) -> Result<(), QueueError> {
        let at = self.ring.available.memory + 4 + 2 * u64::from(self.size);
        Ok(self.memory.store_u16(at, index, Ordering::Release)?)
    }

    pub(super) fn write_descriptor(
        &self,
        index: u16,
        segment: &Segment,
        flags: u16,
        next: u16,
    ) -> Result<(), QueueError> {
        let at = self.ring.descriptors.memory + u64::from(index) * DESCRIPTOR_BYTES;
        self.write_descriptor_at(at, segment, flags, next)
    }

    fn write_descriptor_at(&self, at: GuestPhys, segment: &Segment, flags: u16, next: u16) -> Result<(), QueueError> {
        let flags = flags | if segment.writable { DESC_F_WRITE } else { 0 };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&segment.address.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&segment.bytes.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        Ok(self.memory.write(at, &bytes)?)
    }
}

/// Whether going from `old` to `new` passes `event` (virtio 1.2 §2.7.10).
fn passes(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests;
