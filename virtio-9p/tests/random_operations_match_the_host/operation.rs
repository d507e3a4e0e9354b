//! The operations that are compared, and how they are drawn.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use crate::client::is_root;

/// Directories are made and moved among the first four names, links are made and moved among the last two; so a path to a
/// parent never leads through a link, which a client would have to follow by itself.
const NAMES: [&str; 6] = ["a", "b", "d", "e", "l", "m"];
const PARENTS: [&str; 4] = ["", "d", "e", "a"];

/// Number of files that are kept at hand between operations.
pub(crate) const SLOTS: usize = 4;

macro_rules! kinds {
    ($($weight:literal $name:ident)*) => {
        /// Every kind of operation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Kind { $($name,)* }

        /// The kinds with how often each is drawn.
        pub(crate) const KINDS: &[(u32, Kind)] = &[$(($weight, Kind::$name),)*];
    };
}
kinds! {
    4 Create
    2 CreateExclusive
    1 CreateForGroup
    1 CreateAndTruncate
    1 CreateForAppending
    2 Write
    2 WriteAppending
    1 WriteTruncating
    1 WriteSynchronous
    1 WriteFarOut
    2 Read
    1 ReadBehindStart
    1 ReadWithoutAtime
    2 Truncate
    5 Mkdir
    1 MkdirForGroup
    2 Symlink
    1 Readlink
    3 Link
    4 Rename
    3 RenameByFid
    3 Unlink
    2 Rmdir
    2 Remove
    1 MknodRegular
    1 MknodFifo
    1 MknodSocket
    1 MknodDevice
    2 Chmod
    1 Chown
    1 Chgrp
    1 SetBothTimes
    1 SetAccessTime
    1 SetModificationTime
    1 TouchNow
    1 TouchChangeTime
    1 SetModeSizeAndTime
    2 List
    1 OpenAsDirectory
    3 Stat
    1 Statfs
    2 SetAttribute
    1 CreateAttribute
    1 ReplaceAttribute
    2 GetAttribute
    1 ListAttributes
    1 RemoveAttribute
    1 SetLargeAttribute
    1 SetAccessList
    1 WalkDeep
    1 LongName
    5 Reach
    2 Clone
    5 Open
    2 CreateInSlot
    3 ReadSlot
    3 WriteSlot
    2 StatSlot
    1 TruncateSlot
    1 ChmodSlot
    1 TimesSlot
    1 ChownSlot
    1 SyncSlot
    1 SyncDataSlot
    3 LockSlot
    1 UnlockSlot
    2 TestLockSlot
    1 ListSlot
    1 RemoveSlot
    1 RenameSlot
    1 LinkSlot
    1 GetAttributeSlot
    1 SetAttributeSlot
    1 MkdirInSlot
    1 UnlinkInSlot
    1 WalkFromSlot
    1 ParentOfSlot
    1 ReadlinkSlot
    1 StatfsSlot
    2 Clunk
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot {
    parent: usize,
    name: usize,
}

impl Spot {
    pub(crate) fn parent(self) -> &'static str {
        PARENTS[self.parent]
    }

    pub(crate) fn name(self) -> &'static str {
        NAMES[self.name]
    }

    pub(crate) fn path(self, root: &Path) -> PathBuf {
        root.join(self.parent()).join(self.name())
    }

    /// The same spot among the names of files and directories.
    fn file(self) -> Spot {
        Spot { name: self.name % 4, ..self }
    }

    /// The same spot among the names of links.
    fn link(self) -> Spot {
        Spot { name: 4 + self.name % 2, ..self }
    }
}

/// One operation: a kind, and what it needs of the rest.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) kind: Kind,
    at: Spot,
    to: Spot,
    pub(crate) slot: usize,
    pub(crate) other: usize,
    pub(crate) number: u16,
    pub(crate) data: Vec<u8>,
}

impl Op {
    /// Any name, for what makes nothing.
    pub(crate) fn at(&self) -> Spot {
        self.at
    }

    /// A name for a new file or directory.
    pub(crate) fn file(&self) -> Spot {
        self.at.file()
    }

    /// A name for a new symbolic link.
    pub(crate) fn link(&self) -> Spot {
        self.at.link()
    }

