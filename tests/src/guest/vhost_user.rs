//! The front end of a vhost-user connection, behaving as QEMU's does.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag};
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::address::GuestPhys;
use super::call::Call;
use super::memory::GuestMemory;
use super::queue::{RingBytes, RingPart, RingPlacement};
use super::transport::{Doorbell, F_ACCESS_PLATFORM, Transport, TransportError, message};

/// `VHOST_USER_F_PROTOCOL_FEATURES`: a matter between front end and back end, unknown to the guest.
const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// The pause between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

/// How to connect.
#[derive(Clone, Debug)]
pub struct VhostUserOptions {
    /// The socket the back end listens on.
    pub socket: PathBuf,
    /// Queues the device is known to have. With the protocol feature MQ the back end's own number
    /// replaces it.
    pub queues: usize,
    /// How long to wait for the socket to appear and accept.
    pub connect_timeout: Duration,
    /// Protocol features to accept where offered. BACKEND_REQ brings a channel with it.
    pub protocol_features: VhostUserProtocolFeatures,
    /// Keep `VIRTIO_F_ACCESS_PLATFORM` in SET_FEATURES. QEMU removes it unless it has an IOMMU of
    /// its own, whatever the guest accepted.
    pub keep_access_platform: bool,
}

impl VhostUserOptions {
    /// A connection to `socket` as QEMU makes it, to a device of `queues` queues.
    #[must_use]
    pub fn new(socket: impl AsRef<Path>, queues: usize) -> Self {
        Self {
            socket: socket.as_ref().to_path_buf(),
            queues,
            connect_timeout: Duration::from_secs(10),
            protocol_features: VhostUserProtocolFeatures::MQ
                | VhostUserProtocolFeatures::CONFIG
                | VhostUserProtocolFeatures::REPLY_ACK
                | VhostUserProtocolFeatures::BACKEND_REQ,
            keep_access_platform: false,
        }
    }
}

/// The eventfds of one queue.
#[derive(Debug)]
struct EventDoorbell {
    kick: EventFd,
    call: Call,
}

impl EventDoorbell {
    fn new() -> io::Result<Self> {
        Ok(Self { kick: EventFd::new(EFD_NONBLOCK)?, call: Call::new()? })
    }
}

impl Doorbell for EventDoorbell {
    fn ring(&self) -> io::Result<()> {
        self.kick.write(1)
    }

    fn wait(&self, timeout: Duration) -> io::Result<bool> {
        self.call.wait(timeout)
    }
}

/// A device behind a vhost-user socket.
///
/// Features are sent when the first queue starts, as QEMU does it, together with the memory table.
/// A reboot is [`Transport::stop_queue`] on all queues and a start at base 0; a pause is a stop and
/// a start at the returned base.
pub struct VhostUserDevice {
    options: VhostUserOptions,
    memory: Arc<GuestMemory>,
    frontend: Frontend,
    /// The far end of the back end's own channel; dropping it would close the channel.
    backend_channel: Option<UnixStream>,
    backend_offers: u64,
    protocol: VhostUserProtocolFeatures,
    negotiated: u64,
    running: Vec<bool>,
}

