//! In what order requests may be carried out: which fids each uses, and which it gives a meaning or takes one from.
//!
//! 9P lets a server answer in any order, and a client that waits for its replies never notices. One that sends several
//! requests ahead counts on its fids: what comes after a walk finds the new fid, and what came before a clunk still has the
//! old one. Reads and writes of one fid go side by side: they name their positions.

use virtio_9p::wire::MessageType;

/// Bytes of a request that hold everything looked at here: the longest is a `Trenameat` up to its second fid.
pub(super) const HEAD: usize = 7 + 4 + 2 + 255 + 4;

/// What a request has to do with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// Its tag.
    pub(super) tag: u16,
    uses: [Option<u32>; 2],
    changes: Option<u32>,
    /// It ends the session.
    all: bool,
    /// It gives up the request with this tag.
    pub(super) flushes: Option<u16>,
}

impl Claims {
    /// Reads the first bytes of a request, however malformed: what cannot be read claims nothing, and the server refuses it.
    pub(super) fn of(head: &[u8]) -> Self {
        let kind = head.get(4).map_or(MessageType(0), |kind| MessageType(*kind));
        let tag = u16_at(head, 5).unwrap_or(0);
        let (first, second) = (u32_at(head, 7), u32_at(head, 11));
        let base = Self { tag, ..Self::default() };
        match kind {
            MessageType::TVERSION => Self { all: true, ..base },
            MessageType::TFLUSH => Self { flushes: u16_at(head, 7), ..base },
            MessageType::TAUTH => base,
            MessageType::TATTACH
            | MessageType::TCLUNK
            | MessageType::TREMOVE
            | MessageType::TLOPEN
            | MessageType::TLCREATE
            | MessageType::TOPEN
            | MessageType::TCREATE
            | MessageType::TXATTRCREATE => Self { changes: first, ..base },
            MessageType::TWALK | MessageType::TXATTRWALK => Self { uses: [first, None], changes: second, ..base },
            MessageType::TRENAME | MessageType::TLINK => Self { uses: [first, second], ..base },
            MessageType::TRENAMEAT => {
                let name = u16_at(head, 11).map_or(0, usize::from);
                Self { uses: [first, u32_at(head, 13 + name)], ..base }
            }
            _ => Self { uses: [first, None], ..base },
        }
    }

    /// Whether this request has to wait for `earlier`, which is not finished.
    pub(super) fn waits_for(&self, earlier: &Self) -> bool {
        let names = |claims: &Self, fid: u32| claims.changes == Some(fid) || claims.uses.contains(&Some(fid));
        self.all
            || earlier.all
            || self.flushes == Some(earlier.tag)
            || self.changes.is_some_and(|fid| names(earlier, fid))
            || earlier.changes.is_some_and(|fid| names(self, fid))
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: MessageType, tag: u16, body: &[&[u8]]) -> Claims {
        Claims::of(&[&[0; 4], &[kind.0][..], &tag.to_le_bytes(), &body.concat()].concat())
    }

    fn on(kind: MessageType, fid: u32) -> Claims {
        request(kind, 1, &[&fid.to_le_bytes(), &[0; 16]])
    }

    fn walk(fid: u32, newfid: u32) -> Claims {
        request(MessageType::TWALK, 2, &[&fid.to_le_bytes(), &newfid.to_le_bytes()])
    }

    #[test]
    fn what_follows_a_walk_waits_for_its_fid_and_nothing_else_does() {
        assert!(on(MessageType::TLOPEN, 5).waits_for(&walk(1, 5)));
        assert!(on(MessageType::TGETATTR, 5).waits_for(&walk(1, 5)));
        assert!(!on(MessageType::TGETATTR, 1).waits_for(&walk(1, 5)));
        assert!(!walk(1, 6).waits_for(&walk(1, 5)));
        assert!(walk(1, 5).waits_for(&walk(1, 5)));
    }

    #[test]
    fn a_clunk_waits_for_what_came_before_on_its_fid() {
        for earlier in [MessageType::TREAD, MessageType::TWRITE, MessageType::TFSYNC] {
            assert!(on(MessageType::TCLUNK, 3).waits_for(&on(earlier, 3)));
            assert!(!on(MessageType::TCLUNK, 4).waits_for(&on(earlier, 3)));
        }
    }

    #[test]
    fn reads_writes_and_syncs_of_one_fid_go_side_by_side() {
        let kinds = [MessageType::TREAD, MessageType::TWRITE, MessageType::TFSYNC, MessageType::TGETATTR];
        for (one, other) in kinds.iter().flat_map(|one| kinds.map(|other| (*one, other))) {
            assert!(!on(one, 3).waits_for(&on(other, 3)), "{one:?} {other:?}");
        }
    }

    #[test]
    fn a_new_session_waits_for_everything_and_everything_for_it() {
        let version = request(MessageType::TVERSION, 0xffff, &[]);
        assert!(version.waits_for(&on(MessageType::TREAD, 1)));
        assert!(on(MessageType::TREAD, 1).waits_for(&version));
    }

    #[test]
    fn a_flush_waits_for_the_request_it_names() {
        let flush = request(MessageType::TFLUSH, 9, &[&1_u16.to_le_bytes()]);
        assert!(flush.waits_for(&on(MessageType::TREAD, 1)));
        assert!(!flush.waits_for(&walk(1, 5)), "another tag");
        assert!(!on(MessageType::TREAD, 1).waits_for(&flush));
    }

    #[test]
    fn a_rename_uses_both_directories() {
        let rename =
            request(MessageType::TRENAMEAT, 1, &[&1_u32.to_le_bytes(), &[3, 0], b"abc", &2_u32.to_le_bytes(), &[1, 0]]);
        assert!(on(MessageType::TCLUNK, 1).waits_for(&rename) && on(MessageType::TCLUNK, 2).waits_for(&rename));
        assert!(!on(MessageType::TCLUNK, 3).waits_for(&rename));
    }

    #[test]
    fn no_bytes_are_too_few() {
        for len in 0..HEAD {
            for kind in 0..=255 {
                let mut head = vec![0xff; len];
                if let Some(byte) = head.get_mut(4) {
                    *byte = kind;
                }
                let _ = Claims::of(&head);
            }
        }
    }
}
