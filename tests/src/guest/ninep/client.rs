//! Requests out, replies in, many at a time.

mod several;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::call::Call;
use super::envelope::{NinepError, Reply};
use super::slot::{Slot, SlotState};
use super::wire::message;
use crate::guest::address::{DeviceAddr, GuestPhys};
use crate::guest::dma::{DmaMapper, Reach};
use crate::guest::memory::GuestMemory;
use crate::guest::queue::{RawExchange, RawReply, RingBytes, RingPlacement, SplitQueue, VirtQueue, Waiting};
use crate::guest::transport::{
    F_ACCESS_PLATFORM, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Transport, TransportError,
};

/// `VIRTIO_9P_F_MOUNT_TAG`.
const F_MOUNT_TAG: u64 = 1;
/// The tag of Tversion.
const NOTAG: u16 = 0xffff;

/// A request that is out; also its tag on the wire, except for Tversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub u16);

/// How to drive the device.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// Entries of the ring. Linux needs 128 for its largest requests. Four times as many where the device knows no indirect
    /// descriptors and each request takes as many as it has pieces.
    pub queue_size: u16,
    /// Tags, thus requests out at the same time.
    pub depth: u16,
    /// How to wait.
    pub waiting: Waiting,
    /// Ring features to accept where offered; the mount tag and VERSION_1 are always wanted.
    pub ring_features: u64,
    /// Insist on `VIRTIO_F_ACCESS_PLATFORM`, as a guest must for a device behind an IOMMU.
    pub translated: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            queue_size: 128,
            depth: 32,
            waiting: Waiting::Interrupt,
            ring_features: F_INDIRECT_DESC | F_EVENT_IDX,
            translated: false,
        }
    }
}

/// A 9P client on the one queue of a virtio-9p device.
#[derive(Debug)]
pub struct NinepClient {
    device: Box<dyn Transport>,
    memory: Arc<GuestMemory>,
    mapper: Arc<dyn DmaMapper>,
    options: ClientOptions,
    features: u64,
    mount_tag: Vec<u8>,
    ring: GuestPhys,
    queue: VirtQueue,
    slots: Vec<Slot>,
    free: Vec<u16>,
    slot_of_head: Vec<u16>,
    done: VecDeque<u16>,
    sequence: u64,
    pub(super) msize: u32,
    // Reused: the slots that are worked on together, and what they reach.
    together: Vec<u16>,
    reaches: Vec<Reach>,
}

impl NinepClient {
    /// Negotiate, read the mount tag and start the queue. No message is sent yet.
    ///
    /// # Errors
    /// [`NinepError::Transport`] when the device lacks what Linux needs, and others when the set-up
    /// fails.
    pub fn start(
        mut device: Box<dyn Transport>,
        memory: Arc<GuestMemory>,
        mapper: Arc<dyn DmaMapper>,
        options: ClientOptions,
    ) -> Result<Self, NinepError> {
        let platform = if options.translated { F_ACCESS_PLATFORM } else { 0 };
        let features = device.negotiate(F_MOUNT_TAG | F_VERSION_1 | platform | options.ring_features)?;
        for (bit, name) in [
            (F_MOUNT_TAG, "MOUNT_TAG"),
            (F_VERSION_1, "VERSION_1"),
            (platform, "ACCESS_PLATFORM; start the daemon with translation for this share"),
        ] {
            if features & bit != bit {
                return Err(TransportError::Missing(name).into());
            }
        }
        let mut length = [0; 2];
        device.read_config(0, &mut length)?;
        let mut mount_tag = vec![0; usize::from(u16::from_le_bytes(length))];
        if !mount_tag.is_empty() {
            device.read_config(2, &mut mount_tag)?;
        }
        let mut options = options;
        if options.ring_features & F_INDIRECT_DESC & !features != 0 {
            options.queue_size = options.queue_size.saturating_mul(4);
        }
        let size = options.queue_size;
        let ring = memory.take_run(RingBytes::of(size).total())?;
        let queue = open_queue(device.as_mut(), &memory, mapper.as_ref(), &options, ring, features)?;
        let mut slots = Vec::new();
        for _ in 0..options.depth.clamp(1, NOTAG) {
            slots.push(Slot::new(&memory)?);
        }
        Ok(Self {
            device,
            memory,
            mapper,
            free: (0..options.depth.clamp(1, NOTAG)).rev().collect(),
            options,
            features,
            mount_tag,
            ring,
            queue,
            slots,
            slot_of_head: vec![0; usize::from(size)],
            done: VecDeque::new(),
            sequence: 0,
            msize: 0,
            together: Vec::new(),
            reaches: Vec::new(),
        })
    }

    /// The name under which the guest mounts the share.
    #[must_use]
    pub fn mount_tag(&self) -> &[u8] {
        &self.mount_tag
    }

