//! `calgaryd serve`.

use std::path::{Path, PathBuf};

use frontend_spec::pci::Bdf;
use iommu_calgary::TableSize;
use log::{info, warn};

use super::Failure;
use crate::config::{AddressRange, Content, IommuConfig, ServeConfig, ShareConfig, parse_share, parse_window};
use crate::daemon::{Daemon, Signals};
use crate::device::{Mechanisms, PollPolicy};
use crate::sandbox::{self, Confinement, Syscalls};
use crate::service_manager;
use crate::supervisor::block_signals;
use crate::transport::TransportKind;

/// Where the IOMMU is unless it is said: 00:05.0.
const IOMMU_AT: Bdf = Bdf::from_u16(5 << 3);
/// Over the options that only make the daemon slower.
const MECHANISMS: &str = "To measure what a mechanism is worth";

/// Serve devices on vhost-user or vfio-user sockets until SIGTERM or SIGINT.
///
/// Each socket takes one VMM at a time and listens again when it leaves. SIGUSR1 writes the counters to the log.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    #[command(flatten)]
    devices: DeviceArgs,
}

impl Args {
    /// The file that says more.
    pub(super) fn config_file(&self) -> Option<&Path> {
        self.devices.config.as_deref()
    }
}

/// The devices, as `serve` and `attach` name them.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct DeviceArgs {
    /// Read options from a TOML file: its keys are options without their dashes, true stands for a switch, a list for
    /// an option that is repeated, and a table [[share]] holds the keys of one --share. Shares add up; of anything else
    /// the command line counts.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// What the process can reach besides the shared folders and its sockets: nothing by landlock (which this kernel must
    /// have); nothing by namespace, which also takes the network away unless a share listens on TCP (needs root or user
    /// namespaces); auto is landlock as far as the kernel has it; none is whatever its user may. All but none drop the
    /// capabilities that the shares do not need.
    #[arg(long, value_name = "KIND", default_value_t)]
    pub(super) sandbox: Confinement,

    /// What happens at a system call that a serving daemon does not make: kill the process, deny the call, log it to the
    /// kernel's audit log, or none of these [default: deny where the kernel can].
    #[arg(long, value_name = "ACTION")]
    pub(super) seccomp: Option<Syscalls>,

    /// Serve a virtio-iommu on this socket. Wherever a socket is named, it is a path to bind, fd:NUMBER for a listening
    /// socket that the process was started with, or systemd:NAME for one that a socket unit with FileDescriptorName=NAME
    /// has passed.
    #[arg(long, value_name = "SOCKET")]
    pub(super) iommu: Option<PathBuf>,

    /// What VMMs speak on the sockets, unless a share or --iommu-transport says otherwise: vhost-user (the VMM has the
    /// device and hands its queues over) or vfio-user (the daemon has the whole PCI function).
    #[arg(long, value_name = "PROTOCOL", default_value_t)]
    pub(super) transport: TransportKind,

    /// What the VMM speaks on the IOMMU's socket.
    #[arg(long, value_name = "PROTOCOL")]
    pub(super) iommu_transport: Option<TransportKind>,

    /// PCI address at which the VMM places the IOMMU [default: 00:05.0].
    #[arg(long, value_name = "BB:DD.F")]
    pub(super) iommu_at: Option<Bdf>,

    /// IOVA space of each domain, from 0: 32M, 64M, 128M, 256M, 512M, 1G, 2G or 4G. With a
    /// vhost-user share behind the IOMMU it must lie inside the guest's RAM below 4 GiB, because such a VMM takes ring
    /// addresses for RAM addresses [default: 256M].
    #[arg(long, value_name = "SIZE", value_parser = parse_window)]
    pub(super) window: Option<TableSize>,

    /// Keep drivers away from these addresses of the window, FIRST-LAST, both inclusive. May repeat. For machines whose RAM
    /// does not begin at 0: 0-0x3fffffff for QEMU's virt.
    #[arg(long = "reserve", value_name = "FIRST-LAST")]
    pub(super) reserved: Vec<AddressRange>,

    /// Let an endpoint reach guest memory untranslated until a driver attaches it, for guests that use the share
    /// before they load an IOMMU driver.
    #[arg(long)]
    pub(super) boot_bypass: bool,

    /// When a thread looks for work itself, in the rings of all devices, so that a request costs no exit and no wake-up:
    /// auto (for up to 100 us while that finds work, never on one processor), off, always, or a time after the last
    /// request (50us, 2ms).
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(super) poll: PollPolicy,

    /// Make each IOMMU request true and answer it by itself, not all that are there at once.
    #[arg(long, help_heading = MECHANISMS)]
    pub(super) no_batching: bool,

    /// Hand file systems each page of a buffer by itself, not neighbouring pages as one piece.
    #[arg(long, help_heading = MECHANISMS)]
    pub(super) no_coalescing: bool,

    /// Copy file data through a buffer of the daemon, not straight between files and the guest's pages.
    #[arg(long, help_heading = MECHANISMS)]
    pub(super) no_zero_copy: bool,

    /// Serve a folder. May repeat. A comma within a value is doubled.
    ///
    /// The device: tag (the guest's mount name, at most 31 bytes), path (the folder), socket,
    /// transport=vhost-user|vfio-user [--transport], endpoint (the device's PCI address BB:DD.F; required behind the
    /// IOMMU), iommu=on|off (on if an endpoint is given), readonly, direct (O_DIRECT of the guest
    /// reaches the host's files).
    ///
    /// state in place of path shows the daemon's own state, read-only: configuration, domains, mappings, counters.
    ///
    /// Without a VMM: listen=unix:PATH or listen=tcp:ADDRESS:PORT serves the same folder to other 9P clients, such as
    /// Linux's trans=unix and trans=tcp; may repeat, and needs no socket=. 9P has no authentication: whoever can connect
    /// has the share. Addresses that other machines can reach need allow-remote.
    ///
    /// Whose files they are: security=passthrough|mapped-xattr|none (where owners and modes are kept, as QEMU names it),
    /// keep-symlinks (with mapped-xattr, links stay links), uid-map and gid-map (GUEST:HOST:COUNT, joined by + or
    /// repeated), squash=UID:GID (one owner for all), umask=0NNN (bits that new files never have), per-user (each request
    /// acts as the user that attached; needs root).
    ///
    /// How much a guest may take: msize (largest message, 4K to 1G) [1M], max-fids [262144], max-descriptors (at least 8;
    /// files beyond are closed and opened again) [an equal part of what the process may open], max-lock-owners (processes
    /// that lock, for each file) [a quarter of the descriptors, 16 to 4096], max-xattr-bytes [64M],
    /// max-parked-locks (locks that wait) [32], max-inflight (requests that wait for slow
    /// files) [32].
    #[arg(
        long = "share",
        value_name = "tag=NAME,path=DIR|state,socket=SOCKET|listen=ADDRESS[,KEY=VALUE...]",
        value_parser = parse_share
    )]
    pub(super) shares: Vec<ShareConfig>,
}

