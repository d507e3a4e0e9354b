//! Buffers of messages and of file data in this process, with the data where a Linux guest has it: on a page.

const PAGE: usize = 4096;

/// A buffer.
#[derive(Debug, Default)]
pub(super) struct Room {
    bytes: Vec<u8>,
    start: usize,
}

impl Room {
    /// Makes room for `bytes` bytes, of which those behind the first `head` begin on a page. What was there may be gone.
    pub(super) fn make(&mut self, head: usize, bytes: usize) {
        if self.bytes.len() < self.start + bytes {
            self.bytes = vec![0; bytes + PAGE];
            self.start = (PAGE - (self.bytes.as_ptr().addr() + head) % PAGE) % PAGE;
        }
    }

    /// All of it.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_behind_a_head_is_on_a_page() {
        let mut room = Room::default();
        for bytes in [100, 5000, 23, 100_000] {
            room.make(23, bytes);
            assert!(room.bytes().len() >= bytes);
            assert_eq!(room.bytes()[23..].as_ptr().addr() % PAGE, 0);
        }
    }
}
