//! A stream of bytes, cut into messages.

/// Why a stream cannot be cut any further. There is no way to find the next message after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// Not even a header.
    #[error("a message says that it has {0} bytes")]
    TooSmall(usize),
    /// More than was agreed on.
    #[error("a message of {size} bytes exceeds the {limit} that were agreed on")]
    TooLarge {
        /// Its size field.
        size: usize,
        /// The bound.
        limit: usize,
    },
}

/// Bytes that have been read and not yet used. It holds at most one message that is not whole.
#[derive(Debug, Default)]
pub(super) struct Frames {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// Bytes of the size field.
const SIZE_LEN: usize = 4;

impl Frames {
    /// The next whole message of at most `limit` bytes, `None` if bytes of it are missing.
    pub(super) fn next(&mut self, limit: usize) -> Result<Option<&mut [u8]>, FrameError> {
        let Some(size) = self.size() else { return Ok(None) };
        if size < virtio_9p::wire::HEADER_LEN {
            return Err(FrameError::TooSmall(size));
        }
        if size > limit {
            return Err(FrameError::TooLarge { size, limit });
        }
        let from = self.start;
        if self.end - from < size {
            return Ok(None);
        }
        self.start += size;
        Ok(Some(&mut self.buffer[from..from + size]))
    }

    /// Whether no message has begun.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Where to read more bytes to, after [`Frames::next`] found none with this `limit`; never empty.
    pub(super) fn room(&mut self, limit: usize) -> &mut [u8] {
        let held = self.start..self.end;
        let missing = self.size().unwrap_or(SIZE_LEN);
        if self.buffer.len() < limit {
            // Memory that is not touched costs nothing: most clients never fill it.
            let mut larger = vec![0; limit];
            larger[..held.len()].copy_from_slice(&self.buffer[held.clone()]);
            self.buffer = larger;
        } else if held.is_empty() || held.start + missing > self.buffer.len() {
            self.buffer.copy_within(held.clone(), 0);
        } else {
            return &mut self.buffer[self.end..];
        }
        (self.start, self.end) = (0, held.len());
        &mut self.buffer[self.end..]
    }

    /// Takes in `count` bytes that were read to [`Frames::room`].
    pub(super) fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
    }

    /// The size field of the message in hand.
    fn size(&self) -> Option<usize> {
        let field = self.buffer[self.start..self.end].first_chunk::<SIZE_LEN>()?;
        Some(usize::try_from(u32::from_le_bytes(*field)).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(len: u32, fill: u8) -> Vec<u8> {
        let mut bytes = vec![fill; len as usize];
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    /// Feeds `stream` in pieces of `step` bytes and collects the messages.
    fn cut(stream: &[u8], step: usize, limit: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut frames = Frames::default();
        let mut found = Vec::new();
        let mut rest = stream;
        loop {
            while let Some(message) = frames.next(limit)? {
                found.push(message.to_vec());
            }
            if rest.is_empty() {
                return Ok(found);
            }
            let room = frames.room(limit);
            let count = step.min(rest.len()).min(room.len());
            assert!(count > 0, "no room for a message that is not whole");
            room[..count].copy_from_slice(&rest[..count]);
            frames.filled(count);
            rest = &rest[count..];
        }
    }

    #[test]
    fn messages_come_out_however_the_stream_is_cut() {
        let sizes = [7, 8, 100, 99, 7, 23, 100, 7, 64, 100];
        let messages: Vec<Vec<u8>> = (0..).zip(sizes).map(|(fill, len)| message(len, fill)).collect();
        let stream = messages.concat();
        for step in 1..=stream.len() {
            assert_eq!(cut(&stream, step, 100).unwrap(), messages, "in steps of {step}");
        }
    }

    #[test]
    fn sizes_outside_the_terms_end_the_stream() {
        assert_eq!(cut(&6_u32.to_le_bytes(), 4, 100), Err(FrameError::TooSmall(6)));
        assert_eq!(cut(&0_u32.to_le_bytes(), 1, 100), Err(FrameError::TooSmall(0)));
        assert_eq!(cut(&101_u32.to_le_bytes(), 4, 100), Err(FrameError::TooLarge { size: 101, limit: 100 }));
        assert!(cut(&u32::MAX.to_le_bytes(), 4, 100).is_err());
    }

    #[test]
    fn what_is_held_survives_a_larger_limit() {
        let mut frames = Frames::default();
        let long = message(5000, 9);
        frames.room(100)[..100].copy_from_slice(&long[..100]);
        frames.filled(100);
        assert_eq!(frames.next(5000).unwrap(), None);
        frames.room(5000)[..4900].copy_from_slice(&long[100..]);
        frames.filled(4900);
        assert_eq!(frames.next(5000).unwrap().unwrap(), long);
        assert!(frames.is_empty());
    }

    /// The messages of `stream` up to the first that is none, and whether there is such a one.
    fn messages_of(mut stream: &[u8], limit: usize) -> (Vec<Vec<u8>>, bool) {
        let mut messages = Vec::new();
        while let Some(field) = stream.first_chunk() {
            let size = u32::from_le_bytes(*field) as usize;
            if !(virtio_9p::wire::HEADER_LEN..=limit).contains(&size) {
                return (messages, true);
            }
            let Some((message, rest)) = stream.split_at_checked(size) else { break };
            messages.push(message.to_vec());
            stream = rest;
        }
        (messages, false)
    }

    /// A message, or now and then what is none.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            20 => (7..150_u32, any::<u8>()).prop_map(|(len, fill)| message(len, fill)),
            1 => prop::collection::vec(any::<u8>(), 0..12),
        ]
    }

    proptest! {
        /// A client may send anything in any pieces: what is a message comes out whole and in order, what is none ends the
        /// stream, and no more memory is taken than a message may have.
        #[test]
        fn any_stream_is_cut_where_its_sizes_say(
            pieces in prop::collection::vec(piece(), 0..40),
            steps in prop::collection::vec(1..200_usize, 1..20),
            limit in 7..160_usize,
        ) {
            let stream = pieces.concat();
            let (expected, broken) = messages_of(&stream, limit);
            let mut frames = Frames::default();
            let (mut found, mut rest, mut ended) = (Vec::new(), &stream[..], false);
            let mut steps = steps.iter().cycle();
            loop {
                match frames.next(limit) {
                    Ok(Some(message)) => found.push(message.to_vec()),
                    Err(_) => {
                        ended = true;
                        break;
                    }
                    Ok(None) if rest.is_empty() => break,
                    Ok(None) => {
                        let room = frames.room(limit);
                        prop_assert!(!room.is_empty());
                        let count = room.len().min(rest.len()).min(*steps.next().expect("without end"));
                        room[..count].copy_from_slice(&rest[..count]);
                        rest = &rest[count..];
                        frames.filled(count);
                        prop_assert!(frames.buffer.len() <= limit);
                    }
                }
            }
            prop_assert_eq!(found, expected);
            prop_assert_eq!(ended, broken);
        }
    }
}
