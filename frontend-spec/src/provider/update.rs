//! UPDATE: changes of translations, in order (SPEC.md 20).

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use super::MessageError;

/// Most entries of one UPDATE.
pub const MAX_ENTRIES: usize = 1024;

const HEADER: usize = 8;
const CREATE: u16 = 1;
const FREE: u16 = 2;
const MAP: u16 = 3;
const UNMAP: u16 = 4;
const BIND: u16 = 5;
const READ: u16 = 1;
const WRITE: u16 = 2;
const BYPASS: u32 = u32::MAX;

/// What an endpoint's accesses are translated by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// Nothing is reached. Number 0.
    Blocked,
    /// Addresses are guest-physical. Number 2^32 − 1.
    Bypass,
    /// Mappings of the space with this number.
    Translated(u32),
}

impl Space {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Blocked => 0,
            Self::Bypass => BYPASS,
            Self::Translated(number) => number,
        }
    }

    /// The space of this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Blocked,
            BYPASS => Self::Bypass,
            number => Self::Translated(number),
        }
    }
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A space begins, without a mapping.
    Create {
        /// Its number.
        space: u32,
    },
    /// A space ends, with its mappings. No endpoint is bound to it.
    Free {
        /// Its number.
        space: u32,
    },
    /// Addresses are mapped that were not.
    Map {
        /// In this space.
        space: u32,
        /// First IOVA.
        iova: u64,
        /// Bytes.
        size: u64,
        /// The guest-physical address of the first.
        gpa: u64,
        /// Whether reads are allowed.
        read: bool,
        /// Whether writes are allowed.
        write: bool,
    },
    /// Every mapping within the range ends; none lies partly within it.
    Unmap {
        /// In this space.
        space: u32,
        /// First IOVA.
        iova: u64,
        /// Bytes.
        size: u64,
    },
    /// An endpoint's accesses use another space from now on.
    Bind {
        /// The endpoint.
        endpoint: u32,
        /// The space.
        space: Space,
    },
}

#[derive(Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire {
    op: U16,
    flags: U16,
    space: U32,
    endpoint: U32,
    reserved: U32,
    iova: U64,
    size: U64,
    gpa: U64,
}

impl Entry {
    /// Whether it takes a translation away, so that its acknowledgement must be waited for.
    #[must_use]
    pub const fn removes(&self) -> bool {
        matches!(self, Self::Free { .. } | Self::Unmap { .. } | Self::Bind { .. })
    }

    fn wire(self) -> Wire {
        let base = |op: u16, space: u32| Wire { op: op.into(), space: space.into(), ..Wire::default() };
        match self {
            Self::Create { space } => base(CREATE, space),
            Self::Free { space } => base(FREE, space),
            Self::Map { space, iova, size, gpa, read, write } => {
                let flags = if read { READ } else { 0 } | if write { WRITE } else { 0 };
                let (iova, size, gpa) = (iova.into(), size.into(), gpa.into());
                Wire { flags: flags.into(), iova, size, gpa, ..base(MAP, space) }
            }
            Self::Unmap { space, iova, size } => Wire { iova: iova.into(), size: size.into(), ..base(UNMAP, space) },
            Self::Bind { endpoint, space } => Wire { endpoint: endpoint.into(), ..base(BIND, space.number()) },
        }
    }

    fn from_wire(wire: &Wire) -> Result<Self, MessageError> {
        let (op, space, flags) = (wire.op.get(), wire.space.get(), wire.flags.get());
        let (iova, size, gpa) = (wire.iova.get(), wire.size.get(), wire.gpa.get());
        let entry = match op {
            CREATE => Self::Create { space },
            FREE => Self::Free { space },
            MAP => Self::Map { space, iova, size, gpa, read: flags & READ != 0, write: flags & WRITE != 0 },
            UNMAP => Self::Unmap { space, iova, size },
            BIND => Self::Bind { endpoint: wire.endpoint.get(), space: Space::from_number(space) },
            other => return Err(MessageError::Value(other.into())),
        };
        // What an operation does not use is 0: encoding again must give the same bytes.
        if entry.wire().as_bytes() == wire.as_bytes() { Ok(entry) } else { Err(MessageError::Value(op.into())) }
    }
}

/// Changes that are applied in order, with one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The changes, at most [`MAX_ENTRIES`].
    pub entries: Vec<Entry>,
}

