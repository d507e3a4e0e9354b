//! A client of the vfio-user protocol, as a VMM has one. It kicks by the descriptors that a server offers for its doorbells,
//! as over vhost-user: then a kick is no message.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// Bytes of a message's header.
const HEADER: usize = 16;
/// Most descriptors that are taken with one answer; told to the server.
const MAX_FDS: usize = 8;
/// The header's flags of a command and of its answer.
const COMMAND: u32 = 0;
const ANSWER: u32 = 1;
/// Protocol 0.0 and what this client can do.
const VERSION: &[u8] = b"\0\0\0\0{\"capabilities\":{\"max_msg_fds\":8}}\0";
/// `VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE`.
const READ_WRITE: u32 = 3;
/// `VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER`.
const CONNECT_EVENTFD: u32 = 1 << 2 | 1 << 5;

/// Numbers of commands.
mod command {
    pub(super) const VERSION: u16 = 1;
    pub(super) const DMA_MAP: u16 = 2;
    pub(super) const GET_REGION_IO_FDS: u16 = 6;
    pub(super) const SET_IRQS: u16 = 8;
    pub(super) const REGION_READ: u16 = 9;
    pub(super) const REGION_WRITE: u16 = 10;
}

/// The connection. Each method waits for the answer.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    next_id: u16,
}

impl Client {
    /// Agrees on the version.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        let mut client = Self { stream, next_id: 0 };
        client.ask(command::VERSION, VERSION, None)?;
        Ok(client)
    }

    /// Announces `size` bytes of guest memory at `address`, which are those at `offset` of `file`.
    pub(super) fn dma_map(&mut self, offset: u64, address: u64, size: u64, file: BorrowedFd<'_>) -> io::Result<()> {
        let payload = [&words(&[32, READ_WRITE])[..], &[offset, address, size].map(u64::to_ne_bytes).concat()].concat();
        self.ask(command::DMA_MAP, &payload, Some(file)).map(drop)
    }

    /// Fills `buffer` from `offset` of `region`.
    pub(super) fn read(&mut self, region: u32, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let access = access(region, offset, buffer.len())?;
        let (answer, _) = self.ask(command::REGION_READ, &access, None)?;
        let data = answer.get(access.len()..).filter(|data| data.len() == buffer.len()).ok_or_else(short)?;
        buffer.copy_from_slice(data);
        Ok(())
    }

    /// Writes `data` at `offset` of `region`.
    pub(super) fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        let payload = [&access(region, offset, data.len())?[..], data].concat();
        self.ask(command::REGION_WRITE, &payload, None).map(drop)
    }

    /// Lets interrupt `index` of a kind write to `event`.
    pub(super) fn connect_interrupt(&mut self, kind: u32, index: u32, event: BorrowedFd<'_>) -> io::Result<()> {
        self.ask(command::SET_IRQS, &words(&[20, CONNECT_EVENTFD, kind, index, 1]), Some(event)).map(drop)
    }

    /// The descriptor that stands for a write at `offset` of `region`.
    pub(super) fn doorbell(&mut self, region: u32, offset: u64) -> io::Result<OwnedFd> {
        const ENTRY: usize = 40;
        let room = u32::try_from(HEADER + MAX_FDS * ENTRY).map_err(io::Error::other)?;
        let (answer, fds) = self.ask(command::GET_REGION_IO_FDS, &words(&[room, 0, region, 0]), None)?;
        let index = answer.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY).find_map(|entry| {
            let (at, rest) = entry.split_first_chunk()?;
            let index = u32::from_ne_bytes(*rest[8..].first_chunk()?);
            (u64::from_ne_bytes(*at) == offset).then_some(index)
        });
        let fd = index.and_then(|index| fds.into_iter().nth(usize::try_from(index).ok()?));
        fd.ok_or_else(|| io::Error::other("the server offers no descriptor for this doorbell"))
    }

    /// Ends the connection.
    pub(super) fn shut_down(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Sends a command and waits for its answer: payload and descriptors.
    fn ask(&mut self, command: u16, payload: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        self.next_id = self.next_id.wrapping_add(1);
        let size = u32::try_from(HEADER + payload.len()).map_err(io::Error::other)?;
        let ids = [self.next_id, command].map(u16::to_ne_bytes).concat();
        let message = [&ids[..], &words(&[size, COMMAND, 0]), payload].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if let Some(fd) = &fd {
            ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
        }
        // Far less than a socket's buffer: it goes out whole.
        let sent = sendmsg(&self.stream, &[IoSlice::new(&message)], &mut ancillary, SendFlags::NOSIGNAL)?;
        if sent != message.len() {
            return Err(short());
        }
        let mut fds = Vec::new();
        let mut header = [0; HEADER];
        let got = self.receive(&mut header, &mut fds)?;
        (&self.stream).read_exact(&mut header[got..])?;
        let [size, flags, errno] =
            [4, 8, 12].map(|at| u32::from_ne_bytes(header[at..at + 4].try_into().expect("4 bytes")));
        if header[..4] != ids || flags & 0xf != ANSWER {
            return Err(io::Error::other("an answer to another command"));
        }
        let size = usize::try_from(size).ok().and_then(|size| size.checked_sub(HEADER)).ok_or_else(short)?;
        let mut payload = vec![0; size];
        (&self.stream).read_exact(&mut payload)?;
        match i32::try_from(errno) {
            Ok(0) => Ok((payload, fds)),
            errno => Err(io::Error::from_raw_os_error(errno.unwrap_or(libc::EPROTO))),
        }
    }

    /// Reads once into `bytes`, and takes what descriptors come along.
    fn receive(&self, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received =
            rustix::io::retry_on_intr(|| recvmsg(&self.stream, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags))?;
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                fds.extend(rights);
            }
        }
        Ok(received.bytes)
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// What a region access begins with.
fn access(region: u32, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let count = u32::try_from(bytes).map_err(io::Error::other)?;
    Ok([&offset.to_ne_bytes()[..], &words(&[region, count])].concat())
}

fn short() -> io::Error {
    io::Error::from(io::ErrorKind::UnexpectedEof)
}
