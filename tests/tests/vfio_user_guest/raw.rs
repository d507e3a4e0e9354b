//! A client that says anything.

use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use calgary_tests::guest::virtio_pci::{PciFunction, VirtioPci};
use calgary_tests::guest::{Doorbell, GuestMemory};
use calgaryd::transport::vfio_user::wire::{Command, flag};
use std::os::fd::AsRawFd;
use tempfile::TempDir;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// A bound, not an expectation: an answer that does not come is a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// Region of configuration space.
pub(crate) const CONFIG: u32 = 7;
/// What every connection begins with.
const VERSION: &[u8] = b"\0\0\0\0{\"capabilities\":{\"max_msg_fds\":8}}\0";

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) id: u16,
    /// 0 if it succeeded.
    pub(crate) errno: u32,
    pub(crate) payload: Vec<u8>,
}

/// The connection.
#[derive(Debug)]
pub(crate) struct RawClient {
    stream: UnixStream,
    next_id: u16,
}

impl RawClient {
    /// Connects to `socket`, which a daemon of this process listens on, and agrees on the version.
    pub(crate) fn connect(socket: &Path) -> Self {
        let mut client = Self::silent(socket);
        let answer = client.ask(Command::Version, VERSION, &[]);
        assert_eq!(answer.errno, 0);
        client
    }

    /// Connects and says nothing.
    pub(crate) fn silent(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, next_id: 100 }
    }

    /// Sends bytes as they are.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends a command whose header says the truth; returns its id.
    pub(crate) fn send(&mut self, command: u16, flags: u32, payload: &[u8], fds: &[RawFd]) -> u16 {
        self.next_id = self.next_id.wrapping_add(1);
        let size = u32::try_from(16 + payload.len()).unwrap();
        let mut bytes = [self.next_id.to_ne_bytes(), command.to_ne_bytes()].concat();
        bytes.extend([size, flags, 0].iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend_from_slice(payload);
        let sent = self.stream.send_with_fds(&[&bytes[..]], fds).unwrap();
        self.say(&bytes[sent..]);
        self.next_id
    }

    /// The next answer.
    pub(crate) fn receive(&mut self) -> Answer {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header).expect("an answer");
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        let mut payload = vec![0; usize::try_from(word(4)).unwrap() - 16];
        self.stream.read_exact(&mut payload).unwrap();
        let failed = word(8) == flag::REPLY | flag::ERROR;
        assert!(failed || word(8) == flag::REPLY, "flags {:#x}", word(8));
        assert_eq!(failed, word(12) != 0);
        Answer { id: u16::from_ne_bytes([header[0], header[1]]), errno: word(12), payload }
    }

    pub(crate) fn ask(&mut self, command: Command, payload: &[u8], fds: &[RawFd]) -> Answer {
        let id = self.send(command as u16, 0, payload, fds);
        let answer = self.receive();
        assert_eq!(answer.id, id, "the answer to another command");
        answer
    }

    /// Whether the server has ended the connection; what it still sends is read.
    pub(crate) fn is_over(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(cause) => cause.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    pub(crate) fn read(&mut self, region: u32, offset: u64, count: u32) -> Result<Vec<u8>, u32> {
        let answer = self.ask(Command::RegionRead, &access(region, offset, count, &[]), &[]);
        if answer.errno == 0 { Ok(answer.payload[16..].to_vec()) } else { Err(answer.errno) }
    }

    pub(crate) fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), u32> {
        let count = u32::try_from(data.len()).unwrap();
        let answer = self.ask(Command::RegionWrite, &access(region, offset, count, data), &[]);
        if answer.errno == 0 { Ok(()) } else { Err(answer.errno) }
    }

    /// Announces all of `memory`.
    pub(crate) fn map(&mut self, memory: &GuestMemory) {
        for region in memory.regions() {
            let payload = dma_map(3, region.file_offset, region.base.0, region.bytes);
            assert_eq!(self.ask(Command::DmaMap, &payload, &[memory.file().as_raw_fd()]).errno, 0);
        }
    }
}

