//! Messages on a stream.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use frontend_spec::provider::{Header, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A bound, not an expectation.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What came.
pub(crate) struct Message {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn send(stream: &mut UnixStream, request: Request, reply: bool, need_reply: bool, payload: &[u8]) {
    let size = u32::try_from(payload.len()).unwrap();
    let header = Header { request, reply, need_reply, size };
    stream.write_all(&[&header.encode()[..], payload].concat()).unwrap();
}

pub(crate) fn receive(stream: &mut UnixStream) -> io::Result<Message> {
    let mut bytes = [0; Header::SIZE];
    stream.read_exact(&mut bytes)?;
    let header = Header::decode(bytes).map_err(io::Error::other)?;
    let mut payload = vec![0; header.size as usize];
    stream.read_exact(&mut payload)?;
    Ok(Message { header, payload })
}

/// Whether something waits on `stream` now.
pub(crate) fn readable(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
}

/// Waits for either stream; whether it is the first.
pub(crate) fn waiting(first: &UnixStream, second: &UnixStream) -> bool {
    let mut fds = [PollFd::new(first, PollFlags::IN), PollFd::new(second, PollFlags::IN)];
    let limit = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap(), tv_nsec: 0 };
    assert!(poll(&mut fds, Some(&limit)).unwrap() > 0, "neither socket nor channel has anything to say");
    // What was sent on the channel before the answer must be taken before it.
    fds[1].revents().is_empty()
}
