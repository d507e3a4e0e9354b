//! What a device may do with a page.

use std::fmt;

/// What a device wants to do with memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// The device reads memory.
    Read,
    /// The device writes memory.
    Write,
}

/// What a mapping lets a device do. The bits are those of a TCE: R is bit 0, W is bit 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Permissions(u8);

impl Permissions {
    /// Mapped, but no access: virtio 1.2 §5.13.6.5 allows a MAP with neither flag.
    pub const NONE: Self = Self(0);
    /// The device may read.
    pub const READ: Self = Self(1);
    /// The device may write. On this chip that does not imply reading.
    pub const WRITE: Self = Self(2);
    /// The device may read and write.
    pub const READ_WRITE: Self = Self(3);

    /// Permissions with each direction given by itself.
    #[must_use]
    pub const fn new(read: bool, write: bool) -> Self {
        Self(read as u8 | (write as u8) << 1)
    }

    /// Whether `access` is permitted.
    #[must_use]
    pub const fn allows(self, access: Access) -> bool {
        let needed = match access {
            Access::Read => Self::READ,
            Access::Write => Self::WRITE,
        };
        self.0 & needed.0 != 0
    }

    /// The R and W bits as they stand in a TCE.
    pub(crate) const fn bits(self) -> u64 {
        self.0 as u64
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::NONE => "--",
            Self::READ => "R-",
            Self::WRITE => "-W",
            _ => "RW",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_is_permitted_by_its_own_bit() {
        for (read, write, expected) in [
            (false, false, Permissions::NONE),
            (true, false, Permissions::READ),
            (false, true, Permissions::WRITE),
            (true, true, Permissions::READ_WRITE),
        ] {
            let permissions = Permissions::new(read, write);
            assert_eq!(permissions, expected);
            assert_eq!(permissions.allows(Access::Read), read);
            assert_eq!(permissions.allows(Access::Write), write);
        }
    }
}