/// Payload of a region access.
pub(crate) fn access(region: u32, offset: u64, count: u32, data: &[u8]) -> Vec<u8> {
    [&offset.to_ne_bytes()[..], &region.to_ne_bytes(), &count.to_ne_bytes(), data].concat()
}

/// Payload of a DMA map.
pub(crate) fn dma_map(flags: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
    let numbers = [offset, address, size].map(u64::to_ne_bytes).concat();
    [&32_u32.to_ne_bytes()[..], &flags.to_ne_bytes(), &numbers].concat()
}

/// Payload of a DMA unmap.
pub(crate) fn dma_unmap(flags: u32, address: u64, size: u64) -> Vec<u8> {
    [&24_u32.to_ne_bytes()[..], &flags.to_ne_bytes(), &address.to_ne_bytes(), &size.to_ne_bytes()].concat()
}

/// A function driven by a raw client, which others may use meanwhile. It has no interrupts.
#[derive(Clone, Debug)]
pub(crate) struct RawFunction(pub(crate) Arc<Mutex<RawClient>>);

impl RawFunction {
    pub(crate) fn client(&self) -> MutexGuard<'_, RawClient> {
        self.0.lock().unwrap()
    }

    /// The virtio device that it is.
    pub(crate) fn device(&self) -> VirtioPci<Self> {
        VirtioPci::begin_with(self.clone()).unwrap()
    }
}

fn refused(errno: u32) -> io::Error {
    io::Error::other(format!("errno {errno}"))
}

impl PciFunction for RawFunction {
    fn read_config(&self, register: u8) -> io::Result<u32> {
        let bytes = self.client().read(CONFIG, u64::from(register & 0xfc), 4).map_err(refused)?;
        Ok(u32::from_le_bytes(bytes.try_into().unwrap()))
    }

    fn write_config(&self, register: u8, value: u32) -> io::Result<()> {
        self.client().write(CONFIG, u64::from(register & 0xfc), &value.to_le_bytes()).map_err(refused)
    }

    fn place_bar(&self, index: u8) -> io::Result<u64> {
        // The registers are all in one BAR.
        assert_eq!(index, 0);
        Ok(0)
    }

    fn read(&self, address: u64, bytes: u64) -> io::Result<u64> {
        let mut value = [0; 8];
        self.read_bytes(address, &mut value[..usize::try_from(bytes).unwrap()])?;
        Ok(u64::from_le_bytes(value))
    }

    fn write(&self, address: u64, bytes: u64, value: u64) -> io::Result<()> {
        self.client().write(0, address, &value.to_le_bytes()[..usize::try_from(bytes).unwrap()]).map_err(refused)
    }

    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        let count = u32::try_from(buffer.len()).unwrap();
        buffer.copy_from_slice(&self.client().read(0, address, count).map_err(refused)?);
        Ok(())
    }

    fn doorbell(&self, queue: u16, address: u64) -> io::Result<Arc<dyn Doorbell>> {
        Ok(Arc::new(RawDoorbell { function: self.clone(), queue, address }))
    }
}

#[derive(Debug)]
struct RawDoorbell {
    function: RawFunction,
    queue: u16,
    address: u64,
}

impl Doorbell for RawDoorbell {
    fn ring(&self) -> io::Result<()> {
        // Posted, as QEMU does it.
        let payload = access(0, self.address, 2, &self.queue.to_le_bytes());
        self.function.client().send(Command::RegionWrite as u16, flag::NO_REPLY, &payload, &[]);
        Ok(())
    }

    fn wait(&self, _: Duration) -> io::Result<bool> {
        std::thread::yield_now();
        Ok(false)
    }
}

/// A folder with room for a socket.
pub(crate) fn socket() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    (folder, socket)
}
