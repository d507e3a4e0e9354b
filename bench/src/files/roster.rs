//! Who takes part.

use std::sync::Arc;

use calgary_tests::guest::iommu::{F_PROBE, IommuOptions};
use calgary_tests::guest::{
    ClientOptions, Direct, DmaMapper, DomainMapper, GuestOptions, Iommu, IovaAllocator, IovaOrder, Mapping,
    NinepClient, Session, ShareOptions,
};

use super::fuse::FuseSubject;
use super::ninep::{CLIENT, CoreChannel, NinepSubject, P9Channel, StreamChannel, VirtioChannel};
use super::plain::Plain;
use super::subject::Subject;
use super::tree::Tree;
use crate::failure::Failure;
use crate::peers::{Daemon, DaemonOptions, Diod, Programs, Qemu, QemuOptions, Virtiofsd};
use crate::scene::Scene;

/// RAM of each guest in MiB; the IOVA window is as large.
const MEMORY_MIB: u64 = 256;
/// That window on the daemon's command line.
const WINDOW: &str = "256M";

/// How far a device is isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Safety {
    /// No IOMMU.
    Off,
    /// Behind the IOMMU, buffers mapped once and kept: what pass-through of a pool costs.
    Kept,
    /// MAP before each request, UNMAPs put off.
    Lazy,
    /// MAP before and UNMAP after each request.
    Strict,
}

impl Safety {
    /// All, least safe first.
    pub(crate) const ALL: [Self; 4] = [Self::Off, Self::Kept, Self::Lazy, Self::Strict];

    /// The daemon's name in reports, with this.
    pub(crate) const fn own_name(self) -> &'static str {
        match self {
            Self::Off => "calgaryd",
            Self::Kept => "calgaryd kept",
            Self::Lazy => "calgaryd lazy",
            Self::Strict => "calgaryd strict",
        }
    }

    /// QEMU's name in reports, with this.
    pub(crate) const fn qemu_name(self) -> &'static str {
        match self {
            Self::Off => "QEMU",
            Self::Kept => "QEMU kept",
            Self::Lazy => "QEMU lazy",
            Self::Strict => "QEMU strict",
        }
    }

    const fn mapping(self) -> Option<Mapping> {
        match self {
            Self::Off => None,
            Self::Kept => Some(Mapping::Kept),
            Self::Lazy => Some(Mapping::Lazy),
            Self::Strict => Some(Mapping::Strict),
        }
    }
}

/// The servers that take part.
#[derive(Clone, Debug)]
pub(crate) struct Roster {
    /// This project's daemon, so isolated.
    pub(crate) own: Vec<Safety>,
    /// QEMU, so isolated by its own IOMMU.
    pub(crate) qemu: Vec<Safety>,
    /// virtiofsd and diod.
    pub(crate) others: bool,
    /// Server cores in this process, and plain system calls.
    pub(crate) in_process: bool,
    /// This project's daemon once more, strict: its name, and a further argument of `calgaryd serve`.
    pub(crate) variants: Vec<(&'static str, String)>,
}

impl Roster {
    /// For a comparison of servers.
    pub(crate) fn comparison() -> Self {
        let own = vec![Safety::Off, Safety::Kept, Safety::Strict];
        Self { own, qemu: vec![Safety::Off], others: true, in_process: true, variants: Vec::new() }
    }

