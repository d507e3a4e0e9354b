//! Byte-range locks: lock and getlock.

use super::codec::newtype_field;
use super::header::Fid;
use super::message::messages;

/// The kind of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockType(pub u8);
newtype_field!(LockType);

impl LockType {
    /// Shared.
    pub const READ: LockType = LockType(0);
    /// Exclusive.
    pub const WRITE: LockType = LockType(1);
    /// None.
    pub const UNLOCK: LockType = LockType(2);
}

/// The flags of a `Tlock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockFlags(pub u32);
newtype_field!(LockFlags);

impl LockFlags {
    /// The client would wait for the lock.
    pub const BLOCK: u32 = 1;
    /// The client held the lock before the server restarted.
    pub const RECLAIM: u32 = 2;
}

/// The outcome of a `Tlock`. Older Linux clients crash on any other value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockStatus(pub u8);
newtype_field!(LockStatus);

impl LockStatus {
    /// Done.
    pub const SUCCESS: LockStatus = LockStatus(0);
    /// Another owner holds a conflicting lock; a client that would wait asks again.
    pub const BLOCKED: LockStatus = LockStatus(1);
    /// The lock cannot be had.
    pub const ERROR: LockStatus = LockStatus(2);
    /// The server is in its grace period.
    pub const GRACE: LockStatus = LockStatus(3);
}

messages! {
    /// Takes or releases a lock: `fid[4] type[1] flags[4] start[8] length[8] proc_id[4] client_id[s]`.
    Tlock<'a> = TLOCK {
        /// The open file.
        fid: Fid,
        /// Which lock.
        kind: LockType,
        /// Whether to wait.
        flags: LockFlags,
        /// First byte.
        start: u64,
        /// Number of bytes; 0 reaches to the end of the file, however long it grows.
        length: u64,
        /// The owning process, within the client.
        proc_id: u32,
        /// The client.
        client_id: &'a [u8],
    }
    /// The outcome.
    Rlock = RLOCK {
        /// Granted or not.
        status: LockStatus,
    }
    /// Asks what stands in the way of a lock: `fid[4] type[1] start[8] length[8] proc_id[4] client_id[s]`.
    Tgetlock<'a> = TGETLOCK {
        /// The open file.
        fid: Fid,
        /// Which lock. Linux sends `UNLOCK` and means an exclusive one.
        kind: LockType,
        /// First byte.
        start: u64,
        /// Number of bytes; 0 reaches to the end.
        length: u64,
        /// The asking process.
        proc_id: u32,
        /// The client.
        client_id: &'a [u8],
    }
    /// The conflicting lock, or `UNLOCK` if there is none.
    Rgetlock<'a> = RGETLOCK {
        /// Its type.
        kind: LockType,
        /// Its first byte.
        start: u64,
        /// Its number of bytes; 0 reaches to the end.
        length: u64,
        /// Its owning process, 0 if unknown.
        proc_id: u32,
        /// Its client, empty if unknown.
        client_id: &'a [u8],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Tag, literal::assert_wire};

    #[test]
    fn lock_bytes() {
        assert_wire(
            b"\x28\0\0\0\x34\x01\0\x04\0\0\0\x01\x01\0\0\0\x10\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\
              \x2a\0\0\0\x02\0vm",
            Tag(1),
            Tlock {
                fid: Fid(4),
                kind: LockType::WRITE,
                flags: LockFlags(LockFlags::BLOCK),
                start: 16,
                length: 32,
                proc_id: 42,
                client_id: b"vm",
            },
        );
        assert_wire(b"\x08\0\0\0\x35\x01\0\x01", Tag(1), Rlock { status: LockStatus::BLOCKED });
    }

    #[test]
    fn getlock_bytes() {
        assert_wire(
            b"\x24\0\0\0\x36\x01\0\x04\0\0\0\x02\x10\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\x2a\0\0\0\x02\0vm",
            Tag(1),
            Tgetlock { fid: Fid(4), kind: LockType::UNLOCK, start: 16, length: 32, proc_id: 42, client_id: b"vm" },
        );
        assert_wire(
            b"\x20\0\0\0\x37\x01\0\x00\x10\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\x2a\0\0\0\x02\0vm",
            Tag(1),
            Rgetlock { kind: LockType::READ, start: 16, length: 32, proc_id: 42, client_id: b"vm" },
        );
    }
}
