//! The load: this same program, run inside the guest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;

/// The hidden command of this program that is the load: a kind of work and a folder follow.
pub(crate) const GUEST_COMMAND: &str = "guest-load";

/// Bytes of the large file.
const LARGE: u64 = 16 << 20;
/// Bytes of a large read or write.
const BLOCK: usize = 1 << 20;
/// Bytes of a small read.
const PAGE: usize = 4096;
/// Small reads, and small writes, of one sample.
const SMALL: u64 = 400;
/// Files made and removed in one sample.
const FILES: u64 = 60;
/// Folders of the tree, and files in each.
const TREE: (u64, u64) = (10, 10);

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Work {
    /// Reads of 1 MiB, one after the other.
    Read,
    /// Writes of 1 MiB, one after the other, and one fsync.
    Write,
    /// Reads of 4 KiB here and there.
    RandomRead,
    /// Writes of 4 KiB here and there.
    RandomWrite,
    /// Files of 100 bytes made, looked at and removed.
    Metadata,
    /// A tree listed and all its files read, as tar does.
    Walk,
}

impl Work {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 6] =
        [Self::Read, Self::Write, Self::RandomRead, Self::RandomWrite, Self::Metadata, Self::Walk];

    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::RandomRead => "random-read",
            Self::RandomWrite => "random-write",
            Self::Metadata => "metadata",
            Self::Walk => "walk",
        }
    }

    /// What the table calls it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Read => "read 1 MiB (cache=loose)",
            Self::Write => "write 1 MiB (cache=loose)",
            Self::RandomRead => "read 4 KiB at random (cache=none)",
            Self::RandomWrite => "write 4 KiB at random (cache=none)",
            Self::Metadata => "create, write, stat, remove (cache=none)",
            Self::Walk => "walk a tree and read its files (cache=none)",
        }
    }

    /// Linux's cache mode for it: only with a cache does it send requests of more than 4 KiB.
    pub(crate) const fn cache(self) -> &'static str {
        match self {
            Self::Read | Self::Write => "loose",
            _ => "none",
        }
    }

    fn run(self, folder: &Path) -> io::Result<u64> {
        match self {
            Self::Read => read(folder),
            Self::Write => write(folder),
            Self::RandomRead => random_read(folder),
            Self::RandomWrite => random_write(folder),
            Self::Metadata => metadata(folder),
            Self::Walk => walk(folder),
        }
    }
}

/// Makes what the work reads, on the host.
pub(crate) fn prepare(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("large"), (0..LARGE).map(byte_at).collect::<Vec<u8>>())?;
    for directory in 0..TREE.0 {
        let directory = folder.join(format!("tree/{directory}"));
        fs::create_dir_all(&directory)?;
        for file in 0..TREE.1 {
            fs::write(directory.join(file.to_string()), content(file))?;
        }
    }
    Ok(())
}

/// The byte of the large file at this place.
fn byte_at(place: u64) -> u8 {
    let [low, middle, high, ..] = place.to_le_bytes();
    low ^ middle.rotate_left(3) ^ high.rotate_left(5)
}

fn content(file: u64) -> Vec<u8> {
    vec![b'a' + u8::try_from(file % 26).unwrap_or(0); 2000]
}

/// Runs `WORK FOLDER` and prints the operations done and the nanoseconds that they took.
pub(crate) fn main(args: &[String]) -> ExitCode {
    let found = args.first().and_then(|name| Work::ALL.into_iter().find(|work| work.name() == name));
    let (Some(work), Some(folder)) = (found, args.get(1)) else {
        eprintln!("give a kind of work and a folder");
        return ExitCode::from(2);
    };
    let start = Instant::now();
    match work.run(Path::new(folder)) {
        Ok(operations) => {
            println!("{operations} {}", start.elapsed().as_nanos());
            ExitCode::SUCCESS
        }
        Err(cause) => {
            eprintln!("{}: {cause}", work.name());
            ExitCode::FAILURE
        }
    }
}

/// Reads what [`main`] printed.
pub(crate) fn parse(said: &str) -> Option<(u64, Duration)> {
    let (operations, nanoseconds) = said.trim().split_once(' ')?;
    Some((operations.parse().ok()?, Duration::from_nanos(nanoseconds.parse().ok()?)))
}

