//! The request queue: buffers, replies, and what nobody waits for.

use std::sync::Arc;

use super::driver::IommuError;
use super::wire::{REQUEST_BYTES, Request, Status, TAIL_BYTES};
use crate::guest::address::{GuestPhys, PAGE_BYTES};
use crate::guest::memory::GuestMemory;
use crate::guest::queue::{IndirectTable, RawExchange, Segment, VirtQueue};

/// Layout of a request slot: readable part and, right behind it as in Linux, the tail; indirect table.
const SLOT_BYTES: usize = 256;
const SLOT_TABLE: u64 = 128;
/// The answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Used length in bytes; 4 for an answered request.
    pub used_bytes: u32,
    /// The status byte. Before the device writes it, it is `Other(0xa5)`.
    pub status: Status,
}

impl Reply {
    /// Before the answer.
    pub(super) const NONE: Self = Self { used_bytes: 0, status: Status::Other(RawExchange::POISON) };

    /// The status, provided that the used length is right.
    ///
    /// # Errors
    /// [`IommuError::UsedLength`].
    pub fn status(self) -> Result<Status, IommuError> {
        if self.used_bytes == 4 {
            Ok(self.status)
        } else {
            Err(IommuError::UsedLength { got: self.used_bytes, expected: 4 })
        }
    }
}

/// How requests that are under way at the same time are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kicks {
    /// With one kick for all, as those of a scatter list.
    Together,
    /// With a kick for each, as those of as many processors.
    Each,
}

/// Whose an outstanding head is.
#[derive(Clone, Copy, Debug, Default)]
struct Owner {
    slot: u16,
    tail: GuestPhys,
    /// The place of the reply; `None` if nobody waits.
    place: Option<usize>,
}

/// The request queue with its buffers.
#[derive(Debug)]
pub(super) struct RequestQueue {
    pub(super) queue: VirtQueue,
    memory: Arc<GuestMemory>,
    indirect: bool,
    pages: Vec<GuestPhys>,
    free_slots: Vec<u16>,
    /// By head.
    owners: Vec<Owner>,
    deferred_failure: Option<Status>,
}

impl RequestQueue {
    pub(super) fn new(mut queue: VirtQueue, memory: Arc<GuestMemory>, indirect: bool) -> Result<Self, IommuError> {
        let size = queue.ring().size();
        let mut pages = Vec::new();
        for _ in 0..(usize::from(size) * SLOT_BYTES).div_ceil(PAGE_BYTES) {
            pages.push(memory.take_page()?);
        }
        Ok(Self {
            queue,
            memory,
            indirect,
            pages,
            free_slots: (0..size).rev().collect(),
            owners: vec![Owner::default(); usize::from(size)],
            deferred_failure: None,
        })
    }

    pub(super) fn reset(&mut self) -> Result<(), IommuError> {
        self.queue.reset()?;
        self.free_slots = (0..self.queue.ring().size()).rev().collect();
        self.deferred_failure = None;
        Ok(())
    }

    pub(super) fn run(&mut self, requests: &[Request], replies: &mut [Reply], kicks: Kicks) -> Result<(), IommuError> {
        for (index, request) in requests.iter().enumerate() {
            while !self.try_add(request, Some(index))? {
                self.queue.kick()?;
                self.settle_one(replies)?;
            }
            // As in Linux, a device that polls sees each request at once; the kick is for all.
            match kicks {
                Kicks::Together => self.queue.publish()?,
                Kicks::Each => _ = self.queue.kick()?,
            }
        }
        self.sync(replies)
    }

    pub(super) fn defer(&mut self, request: &Request) -> Result<(), IommuError> {
        if !self.try_add(request, None)? {
            self.sync(&mut [])?;
            self.try_add(request, None)?;
        }
        Ok(self.queue.publish()?)
    }

    pub(super) fn sync(&mut self, replies: &mut [Reply]) -> Result<(), IommuError> {
        self.queue.kick()?;
        while self.queue.ring().outstanding() > 0 {
            self.settle_one(replies)?;
        }
        match self.deferred_failure.take() {
            Some(status) => Err(IommuError::DeferredUnmap(status)),
            None => Ok(()),
        }
    }

    /// Add one request unless the ring is full.
    fn try_add(&mut self, request: &Request, place: Option<usize>) -> Result<bool, IommuError> {
        let needed = if self.indirect { 1 } else { 2 };
        if self.queue.ring().free_descriptors() < needed {
            return Ok(false);
        }
        let Some(slot) = self.free_slots.pop() else {
            return Ok(false);
        };
        let at = self.slot(slot);
        let mut bytes = [0; REQUEST_BYTES];
        let length = request.emit(&mut bytes);
        self.memory.write(at, &bytes[..length])?;
        let tail = at + length as u64;
        self.memory.write(tail, &[RawExchange::POISON; TAIL_BYTES])?;
        let segments = [
            Segment { address: at.into(), bytes: u32::try_from(length).unwrap_or(u32::MAX), writable: false },
            Segment { address: tail.into(), bytes: 4, writable: true },
        ];
        let table = at + SLOT_TABLE;
        let table = self.indirect.then_some(IndirectTable { memory: table, device: table.into() });
        let head = self.queue.add(&segments, table)?;
        self.owners[usize::from(head)] = Owner { slot, tail, place };
        Ok(true)
    }

    fn settle_one(&mut self, replies: &mut [Reply]) -> Result<(), IommuError> {
        let used = self.queue.take()?;
        let Owner { slot, tail: at, place } = self.owners[usize::from(used.head)];
        let mut tail = [0; TAIL_BYTES];
        self.memory.read(at, &mut tail)?;
        self.free_slots.push(slot);
        let reply = Reply { used_bytes: used.bytes, status: Status::from(tail[0]) };
        match place.and_then(|place| replies.get_mut(place)) {
            Some(place) => *place = reply,
            None if reply.status().is_ok_and(|status| status == Status::Ok) => {}
            None => self.deferred_failure = Some(reply.status),
        }
        Ok(())
    }

    fn slot(&self, slot: u16) -> GuestPhys {
        let byte = usize::from(slot) * SLOT_BYTES;
        self.pages[byte / PAGE_BYTES] + (byte % PAGE_BYTES) as u64
    }
}
