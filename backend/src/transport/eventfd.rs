//! Eventfds of a front end's, read and written without waiting for it.
//!
//! A front end keeps the other end of the same open file: it can fill or empty the counter, and make the descriptor one that
//! blocks. Whoever writes then waits until somebody reads, or the other way round, and nobody has to.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::{Errno, ReadWriteFlags, preadv2, read};

/// Takes `fd` if it can serve as an eventfd: something without a file behind it, so that writing waits for no file system.
pub(super) fn adopt(fd: OwnedFd) -> io::Result<OwnedFd> {
    if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::Unknown {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an eventfd"));
    }
    fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
    Ok(fd)
}

/// Adds one to the counter, unless it is so full that this would wait. It is readable then anyway.
///
/// The kernel has no write that refuses to wait whatever the descriptor says: a front end that both makes its own block and
/// fills it between two calls here has its queue wait, until it reads or the daemon ends.
pub(super) fn fire(eventfd: &OwnedFd) {
    if is_ready(eventfd, PollFlags::OUT) {
        let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
    }
}

/// Empties the counter.
///
/// # Errors
/// `WouldBlock` if it is empty already, whether the descriptor is one that blocks or not.
pub(super) fn take(eventfd: impl AsFd) -> io::Result<()> {
    let mut counter = [0; 8];
    match preadv2(&eventfd, &mut [IoSliceMut::new(&mut counter)], u64::MAX, ReadWriteFlags::NOWAIT) {
        // Before Linux 5.8.
        Err(Errno::OPNOTSUPP) if is_ready(&eventfd, PollFlags::IN) => read(&eventfd, &mut counter)?,
        Err(Errno::OPNOTSUPP) => return Err(Errno::AGAIN.into()),
        taken => taken?,
    };
    Ok(())
}

/// Whether the counter allows at once what `flag` says.
fn is_ready(eventfd: impl AsFd, flag: PollFlags) -> bool {
    let mut ready = [PollFd::new(&eventfd, flag)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ready, Some(&at_once)) == Ok(1) && ready[0].revents().contains(flag)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An eventfd that blocks, and whose counter takes no more.
    pub(crate) fn full_and_blocking() -> OwnedFd {
        let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        fd
    }

    #[test]
    fn files_and_sockets_are_refused() {
        let file = tempfile::tempfile().unwrap();
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let (_, pipe) = rustix::pipe::pipe().unwrap();
        for fd in [file.into(), socket.into(), pipe] {
            assert!(adopt(fd).is_err());
        }
    }

    #[test]
    fn a_full_counter_is_left_alone_even_if_it_was_made_to_block_again() {
        let fd = adopt(full_and_blocking()).unwrap();
        fcntl_setfl(&fd, OFlags::empty()).unwrap();
        fire(&fd);
        let mut counter = [0; 8];
        rustix::io::read(&fd, &mut counter).unwrap();
        fire(&fd);
        rustix::io::read(&fd, &mut counter).unwrap();
        assert_eq!(u64::from_ne_bytes(counter), 1);
    }
}