impl std::fmt::Debug for VhostUserDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VhostUserDevice")
            .field("socket", &self.options.socket)
            .field("negotiated", &self.negotiated)
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl VhostUserDevice {
    /// Connect, exchange protocol features and take ownership.
    ///
    /// # Errors
    /// [`TransportError::Connect`] or [`TransportError::Message`].
    pub fn connect(memory: Arc<GuestMemory>, options: VhostUserOptions) -> Result<Self, TransportError> {
        let handshake = Handshake::run(&options)?;
        Ok(Self {
            options,
            memory,
            frontend: handshake.frontend,
            backend_channel: handshake.backend_channel,
            backend_offers: handshake.features,
            protocol: handshake.protocol,
            negotiated: 0,
            running: vec![false; handshake.queues],
        })
    }

    /// The protocol features in use.
    #[must_use]
    pub fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.protocol
    }

    /// Whether the back end got a channel for requests of its own.
    #[must_use]
    pub fn has_backend_channel(&self) -> bool {
        self.backend_channel.is_some()
    }

    /// The bits that SET_FEATURES carries for what was negotiated.
    #[must_use]
    pub fn features_sent(&self) -> u64 {
        let stripped = if self.options.keep_access_platform { 0 } else { F_ACCESS_PLATFORM };
        (self.negotiated & !stripped) | (self.backend_offers & F_PROTOCOL_FEATURES)
    }

    /// The protocol layer, for messages that no VMM sends.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// Send features and memory table: what QEMU does each time the driver becomes ready.
    fn prepare(&mut self) -> Result<(), TransportError> {
        message("VHOST_USER_SET_FEATURES", self.frontend.set_features(self.features_sent()))?;
        let regions: Vec<_> = self
            .memory
            .regions()
            .iter()
            .map(|region| VhostUserMemoryRegionInfo {
                guest_phys_addr: region.base.0,
                memory_size: region.bytes,
                userspace_addr: self.memory.region_host_address(region),
                mmap_offset: region.file_offset,
                mmap_handle: self.memory.file().as_raw_fd(),
            })
            .collect();
        message("VHOST_USER_SET_MEM_TABLE", self.frontend.set_mem_table(&regions).map(drop))
    }

    /// The host address of the RAM whose guest-physical number is the part's device address: the
    /// VMM knows nothing of the translation.
    fn host_address(&self, part: &RingPart, bytes: usize) -> Result<u64, TransportError> {
        let number = GuestPhys(part.device.0);
        self.memory
            .host_address(number, bytes)
            .map_err(|cause| TransportError::RingOutsideRam { address: number.0, cause })
    }

    fn check(&self, index: usize) -> Result<(), TransportError> {
        let count = self.running.len();
        if index < count { Ok(()) } else { Err(TransportError::NoQueue { index, count }) }
    }
}

impl Transport for VhostUserDevice {
    fn offered(&self) -> u64 {
        self.backend_offers & !F_PROTOCOL_FEATURES
    }

    fn negotiate(&mut self, wanted: u64) -> Result<u64, TransportError> {
        self.negotiated = wanted & self.offered();
        Ok(self.negotiated)
    }

    fn queue_count(&self) -> usize {
        self.running.len()
    }

    fn read_config(&mut self, offset: u32, buffer: &mut [u8]) -> Result<(), TransportError> {
        let bytes = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let (_, payload) = message(
            "VHOST_USER_GET_CONFIG",
            self.frontend.get_config(offset, bytes, VhostUserConfigFlags::empty(), buffer),
        )?;
        buffer.copy_from_slice(&payload);
        Ok(())
    }