    /// The negotiated features.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The largest message in bytes, 0 before [`NinepClient::version`].
    #[must_use]
    pub fn msize(&self) -> u32 {
        self.msize
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// What makes buffers reachable.
    #[must_use]
    pub fn mapper(&self) -> &Arc<dyn DmaMapper> {
        &self.mapper
    }

    /// The queue, for hostile rings and for statistics.
    pub fn queue(&mut self) -> &mut VirtQueue {
        &mut self.queue
    }

    /// The device.
    pub fn device(&mut self) -> &mut dyn Transport {
        self.device.as_mut()
    }

    /// Change how long the server may take.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.queue.set_timeout(timeout);
    }

    /// Requests out or not collected.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Put a request into the ring. As in Linux, a device that polls sees it at once; any other one at the next
    /// [`NinepClient::kick`].
    ///
    /// # Errors
    /// [`NinepError::NoTag`], [`NinepError::TooLong`] or [`NinepError::Dma`].
    pub fn submit(&mut self, call: Call) -> Result<Tag, NinepError> {
        let slot = self.draft(call)?;
        let Slot { reach, .. } = &mut self.slots[usize::from(slot)];
        let mapped = self.mapper.map_all(&reach.buffers, &mut reach.mapped);
        let offered = mapped.map_err(NinepError::from).and_then(|()| self.offer(slot));
        if offered.is_err() {
            self.take_back(slot)?;
        }
        offered.map(|()| Tag(slot))
    }

    /// Take a tag and write its message.
    fn draft(&mut self, call: Call) -> Result<u16, NinepError> {
        let slot = self.free.pop().ok_or(NinepError::NoTag(self.slots.len()))?;
        let tag = if call.kind == message::VERSION { NOTAG } else { slot };
        let indirect = self.features & F_INDIRECT_DESC != 0;
        let written = self.slots[usize::from(slot)].write(call, tag, &self.memory, indirect);
        if written.is_err() {
            self.free.push(slot);
        }
        written.map(|()| slot)
    }

    /// Put a request that is reachable into the ring.
    fn offer(&mut self, slot: u16) -> Result<(), NinepError> {
        let buffers = &mut self.slots[usize::from(slot)];
        let table = buffers.cut_segments()?;
        let head = self.queue.add(&buffers.segments, table)?;
        buffers.state = SlotState::Sent;
        self.slot_of_head[usize::from(head)] = slot;
        Ok(self.queue.publish()?)
    }

    /// Give up a request that is not in the ring.
    fn take_back(&mut self, slot: u16) -> Result<(), NinepError> {
        self.free.push(slot);
        Ok(self.slots[usize::from(slot)].release(self.mapper.as_ref())?)
    }

    /// Show the device what was submitted, and notify it if it wants to be.
    ///
    /// # Errors
    /// [`NinepError::Dma`].
    pub fn kick(&mut self) -> Result<(), NinepError> {
        self.queue.kick()?;
        Ok(())
    }

    /// Wait for the reply to one request and take it.
    ///
    /// # Errors
    /// [`NinepError::Rlerror`] for an error reply, [`NinepError::Protocol`] for a bad one,
    /// [`NinepError::Dropped`], [`NinepError::UnknownTag`], [`NinepError::Dma`].
    pub fn collect(&mut self, tag: Tag) -> Result<Reply, NinepError> {
        let (used, _) = self.wait_for(tag)?;
        self.done.retain(|slot| *slot != tag.0);
        let slot = &mut self.slots[usize::from(tag.0)];
        let used_bytes = usize::try_from(used).unwrap_or(usize::MAX);
        let bytes = slot.reply(used_bytes, &self.memory);
        let (kind, wire_tag) = (slot.kind, slot.tag);
        slot.state = SlotState::Free;
        self.free.push(tag.0);
        Reply::parse(bytes?, used, kind, wire_tag)
    }

    /// Wait until some request is answered. Its reply is still to be collected.
    ///
    /// # Errors
    /// [`NinepError::Dma`].
    pub fn wait_any(&mut self) -> Result<Tag, NinepError> {
        loop {
            if let Some(slot) = self.done.front() {
                return Ok(Tag(*slot));
            }
            let used = self.queue.take()?;
            self.settle(used)?;
        }
    }

    /// Whether the reply to `tag` is there, without waiting.
    ///
    /// # Errors
    /// [`NinepError::UnknownTag`] or [`NinepError::Dma`].
    pub fn is_done(&mut self, tag: Tag) -> Result<bool, NinepError> {
        if let Some(used) = self.queue.try_take()? {
            self.settle(used)?;
        }
        match self.state(tag) {
            SlotState::Free => Err(NinepError::UnknownTag(tag)),
            SlotState::Sent => Ok(false),
            SlotState::Done { .. } => Ok(true),
        }
    }

    /// Send one request and wait for its reply.
    ///
    /// # Errors
    /// As [`NinepClient::submit`] and [`NinepClient::collect`].
    pub fn call(&mut self, call: Call) -> Result<Reply, NinepError> {
        let tag = self.submit(call)?;
        self.kick()?;
        self.collect(tag)
    }