impl Update {
    /// The payload: 8 bytes and 40 for each entry. Entries beyond [`MAX_ENTRIES`] belong into another message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let entries = &self.entries[..self.entries.len().min(MAX_ENTRIES)];
        let count = u32::try_from(entries.len()).unwrap_or(0);
        let mut bytes = [count.to_le_bytes(), [0; 4]].concat();
        entries.iter().for_each(|entry| bytes.extend_from_slice(entry.wire().as_bytes()));
        bytes
    }

    /// The update that `bytes` are.
    ///
    /// # Errors
    /// [`MessageError::Size`], [`MessageError::Value`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let (count, rest) = U64::read_from_prefix(bytes).map_err(|_| MessageError::Size(bytes.len()))?;
        debug_assert_eq!(bytes.len() - rest.len(), HEADER);
        let wires = <[Wire]>::ref_from_bytes(rest).map_err(|_| MessageError::Size(bytes.len()))?;
        // The upper half of the count is reserved, so a value there is never the number of entries.
        if wires.len() as u64 != count.get() || wires.len() > MAX_ENTRIES || wires.is_empty() {
            return Err(MessageError::Value(count.get()));
        }
        Ok(Self { entries: wires.iter().map(Entry::from_wire).collect::<Result<_, _>>()? })
    }
}

/// Why a front end did not apply an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Refusal {
    /// The space does not exist, or is one of the two without mappings.
    UnknownSpace = 1,
    /// The space exists already.
    SpaceExists = 2,
    /// The endpoint was never added.
    UnknownEndpoint = 3,
    /// The range overlaps a mapping (MAP), or cuts one (UNMAP).
    Overlap = 4,
    /// The range is empty, wraps, or is not made of pages.
    Range = 5,
    /// An endpoint is bound to the space.
    InUse = 6,
    /// The front end, or a device of it, has no room for another mapping.
    NoResources = 7,
}

/// The answer to an UPDATE, 8 bytes: 0 and the number of entries, or the reason and the entry that was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateReply {
    /// Entries applied, from the first.
    pub applied: u32,
    /// Why the next one was not.
    pub refusal: Option<Refusal>,
}

impl UpdateReply {
    /// The payload.
    #[must_use]
    pub fn encode(self) -> [u8; 8] {
        let reason = self.refusal.map_or(0, |refusal| refusal as u32);
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&reason.to_le_bytes());
        bytes[4..].copy_from_slice(&self.applied.to_le_bytes());
        bytes
    }

    /// The answer that `bytes` are.
    ///
    /// # Errors
    /// [`MessageError::Value`].
    pub fn decode(bytes: [u8; 8]) -> Result<Self, MessageError> {
        use Refusal::{InUse, NoResources, Overlap, Range, SpaceExists, UnknownEndpoint, UnknownSpace};
        let number = u64::from_le_bytes(bytes);
        let known = [UnknownSpace, SpaceExists, UnknownEndpoint, Overlap, Range, InUse, NoResources];
        let refusal = match number & u64::from(u32::MAX) {
            0 => None,
            reason => {
                let found = known.into_iter().find(|refusal| u64::from(*refusal as u32) == reason);
                Some(found.ok_or(MessageError::Value(reason))?)
            }
        };
        Ok(Self { applied: u32::try_from(number >> 32).unwrap_or(u32::MAX), refusal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_these_bytes() {
        let entry = Entry::Map { space: 7, iova: 0x1000, size: 0x2000, gpa: 0x5000, read: true, write: false };
        #[rustfmt::skip]
        assert_eq!(Update { entries: vec![entry] }.encode(), [
            1, 0, 0, 0, 0, 0, 0, 0,
            3, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0,
        ]);
    }

    #[test]
    fn updates_survive_the_wire() {
        let entries = vec![
            Entry::Create { space: 1 },
            Entry::Map { space: 1, iova: 0, size: 0x1000, gpa: u64::MAX - 0xfff, read: false, write: true },
            Entry::Unmap { space: 1, iova: 0, size: 0x1000 },
            Entry::Bind { endpoint: 0x30, space: Space::Translated(1) },
            Entry::Bind { endpoint: 0x30, space: Space::Blocked },
            Entry::Bind { endpoint: 0x30, space: Space::Bypass },
            Entry::Free { space: 1 },
        ];
        let update = Update { entries };
        assert_eq!(Update::decode(&update.encode()), Ok(update));
        for refusal in [None, Some(Refusal::Overlap), Some(Refusal::NoResources)] {
            let reply = UpdateReply { applied: 3, refusal };
            assert_eq!(UpdateReply::decode(reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn what_is_not_whole_and_meant_is_refused() {
        let good = Update { entries: vec![Entry::Create { space: 1 }] }.encode();
        for length in 0..good.len() {
            assert!(Update::decode(&good[..length]).is_err(), "{length}");
        }
        // Count, reserved word, operation, and every field that CREATE does not use.
        for at in [0, 4, 8, 10, 16, 20, 24, 32, 40] {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert!(Update::decode(&bad).is_err(), "{at}");
        }
        assert!(UpdateReply::decode([9, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
