//! A virtio-pci device behind a vfio-user socket, driven through the client of the crate `vfio_user`, which is the one that
//! cloud-hypervisor has: it waits for the answer to every write.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vfio_user::Client;

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
/// `VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER`.
const CONNECT_EVENTFD: u32 = 1 << 2 | 1 << 5;
const MSIX_CAPABILITY: u8 = 0x11;
const MSIX_ENABLE: u32 = 0x8000_0000;
/// An address is the number of a BAR above this many bits of offset.
const BAR_SHIFT: u32 = 32;

/// A PCI function on the far side of a socket.
pub struct VfioUserFunction {
    socket: PathBuf,
    memory: Arc<GuestMemory>,
    client: Arc<Mutex<Client>>,
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
        let client = Arc::new(Mutex::new(attach(socket, &memory)?));
        let function = VfioUserFunction { socket: socket.to_owned(), memory, client };
        message("switching MSI-X on", function.enable_msix())?;
        Self::begin_with(function)
    }
}

fn attach(socket: &Path, memory: &GuestMemory) -> Result<Client, TransportError> {
    let mut client = connect(socket)?;
    for region in memory.regions() {
        let fd = memory.file().as_raw_fd();
        message("VFIO_USER_DMA_MAP", client.dma_map(region.file_offset, region.base.0, region.bytes, fd))?;
    }
    Ok(client)
}

/// Connect to `socket`, which may not exist yet.
fn connect(socket: &Path) -> Result<Client, TransportError> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    loop {
        match Client::new(socket) {
            Err(vfio_user::Error::Connect(_)) if Instant::now() < deadline => std::thread::sleep(CONNECT_PAUSE),
            Err(vfio_user::Error::Connect(cause)) => {
                return Err(TransportError::Connect { socket: socket.display().to_string(), cause: cause.to_string() });
            }
            result => return message("VFIO_USER_VERSION", result),
        }
    }
}

impl VfioUserFunction {
    /// The client, for messages that no driver causes.
    pub fn client(&self) -> MutexGuard<'_, Client> {
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
        self.client().region_read(CONFIG_REGION, offset, &mut bytes).map_err(io::Error::other)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn write_config(&self, register: u8, value: u32) -> io::Result<()> {
        let offset = u64::from(register & 0xfc);
        self.client().region_write(CONFIG_REGION, offset, &value.to_le_bytes()).map_err(io::Error::other)
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
        self.client().region_write(bar, offset, &value.to_le_bytes()[..bytes]).map_err(io::Error::other)
    }

    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        let (bar, offset) = place(address);
        self.client().region_read(bar, offset, buffer).map_err(io::Error::other)
    }

    /// Vector 0 is for configuration changes.
    fn vector(&self, queue: u16) -> Option<u16> {
        Some(queue + 1)
    }

    fn doorbell(&self, queue: u16, address: u64) -> io::Result<Arc<dyn Doorbell>> {
        let call = Call::new()?;
        let vector = u32::from(queue) + 1;
        let fds = [call.event().as_raw_fd()];
        self.client().set_irqs(MSIX, CONNECT_EVENTFD, vector, 1, &fds).map_err(io::Error::other)?;
        Ok(Arc::new(VfioUserDoorbell { client: Arc::clone(&self.client), address, queue, call }))
    }

    fn reconnect(&mut self) -> Result<(), TransportError> {
        // The server serves one client at a time.
        let _ = self.client().shutdown();
        self.client = Arc::new(Mutex::new(attach(&self.socket, &self.memory)?));
        message("switching MSI-X on", self.enable_msix())
    }
}

/// A kick is a message, an interrupt an eventfd.
struct VfioUserDoorbell {
    client: Arc<Mutex<Client>>,
    address: u64,
    queue: u16,
    call: Call,
}

impl fmt::Debug for VfioUserDoorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioUserDoorbell").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Doorbell for VfioUserDoorbell {
    fn ring(&self) -> io::Result<()> {
        let (bar, offset) = place(self.address);
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        client.region_write(bar, offset, &self.queue.to_le_bytes()).map_err(io::Error::other)
    }

    fn wait(&self, timeout: Duration) -> io::Result<bool> {
        self.call.wait(timeout)
    }
}