    /// Flush the request `old` and wait for the Rflush. The request itself must still be
    /// collected: that yields its reply, or [`NinepError::Dropped`].
    ///
    /// # Errors
    /// [`NinepError::FlushedBeforeReturned`], or as [`NinepClient::call`].
    pub fn flush(&mut self, old: Tag) -> Result<(), NinepError> {
        let flush = self.submit(Call::flush(old.0))?;
        self.kick()?;
        let (_, flushed_at) = self.wait_for(flush)?;
        self.collect(flush)?;
        match self.state(old) {
            SlotState::Done { sequence, .. } if sequence < flushed_at => Ok(()),
            SlotState::Free => Ok(()),
            SlotState::Done { .. } | SlotState::Sent => Err(NinepError::FlushedBeforeReturned),
        }
    }

    /// Send arbitrary bytes in arbitrary pieces. Nothing else may be out.
    ///
    /// # Errors
    /// [`NinepError::Dma`]; what the server answers is a value.
    pub fn exchange(&mut self, exchange: &RawExchange) -> Result<RawReply, NinepError> {
        let reply = exchange.run(&mut self.queue, &self.memory, self.mapper.as_ref())?;
        self.sequence += 1;
        Ok(reply)
    }

    /// Stop the queue, as for a pause or a reboot. Returns where it stopped.
    ///
    /// # Errors
    /// [`NinepError::Transport`].
    pub fn stop(&mut self) -> Result<u16, NinepError> {
        Ok(self.device.stop_queue(0)?)
    }

    /// Start the queue where [`NinepClient::stop`] left it. Requests that were out stay so.
    ///
    /// # Errors
    /// [`NinepError::Transport`].
    pub fn resume(&mut self, base: u16) -> Result<(), NinepError> {
        let placement = *self.queue.ring().placement();
        let size = self.options.queue_size;
        let doorbell = self.device.start_queue(0, &placement, size, base)?;
        self.queue.set_doorbell(doorbell);
        Ok(())
    }

    /// Start the queue, which is stopped, as a new driver does after a reboot: ring zeroed and
    /// mapped again through `mapper`, base 0, no session. Requests that were out are forgotten.
    ///
    /// # Errors
    /// [`NinepError::Transport`] or [`NinepError::Dma`].
    pub fn restart(&mut self, mapper: Arc<dyn DmaMapper>) -> Result<(), NinepError> {
        for slot in &mut self.slots {
            slot.abandon();
        }
        self.free = (0..self.options.depth.clamp(1, NOTAG)).rev().collect();
        self.done.clear();
        self.msize = 0;
        self.mapper = mapper;
        self.queue = open_queue(
            self.device.as_mut(),
            &self.memory,
            self.mapper.as_ref(),
            &self.options,
            self.ring,
            self.features,
        )?;
        Ok(())
    }

    /// Drop the connection and make a new one; the queue is then stopped.
    ///
    /// # Errors
    /// [`NinepError::Transport`].
    pub fn reconnect(&mut self) -> Result<(), NinepError> {
        Ok(self.device.reconnect()?)
    }

    fn state(&self, tag: Tag) -> SlotState {
        self.slots.get(usize::from(tag.0)).map_or(SlotState::Free, |slot| slot.state)
    }

    fn wait_for(&mut self, tag: Tag) -> Result<(u32, u64), NinepError> {
        loop {
            match self.state(tag) {
                SlotState::Free => return Err(NinepError::UnknownTag(tag)),
                SlotState::Done { used, sequence } => return Ok((used, sequence)),
                SlotState::Sent => {
                    let used = self.queue.take()?;
                    self.settle(used)?;
                }
            }
        }
    }
}

impl Drop for NinepClient {
    /// Stops the queue and gives the pages back. If the queue cannot be stopped the device may
    /// still write to them, so they are kept out of use.
    fn drop(&mut self) {
        if self.device.stop_queue(0).is_ok() {
            let bytes = RingBytes::of(self.options.queue_size).total();
            self.memory.give_run(self.ring, bytes);
            for slot in &mut self.slots {
                slot.free_pages(&self.memory);
            }
        }
    }
}

/// Map the ring, zero it, and start it at base 0.
fn open_queue(
    device: &mut dyn Transport,
    memory: &Arc<GuestMemory>,
    mapper: &dyn DmaMapper,
    options: &ClientOptions,
    ring: GuestPhys,
    features: u64,
) -> Result<VirtQueue, NinepError> {
    let size = options.queue_size;
    // A VMM takes ring addresses for addresses of RAM: stay inside the first region.
    let low_ram = memory.regions().first();
    let low_ram = low_ram.map_or(0, |region| region.base.0 + region.bytes);
    let limit = if device.rings_are_in_ram() { low_ram } else { u64::MAX };
    let bytes = RingBytes::of(size).total();
    let address = mapper.map_ring(ring, bytes, DeviceAddr(limit))?;
    let placement = RingPlacement::contiguous(ring, address, size);
    let event_idx = features & F_EVENT_IDX != 0;
    let state = SplitQueue::new(Arc::clone(memory), placement, size, event_idx)?;
    let doorbell = device.start_queue(0, &placement, size, 0)?;
    Ok(VirtQueue::new(state, doorbell, options.waiting)?)
}

#[cfg(test)]
mod tests;
