//! Guest pages that hold file data.

use std::ops::Range;
use std::sync::Arc;

use crate::guest::address::{GuestPhys, PAGE_BYTES};
use crate::guest::memory::{GuestMemory, MemoryError};

/// A buffer in guest pages, which are not neighbours unless asked for, like a user's buffer or the page cache.
///
/// Clones are handles of the same pages, which go back to the pool with the last of them; a request
/// that is out holds one.
#[derive(Clone, Debug)]
pub struct PageBuffer(Arc<Pages>);

#[derive(Debug)]
struct Pages {
    memory: Arc<GuestMemory>,
    pages: Vec<GuestPhys>,
    /// The pages are neighbours.
    is_run: bool,
    offset: usize,
    bytes: usize,
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let (true, Some(first)) = (self.is_run, self.pages.first()) {
            self.memory.give_run(*first, self.pages.len() * PAGE_BYTES);
            return;
        }
        for page in &self.pages {
            self.memory.give_page(*page);
        }
    }
}

impl PageBuffer {
    /// A buffer of `bytes` bytes that starts `offset` bytes (0 to 4095) into its first page.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`].
    pub fn new(memory: &Arc<GuestMemory>, bytes: usize, offset: usize) -> Result<Self, MemoryError> {
        let offset = offset % PAGE_BYTES;
        let count = (offset + bytes).div_ceil(PAGE_BYTES);
        let pages = Vec::with_capacity(count);
        let mut buffer = Pages { memory: Arc::clone(memory), pages, is_run: false, offset, bytes };
        for _ in 0..count {
            buffer.pages.push(memory.take_page()?);
        }
        Ok(Self(Arc::new(buffer)))
    }

    /// A buffer of `bytes` bytes in pages that are neighbours, from the start of the first one.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`].
    pub fn contiguous(memory: &Arc<GuestMemory>, bytes: usize) -> Result<Self, MemoryError> {
        let count = bytes.div_ceil(PAGE_BYTES);
        let first = memory.take_run(count * PAGE_BYTES)?;
        let pages = (0..count).map(|page| first + (page * PAGE_BYTES) as u64).collect();
        Ok(Self(Arc::new(Pages { memory: Arc::clone(memory), pages, is_run: true, offset: 0, bytes })))
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.bytes
    }

    /// Whether the length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.bytes == 0
    }

    /// Copy `data` into the buffer at byte `at`.
    ///
    /// # Errors
    /// [`MemoryError::OutsideRam`] beyond the end of the buffer.
    pub fn write(&self, at: usize, data: &[u8]) -> Result<(), MemoryError> {
        let mut done = 0;
        for (gpa, bytes) in self.pieces(at..at + data.len())? {
            self.0.memory.write(gpa, &data[done..done + bytes])?;
            done += bytes;
        }
        Ok(())
    }

    /// Copy the buffer from byte `at` on into `data`.
    ///
    /// # Errors
    /// [`MemoryError::OutsideRam`] beyond the end of the buffer.
    pub fn read(&self, at: usize, data: &mut [u8]) -> Result<(), MemoryError> {
        let mut done = 0;
        for (gpa, bytes) in self.pieces(at..at + data.len())? {
            self.0.memory.read(gpa, &mut data[done..done + bytes])?;
            done += bytes;
        }
        Ok(())
    }

    /// The address and length of each page's part of `range`.
    ///
    /// # Errors
    /// [`MemoryError::OutsideRam`] when the range leaves the buffer.
    pub fn pieces(&self, range: Range<usize>) -> Result<impl Iterator<Item = (GuestPhys, usize)> + '_, MemoryError> {
        if range.start > range.end || range.end > self.0.bytes {
            return Err(MemoryError::OutsideRam {
                gpa: self.0.pages.first().copied().unwrap_or_default(),
                bytes: range.end,
            });
        }
        let (mut at, end) = (self.0.offset + range.start, self.0.offset + range.end);
        Ok(std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let inside = at % PAGE_BYTES;
            let bytes = (PAGE_BYTES - inside).min(end - at);
            let page = self.0.pages[at / PAGE_BYTES];
            at += bytes;
            Some((page + inside as u64, bytes))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_at_page_boundaries() {
        let memory = Arc::new(GuestMemory::new(4).unwrap());
        let free = memory.free_pages();
        let buffer = PageBuffer::new(&memory, 9000, 100).unwrap();
        let lengths: Vec<_> = buffer.pieces(50..9000).unwrap().map(|(_, n)| n).collect();
        assert_eq!(lengths, [3946, 4096, 908]);
        let data: Vec<u8> = (0..9000_u32).map(|i| i.to_le_bytes()[0]).collect();
        buffer.write(0, &data).unwrap();
        let mut back = vec![0; 8000];
        buffer.read(1000, &mut back).unwrap();
        assert_eq!(back, data[1000..]);
        assert!(buffer.write(8999, &[0, 0]).is_err());
        drop(buffer);
        assert_eq!(memory.free_pages(), free);
    }

    #[test]
    fn pages_of_a_contiguous_buffer_are_neighbours_and_go_back() {
        let memory = Arc::new(GuestMemory::new(4).unwrap());
        let buffer = PageBuffer::contiguous(&memory, 9000).unwrap();
        let places: Vec<_> = buffer.pieces(0..9000).unwrap().map(|(at, _)| at).collect();
        assert!(places.windows(2).all(|pair| pair[1] == pair[0] + 4096), "{places:?}");
        let first = places[0];
        drop(buffer);
        assert_eq!(memory.take_run(9000).unwrap(), first);
    }
}
