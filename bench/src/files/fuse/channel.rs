//! Requests to a virtio-fs device, many at a time.

use std::sync::Arc;
use std::time::Duration;

use calgary_tests::guest::address::GuestPhys;
use calgary_tests::guest::queue::{IndirectTable, RingBytes, RingPlacement, Segment};
use calgary_tests::guest::transport::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, TransportError};
use calgary_tests::guest::{GuestMemory, PageBuffer, SplitQueue, Transport, VhostUserDevice, VirtQueue, Waiting};

use super::super::subject::{ROOM, SLOTS};
use super::wire::{OUT_HEADER, Op};
use crate::failure::Failure;
use crate::peers::{Server, Virtiofsd};

/// Entries of both rings.
const RING: u16 = 128;
/// The queue of ordinary requests; queue 0 is for urgent ones.
const REQUEST_QUEUE: usize = 1;
/// A slot's own page: the request, the reply without data, and on the next page the descriptors.
const REPLY_OFFSET: u64 = 2048;

/// The device and its requests.
#[derive(Debug)]
pub(super) struct Channel {
    device: VhostUserDevice,
    memory: Arc<GuestMemory>,
    queue: VirtQueue,
    slots: Vec<Slot>,
    slot_of_head: Vec<usize>,
    request: Vec<u8>,
    unique: u64,
    pub(super) server: Server,
}

#[derive(Debug)]
struct Slot {
    at: GuestPhys,
    buffer: PageBuffer,
    unique: u64,
    /// Bytes of the reply without data, `None` if none comes; and of data at most.
    expected: (Option<usize>, usize),
    used: Option<u32>,
}

/// A reply without its header.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) body: Vec<u8>,
    /// Bytes of data in the slot's buffer.
    pub(super) data: usize,
}

impl Channel {
    pub(super) fn start(
        server: Server,
        mut device: VhostUserDevice,
        memory: Arc<GuestMemory>,
    ) -> Result<Self, Failure> {
        let wanted = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX;
        let features = device.negotiate(wanted)?;
        if features & F_INDIRECT_DESC == 0 {
            return Err(TransportError::Missing("INDIRECT_DESC").into());
        }
        let mut open = |index| -> Result<VirtQueue, Failure> {
            let run = memory.take_run(RingBytes::of(RING).total())?;
            let ring = RingPlacement::contiguous(run, run.into(), RING);
            let state = SplitQueue::new(Arc::clone(&memory), ring, RING, features & F_EVENT_IDX != 0)?;
            let doorbell = device.start_queue(index, &ring, RING, 0)?;
            Ok(VirtQueue::new(state, doorbell, Waiting::Poll)?)
        };
        // Nothing is urgent here, but a device without all of its queues may not start.
        open(0)?;
        let queue = open(REQUEST_QUEUE)?;
        let mut slots = Vec::new();
        for _ in 0..SLOTS {
            let at = memory.take_run(8192)?;
            let buffer = PageBuffer::new(&memory, ROOM, 0)?;
            slots.push(Slot { at, buffer, unique: 0, expected: (None, 0), used: None });
        }
        let slot_of_head = vec![0; usize::from(RING)];
        Ok(Self { device, memory, queue, slots, slot_of_head, request: Vec::new(), unique: 1, server })
    }

    pub(super) fn submit(&mut self, slot: usize, op: &Op<'_>) -> Result<(), Failure> {
        self.unique += 2;
        op.encode(self.unique, &mut self.request);
        let state = &mut self.slots[slot];
        self.memory.write(state.at, &self.request)?;
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let length = |bytes: u32| 0..usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut segments = vec![Segment { address: state.at.into(), bytes: size(self.request.len()), writable: false }];
        let pieces = state.buffer.pieces(length(op.sent()))?;
        segments.extend(pieces.map(|(at, n)| Segment { address: at.into(), bytes: size(n), writable: false }));
        if let Some(reply) = op.reply() {
            let at = state.at + REPLY_OFFSET;
            segments.push(Segment { address: at.into(), bytes: size(OUT_HEADER + reply), writable: true });
            let pieces = state.buffer.pieces(length(op.received()))?;
            segments.extend(pieces.map(|(at, n)| Segment { address: at.into(), bytes: size(n), writable: true }));
        }
        let table = state.at + 4096;
        let table = (segments.len() > 1).then_some(IndirectTable { memory: table, device: table.into() });
        state.unique = self.unique;
        state.expected = (op.reply(), length(op.received()).end);
        state.used = None;
        let head = self.queue.add(&segments, table)?;
        self.slot_of_head[usize::from(head)] = slot;
        Ok(())
    }

    pub(super) fn kick(&mut self) -> Result<(), Failure> {
        self.queue.kick()?;
        Ok(())
    }

    pub(super) fn is_done(&mut self, slot: usize) -> Result<bool, Failure> {
        while let Some(used) = self.queue.try_take()? {
            self.slots[self.slot_of_head[usize::from(used.head)]].used = Some(used.bytes);
        }
        Ok(self.slots[slot].used.is_some())
    }

    /// Waits for the reply in `slot`; its length, error and number are right.
    pub(super) fn collect(&mut self, slot: usize) -> Result<Reply, Failure> {
        while self.slots[slot].used.is_none() {
            let used = self.queue.take()?;
            self.slots[self.slot_of_head[usize::from(used.head)]].used = Some(used.bytes);
        }
        let state = &mut self.slots[slot];
        let used = usize::try_from(state.used.take().unwrap_or(0)).unwrap_or(usize::MAX);
        let wrong = |what: String| Err(Failure::wrong(Virtiofsd::NAME, what));
        let (Some(fixed), most) = state.expected else {
            return if used == 0 {
                Ok(Reply { body: Vec::new(), data: 0 })
            } else {
                wrong("a reply to FORGET".to_owned())
            };
        };
        let mut reply = self.memory.read_vec(state.at + REPLY_OFFSET, OUT_HEADER + fixed)?;
        let number = |at: usize| u32::from_le_bytes([reply[at], reply[at + 1], reply[at + 2], reply[at + 3]]);
        let (length, error) = (number(0), number(4));
        let unique = u64::from(number(8)) | u64::from(number(12)) << 32;
        if usize::try_from(length) != Ok(used) || unique != state.unique {
            return wrong(format!("length {length} in {used} bytes, number {unique} for {}", state.unique));
        }
        if error != 0 {
            return wrong(format!("errno {}", error.wrapping_neg()));
        }
        match used.checked_sub(OUT_HEADER + fixed) {
            Some(data) if data <= most => {
                reply.drain(..OUT_HEADER);
                Ok(Reply { body: reply, data })
            }
            _ => wrong(format!("a reply of {used} bytes where {fixed} and up to {most} of data are due")),
        }
    }

    pub(super) fn buffer(&self, slot: usize) -> &PageBuffer {
        &self.slots[slot].buffer
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // The device must let go of the memory first; if it does not, its process is about to be ended anyway.
        for queue in [0, REQUEST_QUEUE] {
            let _ = self.device.stop_queue(queue);
        }
    }
}

impl Channel {
    pub(super) fn cpu(&self) -> Result<Duration, Failure> {
        self.server.cpu()
    }
}
