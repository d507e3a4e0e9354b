//! The folder that the demo shares, and what must be in it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The file that guests read.
pub(super) const INPUT: &str = "input.bin";

/// A temporary folder: `share/` is what guests see, sockets stand beside it.
pub(super) struct DemoFolder {
    root: TempDir,
    shared: PathBuf,
}

impl DemoFolder {
    /// A folder with an input file of `mib` MiB that no two pages of are alike.
    pub(super) fn new(mib: u32) -> io::Result<Self> {
        let root = tempfile::Builder::new().prefix("calgaryd-demo-").tempdir()?;
        let shared = root.path().join("share");
        std::fs::create_dir(&shared)?;
        let mut file = File::create(shared.join(INPUT))?;
        let mut state = 2006_u64;
        let mut piece = vec![0; 1 << 20];
        for _ in 0..mib {
            for word in piece.chunks_exact_mut(8) {
                // xorshift64
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            file.write_all(&piece)?;
        }
        Ok(Self { root, shared })
    }

    pub(super) fn shared(&self) -> &Path {
        &self.shared
    }

    pub(super) fn socket(&self, name: &str) -> PathBuf {
        self.root.path().join(format!("{name}.sock"))
    }

    /// SHA-256 of `name` in the shared folder, with its first `rotate` bytes moved behind the rest.
    pub(super) fn checksum(&self, name: &str, rotate: u64) -> io::Result<String> {
        let mut content = Vec::new();
        File::open(self.shared.join(name))?.read_to_end(&mut content)?;
        let middle = content.len().min(usize::try_from(rotate).unwrap_or(usize::MAX));
        content.rotate_left(middle);
        Ok(Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}
