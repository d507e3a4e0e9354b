//! Short forms of what most cases do with files. Names are relative to the case's folder.

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, StatxFlags};

use crate::said::{Result, errno};

/// Opens for reading and writing.
pub(crate) fn open(path: &str, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))
}

/// A new or emptied file with this content.
pub(crate) fn write(path: &str, data: impl AsRef<[u8]>) -> Result {
    fs::write(path, data).map_err(|error| errno(&error))
}

/// Adds to the end of a file.
pub(crate) fn append(path: &str, data: impl AsRef<[u8]>) -> Result {
    let file = fs::OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(data.as_ref())).map_err(|error| errno(&error))
}

/// A file's whole content.
pub(crate) fn bytes(path: &str) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| errno(&error))
}

/// The same as text.
pub(crate) fn text(path: &str) -> Result<String> {
    bytes(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// What can be read from the descriptor's position on.
pub(crate) fn rest(fd: impl AsFd) -> Result<String> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(&fd, &mut buffer)? {
            0 => return Ok(String::from_utf8_lossy(&all).into_owned()),
            length => all.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Writes all of it at the descriptor's position.
pub(crate) fn put(fd: impl AsFd, mut data: &[u8]) -> Result {
    while !data.is_empty() {
        let length = rustix::io::write(&fd, data)?;
        data = &data[length..];
    }
    Ok(())
}

pub(crate) fn chmod(path: &str, mode: u32) -> Result {
    rustix::fs::chmod(path, Mode::from_raw_mode(mode))
}

pub(crate) fn chown(path: &str, uid: Option<u32>, gid: Option<u32>) -> Result {
    rustix::fs::chown(path, uid.map(rustix::fs::Uid::from_raw), gid.map(rustix::fs::Gid::from_raw))
}

pub(crate) fn truncate(path: &str, size: i64) -> Result {
    let path = std::ffi::CString::new(path).map_err(|_| rustix::io::Errno::INVAL)?;
    // SAFETY: the path is a C string that outlives the call.
    answer(unsafe { libc::truncate(path.as_ptr(), size) }).map(drop)
}

/// The result of a call of the C library.
pub(crate) fn answer(result: libc::c_int) -> Result<libc::c_int> {
    if result >= 0 { Ok(result) } else { Err(errno(&std::io::Error::last_os_error())) }
}

pub(crate) use rustix::fs::{lstat, stat};

/// The low twelve bits of the mode, in octal.
pub(crate) fn mode(path: &str) -> Result<String> {
    Ok(format!("{:o}", lstat(path)?.st_mode & 0o7777))
}

pub(crate) fn size(path: &str) -> Result<i64> {
    Ok(stat(path)?.st_size)
}

pub(crate) fn links(path: &str) -> Result<u64> {
    Ok(lstat(path)?.st_nlink)
}

pub(crate) fn owner(path: &str) -> Result<String> {
    let stat = lstat(path)?;
    Ok(format!("{}:{}", stat.st_uid, stat.st_gid))
}

/// The letter that `ls -l` shows first.
pub(crate) fn kind(mode: u32) -> char {
    match mode & libc::S_IFMT {
        libc::S_IFREG => '-',
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        _ => '?',
    }
}

/// The names in a folder, in order, with commas between them.
pub(crate) fn names(path: &str) -> Result<String> {
    Ok(list(path)?.join(","))
}

/// The names in a folder, in order.
pub(crate) fn list(path: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| errno(&error))? {
        let entry = entry.map_err(|error| errno(&error))?;
        names.push(String::from_utf8_lossy(entry.file_name().as_bytes()).into_owned());
    }
    names.sort();
    Ok(names)
}

/// A file's times in nanoseconds.
pub(crate) struct Times {
    pub(crate) change: i128,
    pub(crate) modification: i128,
}

impl Times {
    pub(crate) fn of(path: &str) -> Result<Self> {
        Ok(Self::from(&lstat(path)?))
    }

    pub(crate) fn from(stat: &Stat) -> Self {
        // The types of the fields differ between architectures.
        let join = |seconds, nanoseconds| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Self { change: join(stat.st_ctime, stat.st_ctime_nsec), modification: join(stat.st_mtime, stat.st_mtime_nsec) }
    }

    /// Which of the times have grown since `before`: `-`, or some of `m` and `c`.
    pub(crate) fn since(&self, before: &Self) -> String {
        let mut text = String::new();
        for (letter, now, then) in [('m', self.modification, before.modification), ('c', self.change, before.change)] {
            match now.cmp(&then) {
                std::cmp::Ordering::Greater => text.push(letter),
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Less => text.push_str(&format!("{letter}-backwards")),
            }
        }
        if text.is_empty() { "-".to_owned() } else { text }
    }
}

/// Lets more time pass than any clock of a file system takes to tick.
pub(crate) fn later() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Which times of `path` change while `work` is done.
pub(crate) fn touched(path: &str, work: impl FnOnce() -> Result) -> Result<String> {
    let before = Times::of(path)?;
    later();
    work()?;
    Ok(Times::of(path)?.since(&before))
}

/// The inode number as statx gives it.
pub(crate) fn inode(path: &str) -> Result<u64> {
    Ok(rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO)?.stx_ino)
}

/// Whether something has this name.
pub(crate) fn there(path: &str) -> bool {
    lstat(path).is_ok()
}

/// Bytes that look random and are the same on every run.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(length).collect()
}

/// Numbers that look random and are the same on every run (xorshift64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap_or(0)
    }
}
