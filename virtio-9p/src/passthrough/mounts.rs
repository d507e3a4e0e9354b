//! What lies below a file: memory, a disk, or something that may keep a thread for ever.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use crate::fs::{Patience, Work};
use crate::limits::MAX_MOUNTS;
use crate::session::lock;

/// What a file system keeps its files on, the fastest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Medium {
    Memory,
    Disk,
    /// Another machine or another program, or unknown.
    Far,
}

/// File systems that keep everything in memory (`linux/magic.h`): tmpfs, ramfs.
const MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];
/// File systems on disks of this machine: ext2 to ext4, XFS, btrfs, F2FS, bcachefs, ZFS, JFS, NILFS, ReiserFS, FAT,
/// exFAT, NTFS, HFS+, ISO 9660, UDF, SquashFS, EROFS; overlayfs and eCryptfs, whose layers are such as a rule; procfs
/// and sysfs.
const DISK: [u32; 22] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0xca45_1a4e,
    0x2fc1_2fc1,
    0x3153_464a,
    0x3434,
    0x5265_4973,
    0x4d44,
    0x2011_bab0,
    0x5346_544e,
    0x7366_746e,
    0x482b,
    0x9660,
    0x1501_3346,
    0x7371_7368,
    0xe0f5_e1e2,
    0x794c_7630,
    0xf15f,
    0x9fa0,
    0x6265_6572,
];

impl Medium {
    fn of(fd: BorrowedFd<'_>) -> Medium {
        let kind = rustix::fs::fstatfs(fd).ok().and_then(|status| u32::try_from(status.f_type).ok());
        match kind {
            Some(kind) if MEMORY.contains(&kind) => Medium::Memory,
            Some(kind) if DISK.contains(&kind) => Medium::Disk,
            _ => Medium::Far,
        }
    }

    /// The medium that was cast to `number`.
    #[inline]
    fn numbered(number: u8) -> Medium {
        match number {
            0 => Medium::Memory,
            1 => Medium::Disk,
            _ => Medium::Far,
        }
    }
}

/// One file system of the host.
#[derive(Debug)]
pub(super) struct Mount {
    medium: Medium,
    /// Its files can be read and written by calls that do not wait, as far as is known.
    reads_now: AtomicBool,
    writes_now: AtomicBool,
}

/// A direction in which data moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Read,
    Write,
}

/// How data may be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By a plain call.
    Plain,
    /// By a call that does not wait.
    Now,
    /// Not with this patience.
    Not(Patience),
}

impl Mount {
    fn new(medium: Medium) -> Mount {
        Mount { medium, reads_now: AtomicBool::new(true), writes_now: AtomicBool::new(true) }
    }

    /// How to move data within `patience`.
    #[inline]
    pub(super) fn way(&self, direction: Move, patience: Patience) -> Way {
        match self.medium {
            _ if patience == Patience::Endless => Way::Plain,
            Medium::Memory => Way::Plain,
            _ if self.moves_now(direction).load(Ordering::Relaxed) => Way::Now,
            Medium::Disk if patience >= Patience::Disk => Way::Plain,
            Medium::Disk => Way::Not(Patience::Disk),
            Medium::Far => Way::Not(Patience::Endless),
        }
    }

    /// Notes that the file system has no call that does not wait; how to move data then.
    pub(super) fn moves_never_now(&self, direction: Move, patience: Patience) -> Way {
        self.moves_now(direction).store(false, Ordering::Relaxed);
        self.way(direction, patience)
    }

    fn moves_now(&self, direction: Move) -> &AtomicBool {
        match direction {
            Move::Read => &self.reads_now,
            Move::Write => &self.writes_now,
        }
    }
}

/// The file systems of a folder: the one of its root, and those mounted below.
#[derive(Debug)]
pub(super) struct Mounts {
    device: u64,
    root: Arc<Mount>,
    below: Mutex<HashMap<u64, Arc<Mount>>>,
    /// The slowest medium that was met, as its number.
    slowest: AtomicU8,
}

impl Mounts {
    /// `root` is a descriptor of the folder, which is on `device`.
    pub(super) fn new(root: BorrowedFd<'_>, device: u64) -> Mounts {
        Mounts::on(Medium::of(root), device)
    }

