//! Which requests may keep the queue's thread for long, though they wait for nothing that a worker would have to wait for.

use virtio_9p::wire::MessageType;
use virtio_9p::{FileSystem, Patience, Work};

use super::taking::{Place, SHORT};
use super::{ShareDevice, Worker};

/// Bytes of a Tread or Treaddir up to the end of its count, which comes last.
const COUNTED: usize = 7 + 4 + 8 + 4;

impl<F: FileSystem> ShareDevice<F> {
    /// Tells the side core if the request in hand may take long.
    pub(super) fn announce(&self, worker: &mut Worker, place: Place) {
        if self.seat.is_counted_on() && self.may_take_long(worker, place) {
            self.seat.before_long();
        }
    }

    fn may_take_long(&self, worker: &mut Worker, place: Place) -> bool {
        let chain = &worker.hand.chain;
        let on_disk = self.core.server.file_system().needs(Work::Names) == Patience::Disk;
        let mut start = [0; COUNTED];
        match place {
            _ if chain.readable_len().max(chain.writable_len()) <= SHORT && !on_disk => return false,
            // It may move much, and an UNMAP of its pages waits for it.
            Place::Guest if self.is_translated() => return true,
            // What cannot be read is refused soon.
            Place::Guest => _ = chain.copy_in(&worker.dma.enter(), &mut start),
            Place::Copy => start.iter_mut().zip(&worker.hand.request).for_each(|(byte, read)| *byte = *read),
        }
        takes_long(&start, chain.readable_len(), on_disk)
    }
}

/// The same of a request that begins with `start` and has `readable` bytes, where names and attributes may have to be fetched
/// from a disk or not.
fn takes_long(start: &[u8; COUNTED], readable: u64, on_disk: bool) -> bool {
    let [.., a, b, c, d] = *start;
    let asks_for_much = u64::from(u32::from_le_bytes([a, b, c, d])) > SHORT;
    match MessageType(start[4]) {
        MessageType::TREAD => asks_for_much,
        MessageType::TREADDIR => asks_for_much || on_disk,
        MessageType::TWRITE => readable > SHORT,
        // Of a file that the fid holds already.
        MessageType::TGETATTR | MessageType::TCLUNK | MessageType::TFLUSH | MessageType::TVERSION => false,
        _ => on_disk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(kind: MessageType, count: u32) -> [u8; COUNTED] {
        let mut start = [0; COUNTED];
        start[4] = kind.0;
        start[COUNTED - 4..].copy_from_slice(&count.to_le_bytes());
        start
    }

    #[test]
    fn much_data_takes_long_and_room_for_it_does_not() {
        assert!(takes_long(&start(MessageType::TREAD, 64 << 10), 23, false));
        assert!(takes_long(&start(MessageType::TREADDIR, 64 << 10), 23, false));
        assert!(!takes_long(&start(MessageType::TREAD, 4 << 10), 23, true));
        assert!(takes_long(&start(MessageType::TWRITE, 0), 64 << 10, false));
        assert!(!takes_long(&start(MessageType::TWRITE, u32::MAX), 4 << 10, true));
        assert!(!takes_long(&start(MessageType::TGETATTR, u32::MAX), 19, true));
    }

    #[test]
    fn names_take_long_on_a_disk_and_not_in_memory() {
        for kind in [MessageType::TWALK, MessageType::TLOPEN, MessageType::TLCREATE, MessageType::TREADDIR] {
            assert!(takes_long(&start(kind, 0), 40, true), "{kind:?}");
            assert!(!takes_long(&start(kind, 0), 40, false), "{kind:?}");
        }
    }
}
