//! Archives of the `newc` format, which Linux unpacks as its initramfs (Documentation/driver-api/early-userspace/
//! buffer-format.rst): a 110-byte header of hexadecimal fields, the name, the data, each padded to four bytes.

use std::collections::BTreeSet;

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";

const TYPE_FOLDER: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_SYMLINK: u32 = 0o120_000;

/// A `newc` archive under construction. All entries belong to root and have the time 0, so equal input gives equal
/// bytes.
#[derive(Debug, Default, Clone)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Cpio {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file and the folders above it. `path` is relative or absolute, `permissions` are the low 12 bits of
    /// the mode.
    ///
    /// # Panics
    /// If `data` is 4 GiB or longer, which the format cannot say.
    pub fn file(&mut self, path: &str, permissions: u32, data: &[u8]) -> &mut Self {
        self.entry(path, TYPE_FILE | (permissions & 0o7777), data)
    }

    /// Adds a symbolic link and the folders above it.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.entry(path, TYPE_SYMLINK | 0o777, target.as_bytes())
    }

    /// Adds a folder and those above it; twice is the same as once.
    pub fn folder(&mut self, path: &str) -> &mut Self {
        let path = path.trim_matches('/');
        if !path.is_empty() && !self.folders.contains(path) {
            self.folders.insert(path.to_owned());
            self.entry(path, TYPE_FOLDER | 0o755, &[]);
        }
        self
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) -> &mut Self {
        let path = path.trim_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        self.append(path, mode, data);
        self
    }

    fn append(&mut self, name: &str, mode: u32, data: &[u8]) {
        let size = u32::try_from(data.len()).expect("an initramfs entry is shorter than 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a path is shorter than 4 GiB");
        self.entries += 1;
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        // inode, mode, uid, gid, links, time, size, device major and minor, rdev major and minor, name size, check
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The archive with its trailer. Its length is a multiple of four, so that another may follow it.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.append(TRAILER, 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_laid_out_as_the_format_says() {
        let mut cpio = Cpio::new();
        cpio.file("/ab", 0o755, b"hello");
        let bytes = cpio.finish();
        let expected = concat!(
            "070701",
            "00000001",
            "000081ed",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000005",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000003",
            "00000000",
            "ab\0",
            "\0\0\0",
            "hello\0\0\0",
            "070701",
            "00000002",
            "00000000",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "0000000b",
            "00000000",
            "TRAILER!!!\0",
            "\0\0\0",
        );
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn folders_come_before_what_is_in_them_and_once() {
        let mut cpio = Cpio::new();
        cpio.file("a/b/one", 0o644, b"").file("a/b/two", 0o644, b"").symlink("a/link", "b/one");
        let bytes = cpio.finish();
        let text = String::from_utf8_lossy(&bytes);
        let names: Vec<_> =
            text.split(MAGIC).skip(1).map(|entry| entry[104..].split('\0').next().unwrap().to_owned()).collect();
        assert_eq!(names, ["a", "a/b", "a/b/one", "a/b/two", "a/link", TRAILER]);
    }

    #[test]
    fn every_length_leaves_the_archive_aligned() {
        for length in 0..9 {
            let mut cpio = Cpio::new();
            cpio.file(&"n".repeat(length + 1), 0o644, &vec![b'x'; length]);
            assert_eq!(cpio.finish().len() % 4, 0);
        }
    }
}