    fn on(medium: Medium, device: u64) -> Mounts {
        let (root, slowest) = (Arc::new(Mount::new(medium)), AtomicU8::new(medium as u8));
        Mounts { device, root, below: Mutex::default(), slowest }
    }

    /// The file system that a file on `device` is in, which was met when the file was reached.
    pub(super) fn of(&self, device: u64) -> Arc<Mount> {
        if device == self.device {
            return self.root.clone();
        }
        let known = lock(&self.below).get(&device).cloned();
        // Forgotten among very many: the careful answer.
        known.unwrap_or_else(|| Arc::new(Mount::new(Medium::Far)))
    }

    /// Notes that a file on `device` was reached, by a descriptor of it.
    #[inline]
    pub(super) fn meet(&self, device: u64, fd: BorrowedFd<'_>) {
        if device != self.device {
            self.meet_below(device, fd);
        }
    }

    #[cold]
    fn meet_below(&self, device: u64, fd: BorrowedFd<'_>) {
        let mut below = lock(&self.below);
        if below.contains_key(&device) {
            return;
        }
        if below.len() >= MAX_MOUNTS {
            below.clear();
        }
        let mount = Mount::new(Medium::of(fd));
        self.slowest.fetch_max(mount.medium as u8, Ordering::Relaxed);
        below.insert(device, Arc::new(mount));
    }

    /// How much patience `work` anywhere in the folder needs. What memory holds is as stable as it can be: there,
    /// syncing waits for nothing.
    #[inline]
    pub(super) fn needs(&self, work: Work) -> Patience {
        match (Medium::numbered(self.slowest.load(Ordering::Relaxed)), work) {
            (Medium::Memory, _) => Patience::None,
            (Medium::Disk, Work::Names) => Patience::Disk,
            (Medium::Disk, Work::Sync) | (Medium::Far, _) => Patience::Endless,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn memory_never_waits_and_endless_patience_asks_nothing() {
        for patience in [Patience::None, Patience::Disk, Patience::Endless] {
            assert_eq!(Mount::new(Medium::Memory).way(Move::Write, patience), Way::Plain);
        }
        assert_eq!(Mount::new(Medium::Far).way(Move::Read, Patience::Endless), Way::Plain);
    }

    #[test]
    fn without_calls_that_do_not_wait_a_disk_needs_some_patience_and_the_rest_all_of_it() {
        for (medium, needed) in [(Medium::Disk, Patience::Disk), (Medium::Far, Patience::Endless)] {
            let mount = Mount::new(medium);
            assert_eq!(mount.way(Move::Write, Patience::None), Way::Now);
            assert_eq!(mount.moves_never_now(Move::Write, Patience::None), Way::Not(needed));
            assert_eq!(mount.way(Move::Write, needed), Way::Plain);
            assert_eq!(mount.way(Move::Read, Patience::None), Way::Now, "the other direction is another matter");
        }
    }

    #[test]
    fn the_slowest_file_system_that_was_met_tells_how_long_to_wait() {
        let mounts = Mounts::on(Medium::Memory, 1);
        let needs = || [Work::Names, Work::Sync].map(|work| mounts.needs(work));
        assert_eq!(needs(), [Patience::None; 2]);
        let (disk, far) = (std::fs::File::open("/proc").unwrap(), std::io::pipe().unwrap().0);
        mounts.meet(1, far.as_fd());
        assert_eq!(needs(), [Patience::None; 2], "on the root's device");
        mounts.meet(2, disk.as_fd());
        assert_eq!(needs(), [Patience::Disk, Patience::Endless]);
        mounts.meet(3, far.as_fd());
        assert_eq!(needs(), [Patience::Endless; 2]);
        for medium in [Medium::Memory, Medium::Disk, Medium::Far] {
            assert_eq!(Medium::numbered(medium as u8), medium);
        }
    }

    #[test]
    fn kinds_are_told_apart_by_their_numbers() {
        let proc = std::fs::File::open("/proc").unwrap();
        assert_eq!(Medium::of(proc.as_fd()), Medium::Disk);
        let pipe = std::io::pipe().unwrap().0;
        assert_eq!(Medium::of(pipe.as_fd()), Medium::Far, "unknown kinds may keep a thread for ever");
    }
}
