//! A connected stream socket that never blocks for longer than it is told.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

/// See the module.
#[derive(Debug)]
pub(super) struct Stream(OwnedFd);

impl Stream {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Ends both directions, from any thread: whoever waits on the stream wakes up and sees its end.
    pub(super) fn close(&self) {
        // It may have ended by itself.
        let _ = shutdown(&self.0, Shutdown::Both);
    }

    /// Waits for bytes to read, or the end; false if there are none after `limit`.
    pub(super) fn wait_readable(&self, limit: Option<Duration>) -> io::Result<bool> {
        self.wait(PollFlags::IN, limit)
    }

    /// Reads what is there; 0 is the end. `WouldBlock` if nothing is there.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (read, _) = rustix::io::retry_on_intr(|| recv(&self.0, &mut *buffer, RecvFlags::DONTWAIT))?;
        Ok(read)
    }

    /// Writes all of `bytes`; `TimedOut` if the peer has not taken them after `limit`.
    pub(super) fn write_all(&self, mut bytes: &[u8], limit: Duration) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut deadline = None;
        while !bytes.is_empty() {
            match send(&self.0, bytes, flags) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + limit);
                    let left = deadline.saturating_duration_since(Instant::now());
                    if !self.wait(PollFlags::OUT, Some(left))? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(cause) => return Err(cause.into()),
            }
        }
        Ok(())
    }

    fn wait(&self, for_what: PollFlags, limit: Option<Duration>) -> io::Result<bool> {
        let limit = limit.map(|limit| Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }));
        let mut socket = [PollFd::from_borrowed_fd(self.0.as_fd(), for_what)];
        match poll(&mut socket, limit.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            // As good as ready: whoever waits looks again.
            Err(Errno::INTR) => Ok(true),
            Err(cause) => Err(cause.into()),
        }
    }
}
