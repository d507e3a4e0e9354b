//! The running daemon: devices built from a configuration, their sockets, and the supervisor that owns both.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use frontend_spec::ninep::MountTag;
use log::{info, warn};
use virtio_9p::{FileSystem, Options, Passthrough, PassthroughOptions, Server};

use crate::config::{ConfigError, Content, IommuConfig, ServeConfig, ShareConfig};
use crate::descriptors::{self, TooManyDescriptors};
use crate::device::SideCore;
use crate::device::iommu::{Iommu, IommuDevice};
use crate::device::share::{Attachment, ShareDevice};
use crate::listen::{self, Clients, ListenAddress, ListenError, ListenLimits, ListenPort, Listener, Listening};
use crate::state::{self, Sources};
use crate::supervisor::{Port, Protocol, StopHandle, Supervisor};
use crate::transport::socket::{BindError, BoundSocket};
use crate::transport::vhost_user::RingWindow;
use crate::transport::{Device, TransportKind};

/// Why the daemon did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is at fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The shares ask for more than the process may have.
    #[error(transparent)]
    Descriptors(#[from] TooManyDescriptors),
    /// A socket is not to be had.
    #[error(transparent)]
    Socket(#[from] BindError),
    /// A stream address is not to be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A folder cannot be shared.
    #[error("share {tag}: {cause}")]
    Share {
        /// The share.
        tag: MountTag,
        /// Why.
        cause: String,
    },
    /// The system refuses memory, threads or descriptors.
    #[error("the system refuses: {0}")]
    System(#[from] io::Error),
}

/// A running daemon. Dropping it stops it.
pub struct Daemon {
    iommu: Option<Arc<Iommu>>,
    shares: Vec<(MountTag, Arc<ShareDevice>)>,
    listening: Option<Arc<Listening>>,
    stop: StopHandle,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// How the daemon sits in its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signals {
    /// SIGTERM and SIGINT stop it and SIGUSR1 logs its counters. They must be blocked in every thread; see
    /// [`crate::supervisor::block_signals`].
    Handle,
    /// Signals belong to the rest of the process.
    Leave,
}

impl Daemon {
    /// Checks `config`, builds the devices, binds all sockets, and starts serving.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then, and no socket is left.
    pub fn start(config: &ServeConfig, signals: Signals) -> Result<Self, StartError> {
        config.validate()?;
        let descriptors = descriptors::shares_of(config, descriptors::raise_limit())?;
        let side_core = SideCore::new(config.poll);
        let mut ports = Vec::new();
        let mut iommu = None;
        if let Some(wanted) = &config.iommu {
            let core = Arc::new(Iommu::with_reserved(wanted.window, wanted.boot_bypass, &holes(wanted))?);
            let device = IommuDevice::new(core.clone(), config.poll).with_mechanisms(config.mechanisms);
            let device: Arc<dyn Device> = device.joined(&side_core);
            ports.push(Port::new(device, BoundSocket::open(&wanted.socket)?, protocol(wanted.transport, None))?);
            iommu = Some(core);
        }
        let mut shares = Vec::new();
        let mut streams = Vec::new();
        let clients = Arc::new(Clients::new(ListenLimits::default()));
        for (wanted, descriptors) in config.shares.iter().zip(descriptors) {
            let Content::Folder(path) = &wanted.content else { continue };
            let files = open_folder(wanted, path, descriptors)?;
            for address in &wanted.listen {
                let files = files.for_another_session();
                streams.push(stream_port(wanted, address, move || files.for_another_session())?);
            }
            let Some(socket) = &wanted.socket else { continue };
            let device = build_share(wanted, files, iommu.as_ref(), config, &side_core)?;
            ports.push(share_port(wanted, device.clone(), socket, iommu.as_deref())?);
            shares.push((wanted.tag.clone(), device));
        }
        for wanted in config.shares.iter().filter(|share| share.content == Content::State) {
            let (devices, clients) = (shares.clone(), clients.clone());
            let files = state::tree(&Sources { config: config.clone(), iommu: iommu.clone(), devices, clients });
            for address in &wanted.listen {
                let files = files.clone();
                streams.push(stream_port(wanted, address, move || files.clone())?);
            }
            let Some(socket) = &wanted.socket else { continue };
            let device = build_share(wanted, files, iommu.as_ref(), config, &side_core)?;
            ports.push(share_port(wanted, device, socket, iommu.as_deref())?);
        }
        // The modes of new files are the guest's to choose.
        rustix::process::umask(rustix::fs::Mode::empty());
        let listening = match streams.len() {
            0 => None,
            _ => Some(Arc::new(Listening::start(streams, clients)?)),
        };
        let counters = counters(iommu.clone(), shares.clone(), listening.clone());
        let (supervisor, stop) = Supervisor::new(ports, signals == Signals::Handle, counters)?;
        let supervisor = supervisor.with_listening(listening.clone());
        let thread = std::thread::Builder::new().name("supervisor".to_owned()).spawn(move || supervisor.run())?;
        Ok(Self { iommu, shares, listening, stop, thread: Some(thread) })
    }

    /// The IOMMU, if the daemon has one.
    #[must_use]
    pub fn iommu(&self) -> Option<&Arc<Iommu>> {
        self.iommu.as_ref()
    }

    /// The share with this tag.
    #[must_use]
    pub fn share(&self, tag: &str) -> Option<&Arc<ShareDevice>> {
        self.shares.iter().find(|(known, _)| known.as_str() == tag).map(|(_, share)| share)
    }

    /// The shares on stream sockets, if there are any.
    #[must_use]
    pub fn listening(&self) -> Option<&Listening> {
        self.listening.as_deref()
    }

    /// Waits until a signal stops the daemon.
    ///
    /// # Errors
    /// It has ended for another reason: nothing is served any more.
    pub fn wait(mut self) -> io::Result<()> {
        self.join()
    }

    /// Stops serving: connections are closed, sockets removed.
    pub fn stop(self) {
        drop(self);
    }

    fn join(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the supervisor panicked")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop.stop();
            if let Err(cause) = self.join() {
                warn!("{cause}");
            }
        }
    }
}

fn open_folder(wanted: &ShareConfig, path: &Path, descriptors: usize) -> Result<Passthrough, StartError> {
    Passthrough::new(path, passthrough_options(wanted, descriptors))
        .map_err(|cause| StartError::Share { tag: wanted.tag.clone(), cause: cause.to_string() })
}

/// A stream address of a share: each client has a session of its own.
fn stream_port<F: FileSystem>(
    wanted: &ShareConfig,
    address: &ListenAddress,
    files: impl Fn() -> F + Send + 'static,
) -> Result<ListenPort, ListenError> {
    let options = listen::session_options(server_options(wanted));
    Ok(ListenPort::new(wanted.client_name(), Listener::bind(address)?, move || {
        Arc::new(Server::new(files(), options.clone()))
    }))
}

/// A share's device on its socket.
fn share_port<F: FileSystem>(
    wanted: &ShareConfig,
    device: Arc<ShareDevice<F>>,
    socket: &Path,
    iommu: Option<&Iommu>,
) -> Result<Port, StartError> {
    let window = iommu.filter(|_| device.is_translated()).map(ring_window);
    let protocol = protocol(wanted.transport.unwrap_or_default(), window);
    Ok(Port::new(device, BoundSocket::open(socket)?, protocol)?)
}

fn build_share<F: FileSystem>(
    wanted: &ShareConfig,
    files: F,
    iommu: Option<&Arc<Iommu>>,
    config: &ServeConfig,
    side_core: &Arc<SideCore>,
) -> Result<Arc<ShareDevice<F>>, StartError> {
    let server = Server::new(files, server_options(wanted));
    let attachment = match (wanted.iommu, wanted.endpoint, iommu) {
        (true, Some(endpoint), Some(iommu)) => Attachment::Behind {
            iommu: iommu.clone(),
            endpoint: endpoint.endpoint_id(),
            phb: iommu.add_endpoint(endpoint.endpoint_id())?,
        },
        _ => Attachment::Direct,
    };
    let limits = &wanted.limits;
    let device = ShareDevice::new(&wanted.tag, server, limits.msize, attachment, config.poll)?;
    let device = device.with_max_inflight(limits.max_inflight).with_mechanisms(config.mechanisms);
    Ok(device.joined(side_core))
}

fn passthrough_options(wanted: &ShareConfig, descriptors: usize) -> PassthroughOptions {
    let identity = &wanted.identity;
    let mut options = PassthroughOptions::default();
    options.direct_io = wanted.direct;
    options.max_lock_owners = wanted.limits.max_lock_owners.unwrap_or_default();
    options.security = identity.security;
    options.keep_symlinks = identity.keep_symlinks;
    options.uid_map.clone_from(&identity.uid_map);
    options.gid_map.clone_from(&identity.gid_map);
    options.squash = identity.squash;
    options.umask = identity.umask;
    options.per_user = identity.per_user;
    options.max_descriptors = descriptors;
    options
}

fn server_options(wanted: &ShareConfig) -> Options {
    let limits = &wanted.limits;
    let mut options = Options::default();
    options.max_msize = limits.msize;
    options.readonly = wanted.readonly;
    options.max_fids = limits.max_fids;
    options.max_xattr_bytes = limits.max_xattr_bytes;
    options.max_parked_locks = limits.max_parked_locks;
    options
}

/// What is spoken over `transport` for a device whose rings must lie in `window`, where the VMM sees ring addresses.
fn protocol(transport: TransportKind, window: Option<RingWindow>) -> Protocol {
    match transport {
        TransportKind::VhostUser => Protocol::VhostUser(window),
        TransportKind::VfioUser => Protocol::VfioUser,
    }
}

/// What drivers must leave alone besides what is Calgary's.
fn holes(wanted: &IommuConfig) -> Vec<(u64, u64)> {
    wanted.reserved.iter().map(|range| (range.first, range.last)).collect()
}

/// Where the rings of a share behind `iommu` can lie.
fn ring_window(iommu: &Iommu) -> RingWindow {
    RingWindow::new(iommu.window(), iommu.reserved().iter().map(|region| (region.first, region.last)))
}

/// What SIGUSR1 and the end of the daemon write to the log.
fn counters(
    iommu: Option<Arc<Iommu>>,
    shares: Vec<(MountTag, Arc<ShareDevice>)>,
    listening: Option<Arc<Listening>>,
) -> Box<dyn Fn() + Send> {
    Box::new(move || {
        if let Some(iommu) = &iommu {
            let faults = iommu.faults();
            info!(
                "iommu: {:?}, live mappings {}, faults {} ({} not told)",
                iommu.stats().snapshot(),
                iommu.live_mappings(),
                faults.recorded(),
                faults.dropped()
            );
            for (status, count) in iommu.stats().by_status().filter(|(_, count)| *count > 0) {
                info!("iommu: answers with {status}: {count}");
            }
            for (reason, count) in faults.by_reason().filter(|(_, count)| *count > 0) {
                info!("iommu: faults because {reason}: {count}");
            }
            for (domain, mappings) in iommu.mappings_by_domain() {
                info!("iommu: domain {domain}: {mappings} live mappings");
            }
        }
        for (tag, share) in &shares {
            info!("share {tag}: {:?}", share.stats());
        }
        if let Some(listening) = &listening {
            info!("listen: {:?}", listening.clients().stats());
        }
    })
}