fn wrong(what: &str) -> io::Error {
    io::Error::other(format!("{what} has other bytes"))
}

fn read(folder: &Path) -> io::Result<u64> {
    let mut file = File::open(folder.join("large"))?;
    let mut block = vec![0; BLOCK];
    for number in 0..LARGE / BLOCK as u64 {
        file.read_exact(&mut block)?;
        // A look at each page: a checksum would be the guest's work, not the server's.
        let start = number * BLOCK as u64;
        if (0..BLOCK).step_by(PAGE).any(|at| block[at] != byte_at(start + at as u64)) {
            return Err(wrong("what was read"));
        }
    }
    Ok(LARGE / BLOCK as u64)
}

fn write(folder: &Path) -> io::Result<u64> {
    let path = folder.join("written");
    let mut file = File::create(&path)?;
    let block = vec![7; BLOCK];
    for _ in 0..LARGE / BLOCK as u64 {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(LARGE / BLOCK as u64)
}

fn random_read(folder: &Path) -> io::Result<u64> {
    let file = File::open(folder.join("large"))?;
    let mut page = [0; PAGE];
    for start in places() {
        file.read_exact_at(&mut page, start)?;
        if page[0] != byte_at(start) || page[PAGE - 1] != byte_at(start + PAGE as u64 - 1) {
            return Err(wrong("what was read"));
        }
    }
    Ok(SMALL)
}

fn random_write(folder: &Path) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(folder.join("written"))?;
    let mut page = [0; PAGE];
    let mut last = 0;
    for (number, start) in (0_u64..).zip(places()) {
        page[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all_at(&page, start)?;
        last = start;
    }
    let mut found = [0; 8];
    file.read_exact_at(&mut found, last)?;
    if u64::from_le_bytes(found) == SMALL - 1 { Ok(SMALL) } else { Err(wrong("what was written")) }
}

/// Where small reads and writes go: pages of the large file that look random and are the same each time (xorshift64).
fn places() -> impl Iterator<Item = u64> {
    let step = |seed: &u64| {
        let seed = seed ^ (seed << 13);
        let seed = seed ^ (seed >> 7);
        Some(seed ^ (seed << 17))
    };
    let numbers = std::iter::successors(step(&2007), step);
    numbers.map(|number| number % (LARGE / PAGE as u64) * PAGE as u64).take(usize::try_from(SMALL).unwrap_or(0))
}

fn metadata(folder: &Path) -> io::Result<u64> {
    for number in 0..FILES {
        let path = folder.join(format!("new-{number}"));
        OpenOptions::new().write(true).create_new(true).open(&path)?.write_all(&[b'x'; 100])?;
        if fs::metadata(&path)?.len() != 100 {
            return Err(wrong("a new file"));
        }
        fs::remove_file(&path)?;
    }
    Ok(FILES)
}

fn walk(folder: &Path) -> io::Result<u64> {
    let mut files = 0;
    for directory in fs::read_dir(folder.join("tree"))? {
        for entry in fs::read_dir(directory?.path())? {
            let path = entry?.path();
            let length = fs::metadata(&path)?.len();
            if fs::read(&path)?.len() as u64 != length {
                return Err(wrong("a file of the tree"));
            }
            files += 1;
        }
    }
    if files == TREE.0 * TREE.1 { Ok(files) } else { Err(wrong("the tree")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_work_does_something_and_checks_it() {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path()).unwrap();
        for work in Work::ALL {
            assert!(work.run(folder.path()).unwrap() > 0, "{work:?}");
        }
        fs::write(folder.path().join("large"), vec![0; usize::try_from(LARGE).unwrap()]).unwrap();
        fs::remove_file(folder.path().join("tree/3/4")).unwrap();
        for work in [Work::Read, Work::RandomRead, Work::Walk] {
            assert!(work.run(folder.path()).is_err(), "{work:?}");
        }
        assert_eq!(parse("12 3000\n"), Some((12, Duration::from_micros(3))));
        assert_eq!(parse("none"), None);
    }
}
