//! The buffers of one request, and their way to the device and back.

use std::sync::Arc;

use super::call::{Call, Payload};
use super::envelope::NinepError;
use super::wire::HEADER_BYTES;
use crate::guest::address::{GuestPhys, PAGE_BYTES};
use crate::guest::dma::{Buffer, Direction, DmaError, DmaMapper, Reach};
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
    /// The pieces of the request, and its table if it has one.
    pub(super) reach: Reach,
    has_table: bool,
    // Reused from request to request.
    message: Vec<u8>,
}

impl Slot {
    pub(super) fn new(memory: &GuestMemory) -> Result<Self, MemoryError> {
        Ok(Self { table: memory.take_page()?, ..Self::default() })
    }

    /// Write the message, and list what is to be reachable.
    pub(super) fn write(
        &mut self,
        call: Call,
        tag: u16,
        memory: &Arc<GuestMemory>,
        indirect: bool,
    ) -> Result<(), NinepError> {
        let sent = match &call.payload {
            Payload::Send(_, range) => range.len(),
            Payload::None | Payload::Receive(..) => 0,
        };
        let size = u32::try_from(HEADER_BYTES + call.body.len() + sent).map_err(|_| NinepError::TooLong)?;
        self.message.clear();
        self.message.extend(size.to_le_bytes());
        self.message.push(call.kind);
        self.message.extend(tag.to_le_bytes());
        self.message.extend(&call.body);
        grow(&mut self.request_pages, self.message.len(), memory)?;
        for (page, chunk) in self.request_pages.iter().zip(self.message.chunks(PAGE_BYTES)) {
            memory.write(*page, chunk)?;
        }
        self.reply_bytes = usize::try_from(call.reply_bytes).unwrap_or(usize::MAX);
        grow(&mut self.reply_pages, self.reply_bytes, memory)?;
        self.kind = call.kind;
        self.tag = tag;
        self.payload = call.payload;
        self.list(indirect)
    }

    /// End the mappings and let go of the data pages, once the device is done.
    pub(super) fn release(&mut self, mapper: &dyn DmaMapper) -> Result<(), DmaError> {
        self.let_go();
        mapper.unmap_all(&mut self.reach.mapped)
    }

    /// Let go of the data pages alone.
    pub(super) fn let_go(&mut self) {
        self.payload = Payload::None;
    }

    /// Forget a request together with the mappings of a device that is gone.
    pub(super) fn abandon(&mut self) {
        self.reach.mapped.clear();
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

    /// In the order in which Linux maps: request, data out, reply, data in, table.
    fn list(&mut self, indirect: bool) -> Result<(), NinepError> {
        let own = |direction| move |(gpa, bytes)| Buffer { gpa, bytes, direction, lasting: true };
        let data = |direction| move |(gpa, bytes)| Buffer { gpa, bytes, direction, lasting: false };
        let (out, back) = (Direction::ToDevice, Direction::FromDevice);
        let buffers = &mut self.reach.buffers;
        buffers.clear();
        buffers.extend(cut(&self.request_pages, self.message.len()).map(own(out)));
        if let Payload::Send(buffer, range) = &self.payload {
            buffers.extend(buffer.pieces(range.clone())?.map(data(out)));
        }
        buffers.extend(cut(&self.reply_pages, self.reply_bytes).map(own(back)));
        if let Payload::Receive(buffer, range) = &self.payload {
            buffers.extend(buffer.pieces(range.clone())?.map(data(back)));
        }
        let pieces = buffers.len();
        // As in Linux, a request of one segment has no use for a table.
        self.has_table = indirect && pieces > 1;
        if self.has_table {
            let bytes = 16 * pieces;
            if bytes > PAGE_BYTES {
                return Err(NinepError::TooLong);
            }
            buffers.push(own(out)((self.table, bytes)));
        }
        Ok(())
    }

    /// List the segments of a request all of which is reachable.
    pub(super) fn cut_segments(&mut self) -> Result<Option<IndirectTable>, NinepError> {
        let Reach { buffers, mapped } = &self.reach;
        let pieces = buffers.len() - usize::from(self.has_table);
        self.segments.clear();
        for (mapped, buffer) in mapped.iter().zip(buffers).take(pieces) {
            let bytes = u32::try_from(mapped.bytes).map_err(|_| NinepError::TooLong)?;
            let writable = buffer.direction == Direction::FromDevice;
            self.segments.push(Segment { address: mapped.address, bytes, writable });
        }
        let table = mapped.last().filter(|_| self.has_table);
        Ok(table.map(|table| IndirectTable { memory: self.table, device: table.address }))
    }
}

/// The first `bytes` bytes of `pages`, page by page.
fn cut(pages: &[GuestPhys], bytes: usize) -> impl Iterator<Item = (GuestPhys, usize)> {
    let count = bytes.div_ceil(PAGE_BYTES);
    pages.iter().take(count).enumerate().map(move |(at, page)| {
        let left = bytes - at * PAGE_BYTES;
        (*page, left.min(PAGE_BYTES))
    })
}

fn grow(pages: &mut Vec<GuestPhys>, bytes: usize, memory: &GuestMemory) -> Result<(), MemoryError> {
    while pages.len() * PAGE_BYTES < bytes {
        pages.push(memory.take_page()?);
    }
    Ok(())
}
