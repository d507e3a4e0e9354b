//! The shared folder and what its files hold.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Bytes of the files that are read and written.
pub(super) const FILE_BYTES: u64 = 64 << 20;
/// Bytes between two words that are checked in large transfers.
const PAGE: usize = 4096;

/// The file to read.
pub(super) const DATA: &str = "data.bin";
/// The file to write.
pub(super) const TARGET: &str = "target.bin";
/// The way to a small file.
pub(super) const WAY: [&str; 3] = ["one", "two", "file.bin"];
/// The folder for new files.
pub(super) const NEW: &str = "new";
/// Bytes of the small file.
pub(super) const SMALL_FILE_BYTES: u64 = 4096;

/// The folder of `entries` files.
pub(super) fn directory(entries: u32) -> String {
    format!("dir-{entries}")
}

/// The name of a directory's `index`-th file.
pub(super) fn entry(index: u32) -> String {
    format!("entry-{index:05}")
}

/// The number of such a name.
pub(super) fn entry_index(name: &[u8]) -> Option<u32> {
    std::str::from_utf8(name).ok()?.strip_prefix("entry-")?.parse().ok()
}

/// The shared folder.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    folder: PathBuf,
}

impl Tree {
    /// Fills `folder`; `directories` are the numbers of entries wanted.
    pub(super) fn make(folder: &Path, directories: &[u32]) -> Result<Self, Failure> {
        let tree = Self { folder: folder.to_owned() };
        tree.fill(directories).map_err(|cause| Failure::system(format!("fill {}", folder.display()), cause))?;
        Ok(tree)
    }

    fn fill(&self, directories: &[u32]) -> std::io::Result<()> {
        let path = |name: &str| self.folder.join(name);
        let mut block = vec![0; 1 << 20];
        let mut data = fs::File::create(path(DATA))?;
        let target = fs::File::create(path(TARGET))?;
        for offset in (0..FILE_BYTES).step_by(block.len()) {
            content(offset, &mut block);
            data.write_all(&block)?;
            target.write_all_at(&block, offset)?;
        }
        fs::create_dir_all(path(WAY[0]).join(WAY[1]))?;
        fs::create_dir_all(path(NEW))?;
        let mut small = vec![0; 4096];
        content(0, &mut small);
        fs::write(path(WAY[0]).join(WAY[1]).join(WAY[2]), small)?;
        for entries in directories {
            let folder = path(&directory(*entries));
            fs::create_dir_all(&folder)?;
            (0..*entries).try_for_each(|index| fs::write(folder.join(entry(index)), []))?;
        }
        Ok(())
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Checks on the host that the word at `offset` of the written file is what `stamp` says.
    pub(super) fn check_written(&self, peer: &'static str, offset: u64, value: u64) -> Result<(), Failure> {
        let read = || {
            let mut word = [0; 8];
            fs::File::open(self.folder.join(TARGET))?.read_exact_at(&mut word, offset)?;
            Ok::<_, std::io::Error>(u64::from_le_bytes(word))
        };
        let found = read().map_err(|cause| Failure::system("read what was written", cause))?;
        if found == value {
            return Ok(());
        }
        Err(Failure::wrong(peer, format!("{found:#x} at {offset:#x} of the file where {value:#x} was written")))
    }
}

/// The word at `offset` of the files: no two are alike.
pub(super) fn word(offset: u64) -> u64 {
    (offset | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What the files hold from `offset` on; both are multiples of 8.
pub(super) fn content(offset: u64, block: &mut [u8]) {
    for (at, chunk) in block.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&word(offset + 8 * at as u64).to_le_bytes());
    }
}

/// Whether `block` is what the files hold from `offset` on; both are multiples of 8. Looks at all of it whatever it finds,
/// which is faster where there is nothing to find.
pub(super) fn holds(offset: u64, block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks();
    let found = (offset..).step_by(8).zip(words);
    rest.is_empty() && found.fold(0, |wrong, (at, found)| wrong | (u64::from_le_bytes(*found) ^ word(at))) == 0
}

/// Offsets of the words to check in a transfer of `bytes` bytes: all of a small one, the first and last of each page of
/// a large one.
pub(super) fn checked(bytes: usize) -> impl Iterator<Item = usize> {
    let step = if bytes <= PAGE { 8 } else { PAGE };
    (0..bytes).step_by(step).flat_map(move |at| {
        let last = (at + step).min(bytes) - 8;
        std::iter::once(at).chain((last != at).then_some(last))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_transfers_are_checked_whole_and_large_ones_by_the_page() {
        assert_eq!(checked(24).collect::<Vec<_>>(), [0, 8, 16]);
        assert_eq!(checked(4096).count(), 512);
        assert_eq!(checked(8192).collect::<Vec<_>>(), [0, 4088, 4096, 8184]);
    }

    #[test]
    fn one_wrong_byte_is_seen() {
        let mut block = [0; 64];
        content(4096, &mut block);
        assert!(holds(4096, &block) && !holds(4104, &block));
        block[63] ^= 1;
        assert!(!holds(4096, &block));
    }

    #[test]
    fn the_tree_holds_what_it_should() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::make(folder.path(), &[3]).unwrap();
        tree.check_written("nobody", 0x1230, word(0x1230)).unwrap();
        assert!(tree.check_written("nobody", 0x1230, 0).is_err());
        let mut names: Vec<_> =
            fs::read_dir(folder.path().join(directory(3))).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let indexes: Vec<_> = names.iter().map(|name| entry_index(name.as_encoded_bytes())).collect();
        assert_eq!(indexes, [Some(0), Some(1), Some(2)]);
    }
}
