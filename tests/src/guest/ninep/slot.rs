//! The buffers of one request, and their way to the device and back.

use std::sync::Arc;

use super::call::{Call, Payload};
use super::envelope::NinepError;
use super::wire::HEADER_BYTES;
use crate::guest::address::{DeviceAddr, GuestPhys, PAGE_BYTES};
use crate::guest::dma::{Direction, DmaError, DmaMapper};
use crate::guest::memory::{GuestMemory, MemoryError};
use crate::guest::queue::{IndirectTable, Segment};

/// Where a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SlotState {
    #[default]
    Free,
    Sent,
    /// Given back as the `sequence`-th request, with a used length in bytes.
    Done {
        used: u32,
        sequence: u64,
    },
}

/// The buffers of one tag.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) state: SlotState,
    pub(super) kind: u8,
    pub(super) tag: u16,
    reply_bytes: usize,
    payload: Payload,
    request_pages: Vec<GuestPhys>,
    reply_pages: Vec<GuestPhys>,
    table: GuestPhys,
    pub(super) segments: Vec<Segment>,
    mapped: Vec<(DeviceAddr, usize)>,
}

impl Slot {
    pub(super) fn new(memory: &GuestMemory) -> Result<Self, MemoryError> {
        Ok(Self { table: memory.take_page()?, ..Self::default() })
    }

    /// Write the message, make everything reachable and list the segments. On an error nothing
    /// stays mapped.
    pub(super) fn prepare(
        &mut self,
        call: Call,
        tag: u16,
        memory: &Arc<GuestMemory>,
        mapper: &dyn DmaMapper,
        indirect: bool,
    ) -> Result<Option<IndirectTable>, NinepError> {
        let sent = match &call.payload {
            Payload::Send(_, range) => range.len(),
            Payload::None | Payload::Receive(..) => 0,
        };
        let size = u32::try_from(HEADER_BYTES + call.body.len() + sent).map_err(|_| NinepError::TooLong)?;
        let mut message = Vec::with_capacity(HEADER_BYTES + call.body.len());
        message.extend(size.to_le_bytes());
        message.push(call.kind);
        message.extend(tag.to_le_bytes());
        message.extend(&call.body);
        grow(&mut self.request_pages, message.len(), memory)?;
        for (page, chunk) in self.request_pages.iter().zip(message.chunks(PAGE_BYTES)) {
            memory.write(*page, chunk)?;
        }
        self.reply_bytes = usize::try_from(call.reply_bytes).unwrap_or(usize::MAX);
        grow(&mut self.reply_pages, self.reply_bytes, memory)?;
        self.kind = call.kind;
        self.tag = tag;
        self.payload = call.payload;
        self.segments.clear();
        let table = self.reach(message.len(), mapper, indirect);
        if table.is_err() {
            self.release(mapper)?;
        }
        table
    }

    /// End the mappings and let go of the data pages, once the device is done.
    pub(super) fn release(&mut self, mapper: &dyn DmaMapper) -> Result<(), DmaError> {
        self.payload = Payload::None;
        let mut result = Ok(());
        for (address, bytes) in self.mapped.drain(..) {
            result = result.and(mapper.unmap(address, bytes));
        }
        result
    }

    /// Forget a request together with the mappings of a device that is gone.
    pub(super) fn abandon(&mut self) {
        self.mapped.clear();
        self.payload = Payload::None;
        self.state = SlotState::Free;
    }

    /// The bytes of the message's own reply buffer, at most `used`.
    pub(super) fn reply(&self, used: usize, memory: &GuestMemory) -> Result<Vec<u8>, MemoryError> {
        let mut reply = vec![0; used.min(self.reply_bytes)];
        for (page, chunk) in self.reply_pages.iter().zip(reply.chunks_mut(PAGE_BYTES)) {
            memory.read(*page, chunk)?;
        }
        Ok(reply)
    }

    /// Give all pages back to the pool.
    pub(super) fn free_pages(&mut self, memory: &GuestMemory) {
        for page in self.request_pages.drain(..).chain(self.reply_pages.drain(..)) {
            memory.give_page(page);
        }
        memory.give_page(self.table);
    }

    /// Map in the order in which Linux does: request, data out, reply, data in, table.
    fn reach(
        &mut self,
        message_bytes: usize,
        mapper: &dyn DmaMapper,
        indirect: bool,
    ) -> Result<Option<IndirectTable>, NinepError> {
        let mut pieces: Vec<(GuestPhys, usize, bool)> = Vec::new();
        pieces.extend(cut(&self.request_pages, message_bytes, false));
        if let Payload::Send(buffer, range) = &self.payload {
            pieces.extend(buffer.pieces(range.clone())?.map(|(p, n)| (p, n, false)));
        }
        pieces.extend(cut(&self.reply_pages, self.reply_bytes, true));
        if let Payload::Receive(buffer, range) = &self.payload {
            pieces.extend(buffer.pieces(range.clone())?.map(|(p, n)| (p, n, true)));
        }
        for (gpa, bytes, writable) in pieces {
            let direction = if writable { Direction::FromDevice } else { Direction::ToDevice };
            let address = self.map(gpa, bytes, direction, mapper)?;
            self.segments.push(Segment {
                address,
                bytes: u32::try_from(bytes).map_err(|_| NinepError::TooLong)?,
                writable,
            });
        }
        // As in Linux, a request of one segment has no use for a table.
        if !indirect || self.segments.len() < 2 {
            return Ok(None);
        }
        let bytes = 16 * self.segments.len();
        if bytes > PAGE_BYTES {
            return Err(NinepError::TooLong);
        }
        Ok(Some(IndirectTable {
            memory: self.table,
            device: self.map(self.table, bytes, Direction::ToDevice, mapper)?,
        }))
    }

    fn map(
        &mut self,
        gpa: GuestPhys,
        bytes: usize,
        direction: Direction,
        mapper: &dyn DmaMapper,
    ) -> Result<DeviceAddr, DmaError> {
        let address = mapper.map(gpa, bytes, direction)?;
        self.mapped.push((address, bytes));
        Ok(address)
    }
}

/// The first `bytes` bytes of `pages`, page by page.
fn cut(pages: &[GuestPhys], bytes: usize, writable: bool) -> impl Iterator<Item = (GuestPhys, usize, bool)> {
    let count = bytes.div_ceil(PAGE_BYTES);
    pages.iter().take(count).enumerate().map(move |(at, page)| {
        let left = bytes - at * PAGE_BYTES;
        (*page, left.min(PAGE_BYTES), writable)
    })
}

fn grow(pages: &mut Vec<GuestPhys>, bytes: usize, memory: &GuestMemory) -> Result<(), MemoryError> {
    while pages.len() * PAGE_BYTES < bytes {
        pages.push(memory.take_page()?);
    }
    Ok(())
}
