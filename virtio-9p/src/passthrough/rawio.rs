//! System calls on raw memory or raw structs: vectored I/O, directory entries, open-file-description locks; and one
//! that has no other wrapper.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::errno::Errno;
use crate::fs::LockRange;
use crate::segment::{IoVectors, Readable, View, Writable};
use crate::wire::LockType;

/// Size of a page in bytes, or a part of one.
const PAGE: libc::off_t = 4096;

/// Turns the result of a call into a byte count.
#[inline]
fn counted(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::last())
}

#[inline]
fn retry(mut call: impl FnMut() -> Result<usize, Errno>) -> Result<usize, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// Moves `len` bytes by calls that each move the piece at a position; ends at the first short one. An error after the
/// first call that moved something is left for the client's next request to find.
fn pieces(len: usize, mut call: impl FnMut(usize) -> Result<(usize, usize), Errno>) -> Result<usize, Errno> {
    let mut done = 0;
    loop {
        match call(done) {
            Ok((moved, asked)) => {
                done += moved;
                if moved < asked || moved == 0 || done >= len {
                    return Ok(done);
                }
            }
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        }
    }
}

#[inline]
fn file_offset(offset: u64, done: usize) -> Result<libc::off_t, Errno> {
    u64::try_from(done)
        .ok()
        .and_then(|done| offset.checked_add(done))
        .and_then(|offset| libc::off_t::try_from(offset).ok())
        .ok_or(Errno::EINVAL)
}

/// Moves bytes of `data` behind the first `done` by one `call`, with vectors, their number and a position in the file.
/// Returns how many were moved and how many it was given.
#[inline]
fn move_some(
    data: View<'_>,
    offset: u64,
    done: usize,
    call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
) -> Result<(usize, usize), Errno> {
    let mut room = IoVectors::default();
    let (vectors, asked) = data.slice(done, usize::MAX).vectors(&mut room);
    // At most `IO_VECTORS`.
    let count = libc::c_int::try_from(vectors.len()).unwrap_or(0);
    let at = file_offset(offset, done)?;
    let moved = retry(|| counted(call(vectors.as_ptr(), count, at)))?;
    Ok((moved, asked))
}

/// Reads from `offset` straight into `data`; short at the end of the file.
#[inline]
pub(super) fn read(fd: BorrowedFd<'_>, offset: u64, data: &Writable<'_>) -> Result<usize, Errno> {
    let Some((start, len)) = data.whole() else { return read_pieces(fd, offset, data) };
    // The kernel has less to fetch and to check than with a list of pieces.
    let at = file_offset(offset, 0)?;
    retry(|| {
        // SAFETY: the bytes are writable memory by the contract of `Segment::new`, alive as long as `data`.
        counted(unsafe { libc::pread(fd.as_raw_fd(), start.cast(), len, at) })
    })
}

fn read_pieces(fd: BorrowedFd<'_>, offset: u64, data: &Writable<'_>) -> Result<usize, Errno> {
    pieces(data.len(), |done| {
        move_some(data.view(), offset, done, |vectors, count, at| {
            // SAFETY: the vectors describe writable memory by the contract of `Segment::new`, alive as long as `data`.
            unsafe { libc::preadv(fd.as_raw_fd(), vectors, count, at) }
        })
    })
}

/// Writes `data` straight at `offset`.
#[inline]
pub(super) fn write(fd: BorrowedFd<'_>, offset: u64, data: &Readable<'_>) -> Result<usize, Errno> {
    let Some((start, len)) = data.whole() else { return write_pieces(fd, offset, data) };
    // As for reads.
    let at = file_offset(offset, 0)?;
    retry(|| {
        // SAFETY: the bytes are readable memory by the contract of `Segment::new`, alive as long as `data`.
        counted(unsafe { libc::pwrite(fd.as_raw_fd(), start.cast(), len, at) })
    })
}

fn write_pieces(fd: BorrowedFd<'_>, offset: u64, data: &Readable<'_>) -> Result<usize, Errno> {
    pieces(data.len(), |done| {
        move_some(data.view(), offset, done, |vectors, count, at| {
            // SAFETY: the vectors describe readable memory by the contract of `Segment::new`, alive as long as `data`.
            unsafe { libc::pwritev(fd.as_raw_fd(), vectors, count, at) }
        })
    })
}

/// What became of a transfer that must not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Now {
    /// This many bytes were moved.
    Moved(usize),
    /// It would have waited. Some of a read's data may be there.
    WouldWait,
    /// The file system cannot tell.
    Unknown,
}

