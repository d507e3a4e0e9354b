//! The running daemon: devices built from a configuration, their sockets, and the supervisor that owns both.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use frontend_spec::ninep::MountTag;
use log::{info, warn};
use virtio_9p::{Options, Passthrough, PassthroughOptions, Server};

use crate::config::{ConfigError, ServeConfig, ShareConfig};
use crate::device::PollPolicy;
use crate::device::iommu::{Iommu, IommuDevice};
use crate::device::share::{Attachment, ShareDevice};
use crate::supervisor::{Port, StopHandle, Supervisor};
use crate::transport::Device;
use crate::transport::socket::{BindError, BoundSocket};
use crate::transport::vhost_user::RingWindow;

/// Largest 9P message offered. Linux uses at most 512,000 bytes over virtio.
const MAX_MESSAGE: u32 = 1024 * 1024;
/// Descriptors wanted, for all fids together.
const DESCRIPTORS: u64 = 1 << 20;
/// A fid holds one descriptor, and another one while its file is open.
const DESCRIPTORS_PER_FID: u64 = 2;
/// Descriptors kept for sockets, events, guest memory, tables and locks.
const OWN_DESCRIPTORS: u64 = 5000;

/// Why the daemon did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is at fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A socket is not to be had.
    #[error(transparent)]
    Socket(#[from] BindError),
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
    stop: StopHandle,
    thread: Option<JoinHandle<()>>,
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
        let descriptors = raise_descriptor_limit();
        let max_fids = fids_per_share(descriptors, config.shares.len());
        let mut ports = Vec::new();
        let mut iommu = None;
        if let Some(wanted) = &config.iommu {
            let core = Arc::new(Iommu::new(wanted.window, wanted.boot_bypass)?);
            let device: Arc<dyn Device> = Arc::new(IommuDevice::new(core.clone(), config.poll));
            ports.push(Port::new(device, BoundSocket::bind(&wanted.socket)?, None)?);
            iommu = Some(core);
        }
        let mut shares = Vec::new();
        for wanted in &config.shares {
            let device = Arc::new(build_share(wanted, iommu.as_ref(), max_fids, config.poll)?);
            let window = iommu.as_ref().filter(|_| device.is_translated()).map(|iommu| ring_window(iommu));
            ports.push(Port::new(device.clone(), BoundSocket::bind(&wanted.socket)?, window)?);
            shares.push((wanted.tag.clone(), device));
        }
        // The modes of new files are the guest's to choose.
        rustix::process::umask(rustix::fs::Mode::empty());
        let counters = counters(iommu.clone(), shares.clone());
        let (supervisor, stop) = Supervisor::new(ports, signals == Signals::Handle, counters)?;
        let thread = std::thread::Builder::new().name("supervisor".to_owned()).spawn(move || supervisor.run())?;
        Ok(Self { iommu, shares, stop, thread: Some(thread) })
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

    /// Waits until a signal stops the daemon.
    pub fn wait(mut self) {
        self.join();
    }

    /// Stops serving: connections are closed, sockets removed.
    pub fn stop(mut self) {
        self.stop.stop();
        self.join();
    }

    fn join(&mut self) {
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            warn!("the supervisor ended abnormally");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop.stop();
            self.join();
        }
    }
}

fn build_share(
    wanted: &ShareConfig,
    iommu: Option<&Arc<Iommu>>,
    max_fids: usize,
    poll: PollPolicy,
) -> Result<ShareDevice, StartError> {
    let root = Passthrough::new(&wanted.path, PassthroughOptions::default())
        .map_err(|cause| StartError::Share { tag: wanted.tag.clone(), cause: cause.to_string() })?;
    let mut options = Options::default();
    options.max_msize = MAX_MESSAGE;
    options.readonly = wanted.readonly;
    options.max_fids = options.max_fids.min(max_fids);
    let server = Server::new(root, options);
    let attachment = match (wanted.iommu, wanted.endpoint, iommu) {
        (true, Some(endpoint), Some(iommu)) => Attachment::Behind {
            iommu: iommu.clone(),
            endpoint: endpoint.endpoint_id(),
            phb: iommu.add_endpoint(endpoint.endpoint_id())?,
        },
        _ => Attachment::Direct,
    };
    Ok(ShareDevice::new(&wanted.tag, server, MAX_MESSAGE, attachment, poll))
}

/// Where the rings of a share behind `iommu` can lie.
fn ring_window(iommu: &Iommu) -> RingWindow {
    RingWindow::new(iommu.window(), iommu.reserved().iter().map(|region| (region.first, region.last)))
}

/// What SIGUSR1 and the end of the daemon write to the log.
fn counters(iommu: Option<Arc<Iommu>>, shares: Vec<(MountTag, Arc<ShareDevice>)>) -> Box<dyn Fn() + Send> {
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
    })
}

/// How many fids each of `shares` may have so that all together leave the daemon descriptors of its own.
fn fids_per_share(descriptors: u64, shares: usize) -> usize {
    let for_fids = (descriptors - OWN_DESCRIPTORS.min(descriptors / 4)) / DESCRIPTORS_PER_FID;
    usize::try_from(for_fids).unwrap_or(usize::MAX) / shares.max(1)
}

/// Raises the soft limit of open files as far as it is useful and allowed; returns what it is then.
fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        if let Err(cause) = setrlimit(Resource::Nofile, raised) {
            warn!("cannot raise the limit of open files to {wanted}: {cause}");
            return limit.current.unwrap_or(wanted);
        }
    }
    wanted
}