impl DeviceArgs {
    /// The configuration they describe.
    ///
    /// # Errors
    /// A line that names what has no meaning here.
    pub(super) fn config(&self) -> Result<ServeConfig, String> {
        let of_the_iommu = [
            ("--iommu-transport", self.iommu_transport.is_some()),
            ("--iommu-at", self.iommu_at.is_some()),
            ("--window", self.window.is_some()),
            ("--reserve", !self.reserved.is_empty()),
            ("--boot-bypass", self.boot_bypass),
        ];
        if let Some((option, _)) = of_the_iommu.iter().find(|(_, given)| *given && self.iommu.is_none()) {
            return Err(format!(
                "{option} says how the IOMMU is, but there is none; add --iommu SOCKET or leave it out"
            ));
        }
        let iommu = self.iommu.clone().map(|socket| IommuConfig {
            socket,
            transport: self.iommu_transport.unwrap_or(self.transport),
            at: self.iommu_at.unwrap_or(IOMMU_AT),
            window: self.window.unwrap_or(TableSize::MiB256),
            boot_bypass: self.boot_bypass,
            reserved: self.reserved.clone(),
        });
        let mut shares = self.shares.clone();
        for share in &mut shares {
            share.transport.get_or_insert(self.transport);
        }
        let mechanisms =
            Mechanisms { batching: !self.no_batching, coalescing: !self.no_coalescing, zero_copy: !self.no_zero_copy };
        Ok(ServeConfig { iommu, shares, poll: self.poll, mechanisms })
    }
}

/// Serves until a signal.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = args.devices.config().map_err(Failure::Usage)?;
    serve(config, args.devices.sandbox, args.devices.seccomp)
}

/// Serves `config` confined until a signal, and tells the service manager, if there is one, when it begins and ends.
pub(super) fn serve(config: ServeConfig, confinement: Confinement, syscalls: Option<Syscalls>) -> Result<(), Failure> {
    block_signals().map_err(|cause| Failure::Runtime(format!("cannot block signals: {cause}")))?;
    // What cannot be served is said before anything else.
    config.validate().map_err(|cause| Failure::Usage(cause.to_string()))?;
    let confined = sandbox::enter(config, confinement).map_err(|cause| Failure::Usage(cause.to_string()))?;
    let config = &confined.config;
    let daemon = Daemon::start(config, Signals::Handle).map_err(|cause| Failure::Usage(cause.to_string()))?;
    if let Some(iommu) = &config.iommu {
        info!("iommu: {} on {}", iommu.transport, iommu.socket.display());
    }
    for share in &config.shares {
        let Some(socket) = &share.socket else { continue };
        info!(
            "share {}: {} over {} on {}, {}",
            share.tag,
            match &share.content {
                Content::Folder(path) => path.display().to_string(),
                Content::State => "the daemon's state".to_owned(),
            },
            share.transport.unwrap_or_default(),
            socket.display(),
            if share.iommu { "behind the IOMMU" } else { "outside the IOMMU" }
        );
    }
    confined.log();
    match (sandbox::seal(syscalls.unwrap_or_default()), syscalls) {
        (Ok(()), _) => {}
        (Err(cause), Some(_)) => return Err(Failure::Usage(cause.to_string())),
        (Err(cause), None) => warn!("{cause}"),
    }
    service_manager::ready();
    daemon.wait().map_err(|cause| Failure::Runtime(format!("no longer serving: {cause}; start the daemon again")))
}
