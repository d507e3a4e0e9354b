//! The same work by system calls on the same files: what no server can beat.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, SeekFrom, openat, seek, statat, unlinkat};

use super::room::Room;
use super::subject::{Places, Subject, Times, batches};
use super::tree::{self, Tree};
use super::work::Work;
use crate::failure::Failure;

/// Bytes of a buffer for names.
const NAMES: usize = 64 << 10;

/// System calls on the files of the tree.
#[derive(Debug)]
pub(super) struct Plain {
    root: OwnedFd,
    parent: OwnedFd,
    new: OwnedFd,
    /// The way from the root to the small file.
    way: String,
    directories: Vec<(u32, OwnedFd)>,
    data: File,
    target: File,
    /// One for each operation of a batch.
    buffers: Vec<Room>,
    names: Vec<MaybeUninit<u8>>,
    places: Places,
    made: u64,
    busy: Duration,
}

impl Plain {
    /// Name in reports.
    pub(super) const NAME: &'static str = "system calls";

    /// Opens the files of `tree`.
    pub(super) fn open(tree: &Tree, directories: &[u32]) -> Result<Self, Failure> {
        let open = |name: &str, flags: OFlags| {
            rustix::fs::open(tree.folder().join(name), flags | OFlags::CLOEXEC, Mode::empty()).map_err(system)
        };
        let path = OFlags::PATH | OFlags::DIRECTORY;
        let listed =
            directories.iter().map(|entries| Ok((*entries, open(&tree::directory(*entries), OFlags::RDONLY)?)));
        Ok(Self {
            root: open("", path)?,
            parent: open(&tree::WAY[..2].join("/"), path)?,
            new: open(tree::NEW, path)?,
            way: tree::WAY.join("/"),
            directories: listed.collect::<Result<_, Failure>>()?,
            data: open(tree::DATA, OFlags::RDONLY)?.into(),
            target: open(tree::TARGET, OFlags::RDWR)?.into(),
            buffers: Vec::new(),
            names: vec![MaybeUninit::uninit(); NAMES],
            places: Places::new(),
            made: 0,
            busy: Duration::ZERO,
        })
    }

    /// What the next operation needs: its place in a file, or the name of a new one.
    fn next(&mut self, work: Work) -> (u64, String) {
        match work {
            Work::Create => {
                self.made += 1;
                (0, format!("plain-{}", self.made))
            }
            Work::Read(bytes) | Work::Write(bytes) => (self.places.next(bytes, tree::FILE_BYTES), String::new()),
            _ => (0, String::new()),
        }
    }

    /// So many operations, one after the other; the time that they take.
    fn batch(&mut self, work: Work, count: usize) -> Result<Duration, Failure> {
        let next: Vec<_> = (0..count).map(|_| self.next(work)).collect();
        let mut buffers = std::mem::take(&mut self.buffers);
        buffers.resize_with(count.max(buffers.len()), Room::default);
        let bytes = usize::try_from(work.bytes()).unwrap_or(0);
        buffers.iter_mut().take(count).for_each(|buffer| buffer.make(0, bytes));
        let start = Instant::now();
        for ((offset, name), buffer) in next.iter().zip(&mut buffers) {
            self.once(work, *offset, name, &mut buffer.bytes()[..bytes])?;
        }
        let time = start.elapsed();
        self.buffers = buffers;
        Ok(time)
    }

    fn once(&mut self, work: Work, offset: u64, name: &str, buffer: &mut [u8]) -> Result<(), Failure> {
        match work {
            Work::Getattr => {
                let size = statat(&self.parent, tree::WAY[2], AtFlags::empty()).map_err(system)?.st_size;
                check_size(size)
            }
            Work::Walk => {
                let size = statat(&self.root, self.way.as_str(), AtFlags::empty()).map_err(system)?.st_size;
                check_size(size)
            }
            Work::OpenRead => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let file = File::from(openat(&self.parent, tree::WAY[2], flags, Mode::empty()).map_err(system)?);
                read(&file, buffer, 0)
            }
            Work::Create => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mode = Mode::RUSR | Mode::WUSR;
                let file = File::from(openat(&self.new, name, flags, mode).map_err(system)?);
                file.write_all_at(buffer, 0).map_err(system)?;
                unlinkat(&self.new, name, AtFlags::empty()).map_err(system)
            }
            Work::Readdir(entries) => self.readdir(entries),
            Work::Fsync => self.target.sync_all().map_err(system),
            Work::Read(_) => read(&self.data, buffer, offset),
            Work::Write(_) => self.target.write_all_at(buffer, offset).map_err(system),
        }
    }

    fn readdir(&mut self, entries: u32) -> Result<(), Failure> {
        let directory = self.directories.iter().find(|(known, _)| *known == entries).map(|(_, directory)| directory);
        let directory = directory.ok_or_else(|| Failure::wrong(Self::NAME, "a directory that is not there"))?;
        seek(directory, SeekFrom::Start(0)).map_err(system)?;
        let mut listing = RawDir::new(directory, &mut self.names);
        let mut found = 0;
        while let Some(entry) = listing.next() {
            let name = entry.map_err(system)?;
            found += u32::from(tree::entry_index(name.file_name().to_bytes()).is_some());
        }
        if found == entries { Ok(()) } else { Err(Failure::wrong(Self::NAME, format!("{found} of {entries} names"))) }
    }
}

fn read(file: &File, buffer: &mut [u8], offset: u64) -> Result<(), Failure> {
    file.read_exact_at(buffer, offset).map_err(system)
}

fn check_size(size: i64) -> Result<(), Failure> {
    if u64::try_from(size) == Ok(tree::SMALL_FILE_BYTES) {
        Ok(())
    } else {
        Err(Failure::wrong(Plain::NAME, format!("size {size}")))
    }
}

fn system(cause: impl Into<std::io::Error>) -> Failure {
    Failure::system("do the work by system calls", cause)
}

impl Subject for Plain {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn is_process(&self) -> bool {
        false
    }

    fn can(&self, _work: Work, depth: u16) -> bool {
        depth == 1
    }

    fn run(&mut self, work: Work, _depth: u16, operations: u64, times: &mut Times) -> Result<(), Failure> {
        for count in batches(work, operations) {
            let time = self.batch(work, count)?;
            times.wall += time;
            self.busy += time;
        }
        Ok(())
    }

    fn cpu(&self) -> Result<Duration, Failure> {
        Ok(self.busy)
    }
}