    fn write_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), TransportError> {
        message("VHOST_USER_SET_CONFIG", self.frontend.set_config(offset, VhostUserConfigFlags::WRITABLE, bytes))
    }

    fn start_queue(
        &mut self,
        index: usize,
        ring: &RingPlacement,
        size: u16,
        base: u16,
    ) -> Result<Arc<dyn Doorbell>, TransportError> {
        self.check(index)?;
        // New ones at each start, as in QEMU: the last user may still listen to the old ones.
        let doorbell = Arc::new(EventDoorbell::new()?);
        let bytes = RingBytes::of(size);
        let config = VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: self.host_address(&ring.descriptors, bytes.descriptors)?,
            used_ring_addr: self.host_address(&ring.used, bytes.used)?,
            avail_ring_addr: self.host_address(&ring.available, bytes.available)?,
            log_addr: None,
        };
        if !self.running.contains(&true) {
            self.prepare()?;
        }
        let frontend = &mut self.frontend;
        message("VHOST_USER_SET_VRING_NUM", frontend.set_vring_num(index, size))?;
        message("VHOST_USER_SET_VRING_BASE", frontend.set_vring_base(index, base))?;
        message("VHOST_USER_SET_VRING_ADDR", frontend.set_vring_addr(index, &config))?;
        message("VHOST_USER_SET_VRING_KICK", frontend.set_vring_kick(index, &doorbell.kick))?;
        message("VHOST_USER_SET_VRING_CALL", frontend.set_vring_call(index, doorbell.call.event()))?;
        message("VHOST_USER_SET_VRING_ENABLE", frontend.set_vring_enable(index, true))?;
        self.running[index] = true;
        Ok(doorbell)
    }

    fn stop_queue(&mut self, index: usize) -> Result<u16, TransportError> {
        self.check(index)?;
        self.running[index] = false;
        message("VHOST_USER_SET_VRING_ENABLE", self.frontend.set_vring_enable(index, false))?;
        let base = message("VHOST_USER_GET_VRING_BASE", self.frontend.get_vring_base(index))?;
        u16::try_from(base).map_err(|_| TransportError::Message {
            message: "VHOST_USER_GET_VRING_BASE",
            cause: format!("{base} is no index of a split ring"),
        })
    }

    fn reconnect(&mut self) -> Result<(), TransportError> {
        self.running.fill(false);
        // A back end that serves one connection at a time must first see this one end.
        let (stub, _) = UnixStream::pair()?;
        self.frontend = Frontend::from_stream(stub, 0);
        self.backend_channel = None;
        let handshake = Handshake::run(&self.options)?;
        self.frontend = handshake.frontend;
        self.backend_channel = handshake.backend_channel;
        self.backend_offers = handshake.features;
        self.protocol = handshake.protocol;
        if self.negotiated & !self.offered() != 0 {
            return Err(TransportError::Missing("the features it offered before the connection was lost"));
        }
        Ok(())
    }
}

/// What comes before any queue.
struct Handshake {
    frontend: Frontend,
    features: u64,
    protocol: VhostUserProtocolFeatures,
    queues: usize,
    backend_channel: Option<UnixStream>,
}

impl Handshake {
    fn run(options: &VhostUserOptions) -> Result<Self, TransportError> {
        let stream = connect(&options.socket, options.connect_timeout)?;
        let mut frontend = Frontend::from_stream(stream, options.queues as u64);
        let features = message("VHOST_USER_GET_FEATURES", frontend.get_features())?;
        let mut protocol = VhostUserProtocolFeatures::empty();
        let mut queues = options.queues;
        let mut backend_channel = None;
        if features & F_PROTOCOL_FEATURES != 0 {
            let offered = message("VHOST_USER_GET_PROTOCOL_FEATURES", frontend.get_protocol_features())?;
            protocol = offered & options.protocol_features;
            message("VHOST_USER_SET_PROTOCOL_FEATURES", frontend.set_protocol_features(protocol))?;
            if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
                frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            }
            if protocol.contains(VhostUserProtocolFeatures::MQ) {
                let count = message("VHOST_USER_GET_QUEUE_NUM", frontend.get_queue_num())?;
                queues = usize::try_from(count).unwrap_or(usize::MAX);
            }
            if protocol.contains(VhostUserProtocolFeatures::BACKEND_REQ) {
                let (ours, theirs) = UnixStream::pair()?;
                message("VHOST_USER_SET_BACKEND_REQ_FD", frontend.set_backend_request_fd(&theirs))?;
                backend_channel = Some(ours);
            }
        }
        message("VHOST_USER_SET_OWNER", frontend.set_owner())?;
        Ok(Self { frontend, features, protocol, queues, backend_channel })
    }
}

/// Connect to `socket`, which may not exist yet.
fn connect(socket: &Path, timeout: Duration) -> Result<UnixStream, TransportError> {
    let deadline = Instant::now() + timeout;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => {
                return Err(TransportError::Connect { socket: socket.display().to_string(), cause: error.to_string() });
            }
            Err(_) => std::thread::sleep(CONNECT_PAUSE),
        }
    }
}
