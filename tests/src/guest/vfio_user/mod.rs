//! A virtio-pci device behind a vfio-user socket.

mod client;

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::client::Client;
use super::call::Call;
use super::memory::GuestMemory;
use super::transport::{Doorbell, TransportError, message};
use super::virtio_pci::{PciFunction, VirtioPci};

/// How long to wait for the socket to appear and accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);
/// Region of configuration space, as VFIO numbers them; BARs are 0 to 5.
const CONFIG_REGION: u32 = 7;
/// Interrupts of the kind MSI-X, as VFIO numbers them.
const MSIX: u32 = 2;
const MSIX_CAPABILITY: u8 = 0x11;
const MSIX_ENABLE: u32 = 0x8000_0000;
/// An address is the number of a BAR above this many bits of offset.
const BAR_SHIFT: u32 = 32;

/// A PCI function on the far side of a socket.
pub struct VfioUserFunction {
    socket: PathBuf,
    memory: Arc<GuestMemory>,
    client: Mutex<Client>,
}

impl fmt::Debug for VfioUserFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioUserFunction").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// The device that such a function is.
pub type VfioUserDevice = VirtioPci<VfioUserFunction>;

impl VfioUserDevice {
    /// Connect to `socket`, announce `memory`, switch MSI-X on and reset the device.
    ///
    /// # Errors
    /// [`TransportError`] with what failed.
    pub fn connect(memory: Arc<GuestMemory>, socket: &Path) -> Result<Self, TransportError> {
        let client = Mutex::new(attach(socket, &memory)?);
        let function = VfioUserFunction { socket: socket.to_owned(), memory, client };
        message("switching MSI-X on", function.enable_msix())?;
        Self::begin_with(function)
    }
}

fn attach(socket: &Path, memory: &GuestMemory) -> Result<Client, TransportError> {
    let mut client = connect(socket)?;
    for region in memory.regions() {
        let mapped = client.dma_map(region.file_offset, region.base.0, region.bytes, memory.file());
        message("VFIO_USER_DMA_MAP", mapped)?;
    }
    Ok(client)
}

/// Connect to `socket`, which may not exist yet.
fn connect(socket: &Path) -> Result<Client, TransportError> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return message("VFIO_USER_VERSION", Client::new(stream)),
            Err(cause) if Instant::now() >= deadline => {
                return Err(TransportError::Connect { socket: socket.display().to_string(), cause: cause.to_string() });
            }
            Err(_) => std::thread::sleep(CONNECT_PAUSE),
        }
    }
}

impl VfioUserFunction {
    fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enable_msix(&self) -> io::Result<()> {
        let mut at = self.read_config(0x34)?.to_le_bytes()[0] & 0xfc;
        for _ in 0..48 {
            let [id, next, ..] = self.read_config(at)?.to_le_bytes();
            if id == MSIX_CAPABILITY {
                let value = self.read_config(at)?;
                return self.write_config(at, value | MSIX_ENABLE);
            }
            at = next & 0xfc;
        }
        Err(io::Error::other("the function has no MSI-X"))
    }
}

fn place(address: u64) -> (u32, u64) {
    (u32::try_from(address >> BAR_SHIFT).unwrap_or(u32::MAX), address & ((1 << BAR_SHIFT) - 1))
}

impl PciFunction for VfioUserFunction {
    fn read_config(&self, register: u8) -> io::Result<u32> {
        let mut bytes = [0; 4];
        let offset = u64::from(register & 0xfc);
        self.client().read(CONFIG_REGION, offset, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn write_config(&self, register: u8, value: u32) -> io::Result<()> {
        let offset = u64::from(register & 0xfc);
        self.client().write(CONFIG_REGION, offset, &value.to_le_bytes())
    }

    fn place_bar(&self, index: u8) -> io::Result<u64> {
        Ok(u64::from(index) << BAR_SHIFT)
    }

    fn read(&self, address: u64, bytes: u64) -> io::Result<u64> {
        let mut value = [0; 8];
        self.read_bytes(address, &mut value[..usize::try_from(bytes).unwrap_or(8).min(8)])?;
        Ok(u64::from_le_bytes(value))
    }

    fn write(&self, address: u64, bytes: u64, value: u64) -> io::Result<()> {
        let (bar, offset) = place(address);
        let bytes = usize::try_from(bytes).unwrap_or(8).min(8);
        self.client().write(bar, offset, &value.to_le_bytes()[..bytes])
    }

    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        let (bar, offset) = place(address);
        self.client().read(bar, offset, buffer)
    }

    /// Vector 0 is for configuration changes.
    fn vector(&self, queue: u16) -> Option<u16> {
        Some(queue + 1)
    }

    fn doorbell(&self, queue: u16, address: u64) -> io::Result<Arc<dyn Doorbell>> {
        let call = Call::new()?;
        let (bar, offset) = place(address);
        let mut client = self.client();
        // SAFETY: `call` outlives the borrow.
        let event = unsafe { BorrowedFd::borrow_raw(call.event().as_raw_fd()) };
        client.connect_interrupt(MSIX, u32::from(queue) + 1, event)?;
        Ok(Arc::new(VfioUserDoorbell { kick: client.doorbell(bar, offset)?, call }))
    }

    fn reconnect(&mut self) -> Result<(), TransportError> {
        // The server serves one client at a time.
        self.client().shut_down();
        self.client = Mutex::new(attach(&self.socket, &self.memory)?);
        message("switching MSI-X on", self.enable_msix())
    }
}

/// Kick and interrupt are eventfds.
#[derive(Debug)]
struct VfioUserDoorbell {
    kick: OwnedFd,
    call: Call,
}

impl Doorbell for VfioUserDoorbell {
    fn ring(&self) -> io::Result<()> {
        rustix::io::write(&self.kick, &1_u64.to_ne_bytes())?;
        Ok(())
    }

    fn wait(&self, timeout: Duration) -> io::Result<bool> {
        self.call.wait(timeout)
    }
}