    /// For the price of safety.
    pub(crate) fn safety(variants: &[(String, String)]) -> Self {
        // A handful of names, needed to the end of the process.
        let variants = variants.iter().map(|(name, argument)| (&*name.clone().leak(), argument.clone()));
        let all = Safety::ALL.to_vec();
        Self { own: all.clone(), qemu: all, others: false, in_process: false, variants: variants.collect() }
    }
}

/// Starts every server and opens its session. Peers are left out where there are no programs.
pub(super) fn assemble(
    scene: &Scene<'_>,
    roster: &Roster,
    tree: &Tree,
    directories: &[u32],
) -> Result<Vec<Box<dyn Subject>>, Failure> {
    let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
    for safety in &roster.own {
        scene.steps.say(&format!("files: starting {}", safety.own_name()));
        let channel = own(scene, safety.own_name(), *safety, scene.daemon_args)?;
        subjects.push(Box::new(NinepSubject::open(channel, tree, directories)?));
    }
    for (name, argument) in &roster.variants {
        scene.steps.say(&format!("files: starting calgaryd {argument}"));
        let mut arguments = scene.daemon_args.to_vec();
        arguments.push(argument.clone());
        let channel = own(scene, name, Safety::Strict, &arguments)?;
        subjects.push(Box::new(NinepSubject::open(channel, tree, directories)?));
    }
    if let Some(programs) = scene.programs {
        for safety in &roster.qemu {
            scene.steps.say(&format!("files: starting {}", safety.qemu_name()));
            subjects.push(Box::new(NinepSubject::open(qemu(scene, programs, *safety)?, tree, directories)?));
        }
        if roster.others {
            scene.steps.say("files: starting virtiofsd and diod");
            let place = scene.place(Virtiofsd::NAME)?;
            let virtiofsd = Virtiofsd::start(programs, MEMORY_MIB, scene.folder, scene.cores, &place)?;
            subjects.push(Box::new(FuseSubject::open(virtiofsd, tree, directories)?));
            let diod = Diod::start(programs, scene.folder, scene.cores, &scene.place(Diod::NAME)?)?;
            let channel = StreamChannel::connect(Diod::NAME, diod.server, &diod.socket, scene.folder)?;
            subjects.push(Box::new(NinepSubject::open(channel, tree, directories)?));
        }
    }
    if roster.in_process {
        subjects.push(Box::new(NinepSubject::open(CoreChannel::own(scene.folder)?, tree, directories)?));
        if scene.programs.is_some() {
            subjects.push(Box::new(NinepSubject::open(P9Channel::p9(scene.folder)?, tree, directories)?));
        }
        subjects.push(Box::new(Plain::open(tree, directories)?));
    }
    Ok(subjects)
}

fn own(scene: &Scene<'_>, name: &'static str, safety: Safety, arguments: &[String]) -> Result<VirtioChannel, Failure> {
    let options = DaemonOptions { folder: scene.folder, window: WINDOW, more: arguments };
    let daemon = Daemon::start(&options, scene.cores, &scene.place(name)?)?;
    let translated = safety != Safety::Off;
    let socket = if translated { daemon.translated } else { daemon.direct };
    let mut session = Session::boot(GuestOptions {
        memory_mib: MEMORY_MIB,
        iommu_socket: translated.then_some(daemon.iommu),
        iommu_transport: daemon.transport,
        transport: daemon.transport,
        shares: vec![ShareOptions { socket, endpoint: Daemon::ENDPOINT, translated }],
        mapping: safety.mapping().unwrap_or_default(),
        client: CLIENT,
        // The session is opened by the work's own client.
        msize: 0,
        ..GuestOptions::default()
    })?;
    let share = session.shares.pop().ok_or_else(|| Failure::wrong(name, "no share"))?;
    VirtioChannel::new(name, daemon.server, share.client)
}

fn qemu(scene: &Scene<'_>, programs: &Programs, safety: Safety) -> Result<VirtioChannel, Failure> {
    let name = safety.qemu_name();
    let translated = safety != Safety::Off;
    let options = QemuOptions { memory_mib: MEMORY_MIB, iommu: translated, folder: Some(scene.folder), translated };
    let qemu = Qemu::start(programs, name, &options, scene.cores, &scene.place(name)?)?;
    let mapper: Arc<dyn DmaMapper> = match safety.mapping() {
        None => Arc::new(Direct),
        Some(mapping) => {
            /// As in Linux, the first domain would be for bypass.
            const DOMAIN: u32 = 1;
            let memory = Arc::clone(&qemu.memory);
            let iommu = Iommu::start(Box::new(qemu.iommu()?), memory, &IommuOptions::default())?;
            let reserved = if iommu.features() & F_PROBE == 0 { Vec::new() } else { iommu.probe(Qemu::ENDPOINT)? };
            iommu.attach(DOMAIN, Qemu::ENDPOINT, 0)?;
            // The same window as the daemon's, so that both allocators work alike.
            let iova = IovaAllocator::new(0, (MEMORY_MIB << 20) - 1, &reserved, IovaOrder::TopDown);
            Arc::new(DomainMapper::new(Arc::new(iommu), DOMAIN, iova, mapping))
        }
    };
    let client_options = ClientOptions { translated, ..CLIENT };
    let client = NinepClient::start(Box::new(qemu.share()?), Arc::clone(&qemu.memory), mapper, client_options)?;
    VirtioChannel::new(name, qemu.server, client)
}
