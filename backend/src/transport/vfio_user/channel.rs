//! The socket: whole messages in, whole replies out, with descriptors that never outlive what they came for.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use zerocopy::{FromBytes, IntoBytes};

use super::wire::{Errno, Header, MAX_FDS, MAX_MESSAGE};

/// A message as it came.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) header: Header,
    /// What follows the header.
    pub(super) payload: Vec<u8>,
    /// The descriptors that came with it; closed with the message unless taken.
    pub(super) fds: Vec<OwnedFd>,
    /// More descriptors came than a message may have.
    pub(super) excess_fds: bool,
}

/// Why no further message can be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    /// The client has closed the connection between two messages.
    #[error("the client has left")]
    Closed,
    /// The client has closed the connection within a message.
    #[error("the client has left in the middle of a message")]
    Truncated,
    /// Where the next message begins cannot be known.
    #[error("a message claims to have {0} bytes, where 16 to {MAX_MESSAGE} are possible")]
    Size(u32),
    /// The system says so.
    #[error("the connection failed: {0}")]
    System(#[from] io::Error),
}

/// Both directions of the connection. One thread reads; any may reply.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    /// Held while a reply goes out, so that replies do not mix.
    sending: Mutex<()>,
    is_over: AtomicBool,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, sending: Mutex::new(()), is_over: AtomicBool::new(false) }
    }

    /// Waits for the next message.
    pub(super) fn receive(&self) -> Result<Message, ChannelError> {
        let mut header = [0; Header::SIZE];
        let mut message =
            Message { header: Header::default(), payload: Vec::new(), fds: Vec::new(), excess_fds: false };
        self.fill(&mut header, &mut message, true)?;
        message.header = zerocopy::transmute!(header);
        let size = message.header.size.get();
        let payload = usize::try_from(size)
            .ok()
            .filter(|size| (Header::SIZE..=MAX_MESSAGE).contains(size))
            .map(|size| size - Header::SIZE)
            .ok_or(ChannelError::Size(size))?;
        let mut bytes = vec![0; payload];
        self.fill(&mut bytes, &mut message, false)?;
        message.payload = bytes;
        Ok(message)
    }

    /// Fills `bytes` and collects descriptors.
    fn fill(&self, bytes: &mut [u8], message: &mut Message, start: bool) -> Result<(), ChannelError> {
        let mut done = 0;
        while done < bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut iov = [IoSliceMut::new(&mut bytes[done..])];
            let received = match recvmsg(&self.stream, &mut iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => received,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(ChannelError::System(errno.into())),
            };
            for part in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = part {
                    for fd in fds {
                        if message.fds.len() < MAX_FDS {
                            message.fds.push(fd);
                        } else {
                            message.excess_fds = true;
                        }
                    }
                }
            }
            message.excess_fds |= received.flags.contains(ReturnFlags::CTRUNC);
            if received.bytes == 0 {
                return Err(if start && done == 0 { ChannelError::Closed } else { ChannelError::Truncated });
            }
            done += received.bytes;
        }
        Ok(())
    }

    /// Sends a reply: `header`, then the `parts`, with `fds`. A client that has left learns nothing.
    pub(super) fn reply(&self, header: &Header, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) {
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        let header = header.reply(payload);
        let mut bytes = Vec::with_capacity(Header::SIZE + payload);
        bytes.extend_from_slice(header.as_bytes());
        for part in parts {
            bytes.extend_from_slice(part);
        }
        self.send(&bytes, fds);
    }

    /// Sends a reply that tells of a failure.
    pub(super) fn fail(&self, header: &Header, errno: Errno) {
        self.send(header.failure(errno).as_bytes(), &[]);
    }

    fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let _turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if done == 0 && !fds.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(fds));
            }
            match sendmsg(&self.stream, &[IoSlice::new(&bytes[done..])], &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(sent) => done += sent,
                Err(rustix::io::Errno::INTR) => {}
                // The reading side notices that the client is gone.
                Err(_) => return,
            }
        }
    }

    /// Ends both directions; whoever reads or writes comes back.
    pub(super) fn shut_down(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Whether nobody hears a reply any more.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// Reads a structure from the front of `payload`; the rest comes with it.
pub(super) fn front<T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable>(
    payload: &[u8],
) -> Result<(T, &[u8]), Errno> {
    T::read_from_prefix(payload).map_err(|_| Errno::INVALID)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (Channel, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Channel::new(ours), theirs)
    }

    fn header(size: u32) -> Header {
        Header { id: 1.into(), command: 9.into(), size: size.into(), ..Header::default() }
    }

    #[test]
    fn a_message_may_come_in_pieces_and_ends_where_it_says() {
        let (channel, mut client) = pair();
        let mut bytes = header(20).as_bytes().to_vec();
        bytes.extend_from_slice(b"abcdNEXT");
        let sender = std::thread::spawn(move || {
            for byte in bytes {
                client.write_all(&[byte]).unwrap();
            }
            client
        });
        let message = channel.receive().unwrap();
        assert_eq!(message.payload, b"abcd");
        let _client = sender.join().unwrap();
        let mut rest = [0; 4];
        (&channel.stream).read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"NEXT");
    }

    #[test]
    fn impossible_sizes_end_the_stream() {
        for size in [0, 15, u32::try_from(MAX_MESSAGE).unwrap() + 1, u32::MAX] {
            let (channel, mut client) = pair();
            client.write_all(header(size).as_bytes()).unwrap();
            assert!(matches!(channel.receive(), Err(ChannelError::Size(claimed)) if claimed == size));
        }
    }

    #[test]
    fn an_end_between_messages_is_told_from_one_within() {
        let (channel, client) = pair();
        drop(client);
        assert!(matches!(channel.receive(), Err(ChannelError::Closed)));
        for (size, sent) in [(16, 3), (20, 18)] {
            let (channel, mut client) = pair();
            let bytes = [header(size).as_bytes(), &[0; 4]].concat();
            client.write_all(&bytes[..sent]).unwrap();
            drop(client);
            assert!(matches!(channel.receive(), Err(ChannelError::Truncated)));
        }
    }

    #[test]
    fn descriptors_come_along_up_to_a_bound() {
        let (channel, client) = pair();
        let null = std::fs::File::open("/dev/null").unwrap();
        for count in [3, MAX_FDS + 4] {
            let fds = vec![null.as_fd(); count];
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 4))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
            let bytes = header(16);
            sendmsg(&client, &[IoSlice::new(bytes.as_bytes())], &mut ancillary, SendFlags::empty()).unwrap();
            let message = channel.receive().unwrap();
            assert_eq!(message.fds.len(), count.min(MAX_FDS));
            assert_eq!(message.excess_fds, count > MAX_FDS);
        }
    }

    #[test]
    fn a_client_that_left_does_not_stop_a_reply() {
        let (channel, client) = pair();
        drop(client);
        channel.reply(&header(16), &[b"unheard"], &[]);
    }
}
