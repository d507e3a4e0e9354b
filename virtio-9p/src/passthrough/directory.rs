//! Reading directories: entries come from the kernel in large batches and leave in replies of any size.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::SeekFrom;

use super::Passthrough;
use super::node::FileKind;
use super::open::OpenFile;
use super::rawio;
use super::status::FileId;
use crate::errno::Errno;
use crate::limits::{DIRECTORY_BUFFER, MAX_DIRECTORY_BUFFERS};
use crate::session::lock;
use crate::wire::{DirEntry, Qid, QidType};

/// Counts the buffers that are kept between requests.
#[derive(Debug, Default)]
pub(super) struct Buffers(AtomicUsize);

/// The right to keep a buffer.
#[derive(Debug)]
struct Permit(Arc<Buffers>);

impl Buffers {
    fn permit(self: &Arc<Buffers>) -> Option<Permit> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept| {
                (kept < MAX_DIRECTORY_BUFFERS).then_some(kept + 1)
            })
            .ok()?;
        Some(Permit(self.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a directory's reading stands.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Entries that the kernel gave; those before `at` are done.
    buffer: Vec<u8>,
    at: usize,
    /// The cookie before the entry at `at`; `None` if the descriptor's position is not known.
    next: Option<u64>,
    /// The last reading met the end behind its last entry, without telling the client.
    ended: bool,
    /// Which opening of the descriptor the position is that of.
    opening: u32,
    permit: Option<Permit>,
}

/// An entry as the kernel writes it (`struct linux_dirent64`).
struct HostEntry<'a> {
    inode: u64,
    cookie: u64,
    kind: u8,
    name: &'a [u8],
    len: usize,
}

/// Takes the first entry apart; `None` if the bytes are not one.
fn parse(bytes: &[u8]) -> Option<HostEntry<'_>> {
    let inode = u64::from_ne_bytes(*bytes.first_chunk()?);
    let cookie = u64::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
    let len = usize::from(u16::from_ne_bytes(*bytes.get(16..)?.first_chunk()?));
    let kind = *bytes.get(18)?;
    let name = bytes.get(19..len)?;
    let name = &name[..name.iter().position(|byte| *byte == 0)?];
    Some(HostEntry { inode, cookie, kind, name, len })
}

impl Passthrough {
    pub(super) fn read_directory(
        &self,
        file: &OpenFile,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        if file.inode.kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        // Held to the end, so that it stays the same descriptor with the same position.
        let fd = file.fd()?;
        let mut stream = lock(&file.stream);
        let stream = &mut *stream;
        if stream.opening != file.opening() {
            *stream = Stream { opening: file.opening(), ..Stream::default() };
        }
        // Entries that came since are seen by a later reading.
        if std::mem::take(&mut stream.ended) && stream.next == Some(cookie) {
            return Ok(());
        }
        // A reading from the start sees the directory as it is now.
        if cookie == 0 || stream.next != Some(cookie) {
            stream.buffer = Vec::new();
            stream.at = 0;
            stream.next = None;
            rustix::fs::seek(&fd, SeekFrom::Start(cookie))?;
            stream.next = Some(cookie);
        }
        let result = self.emit_entries(file, fd.as_fd(), stream, emit);
        if stream.at == stream.buffer.len() {
            stream.buffer = Vec::new();
            stream.at = 0;
            stream.permit = None;
        } else if stream.permit.is_none() {
            stream.permit = self.buffers.permit();
            if stream.permit.is_none() {
                *stream = Stream { opening: stream.opening, ..Stream::default() };
            }
        }
        result
    }

    fn emit_entries(
        &self,
        file: &OpenFile,
        fd: BorrowedFd<'_>,
        stream: &mut Stream,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let mut emitted = false;
        loop {
            if stream.at == stream.buffer.len() {
                stream.at = 0;
                stream.buffer.clear();
                stream.buffer.reserve_exact(DIRECTORY_BUFFER);
                match rawio::read_entries(fd, &mut stream.buffer) {
                    // What was found before an error counts; the client's next request will meet the error again.
                    Err(error) if !emitted => return Err(error),
                    Err(_) => return Ok(()),
                    Ok(()) if stream.buffer.is_empty() => {
                        stream.ended = emitted;
                        return Ok(());
                    }
                    Ok(()) => {}
                }
            }
            let Some(entry) = parse(&stream.buffer[stream.at..]) else {
                *stream = Stream { opening: stream.opening, ..Stream::default() };
                return Err(Errno::EIO);
            };
            if !emit(&self.translate(file, &entry)) {
                return Ok(());
            }
            emitted = true;
            stream.next = Some(entry.cookie);
            stream.at += entry.len;
        }
    }

    fn translate<'a>(&self, file: &OpenFile, entry: &HostEntry<'a>) -> DirEntry<'a> {
        let dir = file.inode.id();
        let path = if entry.name == b".." && dir == self.host.root_id {
            // What lies above the root is not the client's business.
            self.qid_path(dir)
        } else {
            self.qid_path(FileId { device: dir.device, inode: entry.inode })
        };
        let kind = match entry.kind {
            libc::DT_DIR => QidType::DIRECTORY,
            libc::DT_LNK => QidType::SYMLINK,
            _ => QidType::FILE,
        };
        // A regular file may stand for something else, as only its attributes tell.
        let unknown = entry.kind == libc::DT_REG && self.host.identity.is_mapped();
        let listed = if unknown { libc::DT_UNKNOWN } else { entry.kind };
        DirEntry { qid: Qid { kind, version: 0, path }, offset: entry.cookie, kind: listed, name: entry.name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_entries_are_refused() {
        let mut bytes = [0_u8; 24];
        bytes[16..18].copy_from_slice(&24_u16.to_ne_bytes());
        bytes[18] = libc::DT_REG;
        bytes[19..21].copy_from_slice(b"ab");
        assert_eq!(parse(&bytes).map(|entry| (entry.name, entry.len)), Some((&b"ab"[..], 24)));
        assert!(parse(&bytes[..20]).is_none());
        bytes[19..].fill(b'x');
        assert!(parse(&bytes).is_none(), "no terminator");
        bytes[16..18].copy_from_slice(&3_u16.to_ne_bytes());
        assert!(parse(&bytes).is_none(), "shorter than its own head");
    }

    #[test]
    fn permits_are_counted_and_come_back() {
        let buffers = Arc::new(Buffers::default());
        let all: Vec<_> = std::iter::from_fn(|| buffers.permit()).collect();
        assert_eq!(all.len(), MAX_DIRECTORY_BUFFERS);
        drop(all);
        assert!(buffers.permit().is_some());
    }
}
