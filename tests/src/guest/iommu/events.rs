//! The event queue: buffers out, fault reports in.

use std::sync::Arc;
use std::time::Duration;

use super::driver::IommuError;
use super::wire::{EVENT_BYTES, FaultEvent};
use crate::guest::address::GuestPhys;
use crate::guest::memory::GuestMemory;
use crate::guest::queue::{QueueError, Segment, Used, VirtQueue};

/// The driver side of the event queue (virtio 1.2 §5.13.6.9).
#[derive(Debug)]
pub struct EventQueue {
    queue: VirtQueue,
    memory: Arc<GuestMemory>,
    buffers: GuestPhys,
    slots: u16,
    slot_of_head: Vec<u16>,
}

impl EventQueue {
    /// An event queue that keeps `slots` buffers of 24 bytes with the device, at most as many as
    /// the ring has entries.
    pub(super) fn new(queue: VirtQueue, memory: Arc<GuestMemory>, slots: u16, size: u16) -> Result<Self, IommuError> {
        let slots = slots.min(size);
        let buffers = memory.take_run(usize::from(slots) * EVENT_BYTES)?;
        let mut events = Self { queue, memory, buffers, slots, slot_of_head: vec![0; usize::from(size)] };
        events.fill()?;
        Ok(events)
    }

    /// The queue, to stop and start it.
    pub(super) fn queue(&mut self) -> &mut VirtQueue {
        &mut self.queue
    }

    /// Zero the ring and give the device all buffers again; the caller starts the queue afterwards.
    pub(super) fn reset(&mut self) -> Result<(), IommuError> {
        self.queue.reset()?;
        self.fill()
    }

    /// Notify the device of the buffers that are there.
    pub(super) fn announce(&mut self) -> Result<(), IommuError> {
        self.queue.kick()?;
        Ok(())
    }

    /// The faults reported so far, without waiting. Their buffers go back to the device.
    pub(super) fn collect(&mut self) -> Result<Vec<FaultEvent>, IommuError> {
        let mut faults = Vec::new();
        while let Some(used) = self.queue.try_take()? {
            faults.push(self.recycle(used)?);
        }
        self.queue.kick()?;
        Ok(faults)
    }

    /// Wait for one fault report at most `timeout`.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<Option<FaultEvent>, IommuError> {
        let Some(used) = self.queue.take_within(timeout)? else {
            return Ok(None);
        };
        let fault = self.recycle(used)?;
        self.queue.kick()?;
        Ok(Some(fault))
    }

    fn recycle(&mut self, used: Used) -> Result<FaultEvent, IommuError> {
        let slot = self.slot_of_head[usize::from(used.head)];
        let mut bytes = [0; EVENT_BYTES];
        self.memory.read(self.buffer(slot), &mut bytes)?;
        self.offer(slot)?;
        if used.bytes as usize != EVENT_BYTES {
            return Err(IommuError::BadEvent("its used length is not 24"));
        }
        FaultEvent::parse(&bytes).map_err(IommuError::BadEvent)
    }

    fn fill(&mut self) -> Result<(), IommuError> {
        for slot in 0..self.slots {
            self.offer(slot)?;
        }
        self.queue.publish()?;
        Ok(())
    }

    fn offer(&mut self, slot: u16) -> Result<(), QueueError> {
        let buffer = self.buffer(slot);
        self.memory.fill(buffer, 0, EVENT_BYTES)?;
        let segment = Segment { address: buffer.into(), bytes: 24, writable: true };
        let head = self.queue.add(&[segment], None)?;
        self.slot_of_head[usize::from(head)] = slot;
        Ok(())
    }

    fn buffer(&self, slot: u16) -> GuestPhys {
        self.buffers + u64::from(slot) * 24
    }
}