    /// Two names for what is moved or linked.
    pub(crate) fn pair(&self) -> (Spot, Spot) {
        if self.at.name < 4 { (self.at, self.to.file()) } else { (self.at, self.to.link()) }
    }

    /// Where a file goes that may be a link.
    pub(crate) fn target(&self) -> Spot {
        self.to.link()
    }

    /// A name that may be in the middle of a path.
    pub(crate) fn middle(&self) -> &'static str {
        self.to.file().name()
    }

    pub(crate) fn choose<T: Copy>(&self, from: &[T]) -> T {
        from[usize::from(self.number) % from.len()]
    }

    /// Permission bits. Whoever is not root keeps the owner's, to get at the files afterwards.
    pub(crate) fn mode(&self) -> u32 {
        let mode = self.choose(&[0o600, 0o640, 0o755, 0o444, 0o4755, 0o2755, 0o1777, 0]);
        if is_root() { mode } else { mode | 0o700 }
    }

    pub(crate) fn id(&self) -> u32 {
        self.choose(&[0, 1000, 65_534])
    }

    /// An offset near the start.
    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.number % 100)
    }

    /// A time stamp that no clock shows by itself.
    pub(crate) fn seconds(&self) -> i64 {
        i64::from(self.number) + 1
    }

    pub(crate) fn attribute(&self) -> &'static str {
        self.choose(&["user.one", "user.one", "user.one", "user.two", "trusted.three", "user.one", "odd"])
    }

    /// A value that is not empty: an empty one would mean removal to 9P.
    pub(crate) fn value(&self) -> Vec<u8> {
        [&b"v"[..], &self.data].concat()
    }

    /// A value near or beyond what the kernel takes.
    pub(crate) fn large_value(&self) -> Vec<u8> {
        vec![b'x'; self.choose(&[4000, 5000, 65_536, 65_537, 60_000])]
    }

    /// An access list in the kernel's format: owner, user 1000, group, mask and others.
    pub(crate) fn access_list(&self) -> Vec<u8> {
        let mut list = 2_u32.to_le_bytes().to_vec();
        let bits = [0o6_u16, 0o7, 0o4, 0o0, 0o5];
        for (at, (tag, id)) in
            [(1_u16, u32::MAX), (2, 1000), (4, u32::MAX), (0x10, u32::MAX), (0x20, u32::MAX)].into_iter().enumerate()
        {
            list.extend(tag.to_le_bytes());
            let owner = at == 0 && !is_root();
            let bits = bits[(at + usize::from(self.number)) % bits.len()];
            list.extend((if owner { 0o7 } else { bits }).to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        list
    }

    /// Lock range as start and length, and the process that asks.
    pub(crate) fn lock(&self) -> (u64, u64, u32) {
        let start = u64::from(self.number % 8);
        let length = u64::from(self.number / 8 % 5);
        (start, length, u32::from(self.number / 64 % 3) + 1)
    }

    /// Flags for an open, in 9P's numbers, which are x86's.
    pub(crate) fn flags(&self) -> u32 {
        self.choose(&[0, 0o2, 0o1, 0o2, 0, 0o2001, 0o1002, 0o200_000, 0o1_000_000, 0o4_010_002, 0o3, 0o4000])
    }

    pub(crate) fn long_name(&self) -> String {
        "n".repeat(self.choose(&[255, 256, 254]))
    }
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let kinds: Vec<Kind> = KINDS.iter().flat_map(|(weight, kind)| (0..*weight).map(|_| *kind)).collect();
    // Few places are drawn often, so that much of what is tried finds something.
    let parent = || prop::sample::select(vec![0, 0, 0, 0, 0, 1, 1, 2, 3]);
    let name = || prop::sample::select(vec![0, 0, 0, 0, 1, 2, 2, 2, 3, 4, 4, 5]);
    let spot = move || (parent(), name()).prop_map(|(parent, name)| Spot { parent, name });
    let data = proptest::collection::vec(any::<u8>(), 0..40);
    (prop::sample::select(kinds), spot(), spot(), 0..SLOTS, 0..SLOTS, 0_u16..1000, data)
        .prop_map(|(kind, at, to, slot, other, number, data)| Op { kind, at, to, slot, other, number, data })
}
