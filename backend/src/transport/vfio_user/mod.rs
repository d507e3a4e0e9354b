//! A [`Device`] carried by vfio-user: a virtio function over PCI (virtio 1.2 §4.1), served to a client on a unix socket.
//!
//! ```text
//!   client ──messages──> channel ──> server ──> function ──> registers, config_space, interrupts, dma_maps
//!                           ^                      ├── doorbells ──> queue thread ──> Device::service
//!                           └──late replies── lane <┘                 memory, resets, starts, in order
//! ```
//!
//! Three threads serve a connection. The first reads commands and answers at once what registers can tell. The second, the
//! lane, does what may have to wait for a request in hand. The third serves the queues.
//!
//! Unlike vhost-user, the device learns ring addresses as the guest wrote them, so a translated device may have its rings
//! anywhere in the IOVA window; and it sees the status register and resets. No client reconnects: what a driver said is
//! forgotten with the connection.

mod channel;
mod config_space;
mod dma_maps;
mod doorbells;
mod function;
mod interrupts;
mod lane;
mod layout;
mod registers;
mod server;
mod version;
pub mod wire;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use log::{error, info};

use self::channel::{Channel, ChannelError};
use self::doorbells::{Doorbells, Service};
use self::function::Function;
use self::interrupts::Interrupts;
use self::lane::Lane;
use self::server::Server;
use crate::memory::GuestRam;
use crate::transport::Device;

/// One client's connection to a device. The device outlives it.
pub struct Connection {
    device: Arc<dyn Device>,
    channel: Arc<Channel>,
    server: Server,
    service: Service,
}

impl Connection {
    /// A connection that serves `device` on `stream` once it [runs](Self::run).
    ///
    /// # Errors
    /// No descriptor or thread is left.
    pub fn new(device: Arc<dyn Device>, stream: UnixStream) -> io::Result<Self> {
        let queues = device.identity().queue_sizes.len();
        let channel = Arc::new(Channel::new(stream));
        let interrupts = Interrupts::new(queues);
        let doorbells = Doorbells::new(queues)?;
        let lane = Lane::start(device.clone(), channel.clone(), interrupts.clone(), doorbells.clone())?;
        let service = Service::start(device.clone(), doorbells.clone(), lane.progress.clone())?;
        let function = Function::new(device.clone(), interrupts, doorbells, lane);
        Ok(Self { device, server: Server::new(channel.clone(), function), channel, service })
    }

    /// What ends the connection from another thread.
    #[must_use]
    pub fn ender(&self) -> Ender {
        Ender(Arc::clone(&self.channel))
    }

    /// Serves until the client leaves, then stops the device and lets go of the client's memory.
    pub fn run(self) {
        let Self { device, channel, mut server, service } = self;
        let name = &device.identity().name;
        let end = loop {
            match channel.receive() {
                Ok(message) => server.handle(message),
                Err(end) => break end,
            }
        };
        match end {
            ChannelError::Closed => info!("{name}: the front end has left"),
            cause => error!("{name}: the connection is over: {cause}"),
        }
        // Nobody waits for a reply any more, and none can hold the lane up.
        channel.shut_down();
        // The lane does what waits and stops the queues, which ends the work of the queue thread.
        drop(server);
        drop(service);
        device.set_memory(GuestRam::empty());
        device.reset();
    }
}

/// Ends a [`Connection`].
pub struct Ender(Arc<Channel>);

impl Ender {
    /// The connection reads no further message; returns at once.
    pub fn end(&self) {
        self.0.shut_down();
    }
}
