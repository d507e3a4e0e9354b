//! From host inodes to qids.

use rustix::fs::FileType;

use super::Passthrough;
use super::status::{FileId, Status};
use crate::wire::{Qid, QidType};

/// A bijection of 64-bit words that spreads every bit over all (the finaliser of SplitMix64).
pub(super) fn spread(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A number that changes when the times or the size do, and is never 0.
fn version(status: &Status) -> u32 {
    let mut mix = status.size;
    for time in [status.modified, status.changed] {
        mix = spread(mix ^ time.seconds).wrapping_add(time.nanoseconds);
    }
    let mix = spread(mix);
    let folded = u32::try_from((mix ^ (mix >> 32)) & u64::from(u32::MAX)).unwrap_or(1);
    folded.max(1)
}

impl Passthrough {
    /// The qid path of a file. Inode numbers of the root's device stand for themselves. Those of another device (a
    /// mount point inside the tree) are combined with a word made from the device number: still one to one within each
    /// device, and apart from every other device's as long as inode numbers are far smaller than 64 bits.
    pub(super) fn qid_path(&self, id: FileId) -> u64 {
        if id.device == self.host.root_id.device {
            id.inode
        } else {
            id.inode ^ spread(id.device.wrapping_add(0x9e37_79b9_7f4a_7c15))
        }
    }

    pub(super) fn qid_of(&self, status: &Status) -> Qid {
        let kind = match status.kind() {
            FileType::Directory => QidType::DIRECTORY,
            FileType::Symlink => QidType::SYMLINK,
            _ => QidType::FILE,
        };
        Qid { kind, version: version(status), path: self.qid_path(status.id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileSystem, PassthroughOptions};

    #[test]
    fn paths_are_inode_numbers_on_the_roots_device_alone() {
        let folder = tempfile::tempdir().unwrap();
        let files = Passthrough::new(folder.path(), PassthroughOptions::default()).unwrap();
        let device = files.host.root_id.device;
        assert_eq!(files.qid_path(FileId { device, inode: 12 }), 12);
        let elsewhere = |inode| files.qid_path(FileId { device: device ^ 1, inode });
        assert!(elsewhere(12) > 1 << 32);
        assert_ne!(elsewhere(12), elsewhere(13));
    }

    #[test]
    fn the_version_follows_the_file_and_is_never_zero() {
        let folder = tempfile::tempdir().unwrap();
        let files = Passthrough::new(folder.path(), PassthroughOptions::default()).unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "a").unwrap();
        let root = files.root_node();
        let version = || {
            let entry = files.lookup(&root, crate::Name::existing(b"f").unwrap()).unwrap();
            assert_ne!(entry.qid.version, 0);
            entry.qid.version
        };
        let before = version();
        assert_eq!(version(), before);
        std::fs::write(&path, "ab").unwrap();
        assert_ne!(version(), before);
    }
}