/// Reads what is in memory, all or nothing: what is cached begins and ends with pages, so a read that ends inside one
/// has met the end of the file.
pub(super) fn read_now(fd: BorrowedFd<'_>, offset: u64, data: &Writable<'_>) -> Result<Now, Errno> {
    let mut done = 0;
    loop {
        let moved = move_some(data.view(), offset, done, |vectors, count, at| {
            // SAFETY: the vectors describe writable memory by the contract of `Segment::new`, alive as long as `data`.
            unsafe { libc::preadv2(fd.as_raw_fd(), vectors, count, at, libc::RWF_NOWAIT) }
        });
        match moved {
            Ok((moved, _)) => {
                done += moved;
                if moved == 0 || done >= data.len() || file_offset(offset, done)? % PAGE != 0 {
                    return Ok(Now::Moved(done));
                }
            }
            Err(Errno::EAGAIN) => return Ok(Now::WouldWait),
            Err(Errno::EOPNOTSUPP) if done == 0 => return Ok(Now::Unknown),
            // An error after a part is left for the client's next request to find.
            Err(_) if done > 0 => return Ok(Now::Moved(done)),
            Err(error) => return Err(error),
        }
    }
}

/// Writes as much as memory takes at once; what it took is written, and a part is a whole answer.
pub(super) fn write_now(fd: BorrowedFd<'_>, offset: u64, data: &Readable<'_>) -> Result<Now, Errno> {
    let written = pieces(data.len(), |done| {
        move_some(data.view(), offset, done, |vectors, count, at| {
            // SAFETY: the vectors describe readable memory by the contract of `Segment::new`, alive as long as `data`.
            unsafe { libc::pwritev2(fd.as_raw_fd(), vectors, count, at, libc::RWF_NOWAIT) }
        })
    });
    match written {
        Ok(written) => Ok(Now::Moved(written)),
        Err(Errno::EAGAIN) => Ok(Now::WouldWait),
        Err(Errno::EOPNOTSUPP) => Ok(Now::Unknown),
        Err(error) => Err(error),
    }
}

/// Appends the next directory entries to `buffer`, within its capacity; nothing at the end of the directory.
pub(super) fn read_entries(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> Result<(), Errno> {
    let room = buffer.spare_capacity_mut();
    let (start, len) = (room.as_mut_ptr(), room.len());
    let filled = retry(|| {
        // SAFETY: the kernel writes at most `len` bytes to `start`, which is the vector's spare capacity.
        let result = unsafe { libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), start, len) };
        usize::try_from(result).map_err(|_| Errno::last())
    })?;
    // SAFETY: the kernel has written `filled` bytes behind the length, within the capacity.
    unsafe { buffer.set_len(buffer.len() + filled) };
    Ok(())
}

/// Whether the process may open the file of an `O_PATH` descriptor.
pub(super) fn may_open(fd: BorrowedFd<'_>, read: bool, write: bool) -> bool {
    let wanted = if read { libc::R_OK } else { 0 } | if write { libc::W_OK } else { 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_EACCESS;
    // SAFETY: the path is an empty string with its terminator.
    unsafe { libc::syscall(libc::SYS_faccessat2, fd.as_raw_fd(), c"".as_ptr(), wanted, flags) == 0 }
}

fn description(kind: LockType, range: LockRange) -> Result<libc::flock, Errno> {
    let kind = match kind {
        LockType::READ => libc::F_RDLCK,
        LockType::WRITE => libc::F_WRLCK,
        _ => libc::F_UNLCK,
    };
    // SAFETY: all-zero bytes are a valid `flock`.
    let mut flock: libc::flock = unsafe { std::mem::zeroed() };
    flock.l_type = libc::c_short::try_from(kind).map_err(|_| Errno::EINVAL)?;
    flock.l_whence = libc::c_short::try_from(libc::SEEK_SET).map_err(|_| Errno::EINVAL)?;
    flock.l_start = range.start.try_into().map_err(|_| Errno::EINVAL)?;
    flock.l_len = range.wire_length().try_into().map_err(|_| Errno::EINVAL)?;
    Ok(flock)
}

/// Takes or releases a lock of the open file description without waiting; false if another lock is in the way.
pub(super) fn set_lock(fd: BorrowedFd<'_>, kind: LockType, range: LockRange) -> Result<bool, Errno> {
    let flock = description(kind, range)?;
    let result = retry(|| {
        // SAFETY: the call reads the struct alone.
        let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const flock) };
        usize::try_from(result).map_err(|_| Errno::last())
    });
    match result {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The lock that keeps the open file description from taking one.
pub(super) fn test_lock(
    fd: BorrowedFd<'_>,
    kind: LockType,
    range: LockRange,
) -> Result<Option<(LockType, LockRange)>, Errno> {
    let mut flock = description(kind, range)?;
    retry(|| {
        // SAFETY: the call reads and writes the struct alone.
        let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut flock) };
        usize::try_from(result).map_err(|_| Errno::last())
    })?;
    let kind = match libc::c_int::from(flock.l_type) {
        libc::F_UNLCK => return Ok(None),
        libc::F_RDLCK => LockType::READ,
        _ => LockType::WRITE,
    };
    let start = u64::try_from(flock.l_start).map_err(|_| Errno::EIO)?;
    let length = u64::try_from(flock.l_len).map_err(|_| Errno::EIO)?;
    Ok(Some((kind, LockRange::from_wire(start, length)?)))
}
