//! Who takes part.

use std::sync::Arc;

use calgary_tests::guest::iommu::{ATTACH_F_BYPASS, F_PROBE, IommuOptions};
use calgary_tests::guest::{
    ClientOptions, Direct, DmaMapper, DomainMapper, GuestOptions, Iommu, IovaAllocator, IovaOrder, NinepClient,
    Session, ShareOptions,
};

use super::contender::Contender;
use super::fuse::FuseSubject;
use super::ninep::{CLIENT, CoreChannel, NinepSubject, P9Channel, StreamChannel, VirtioChannel};
use super::plain::Plain;
use super::safety::{MECHANISMS, Safety};
use super::subject::Subject;
use super::tree::Tree;
use crate::failure::Failure;
use crate::peers::{Absent, Daemon, DaemonOptions, Diod, Programs, Qemu, QemuOptions, Virtiofsd};
use crate::scene::Scene;

/// RAM of each guest in MiB; the IOVA window is as large.
const MEMORY_MIB: u64 = 256;
/// That window on the daemon's command line.
const WINDOW: &str = "256M";

/// This project's daemon, once.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    /// Its name in reports.
    name: &'static str,
    safety: Safety,
    /// Buffers of the client are neighbouring pages.
    contiguous: bool,
    /// A further argument of `calgaryd serve`.
    argument: Option<String>,
}

impl Own {
    fn isolated(safety: Safety) -> Self {
        Self { name: safety.own_name(), safety, contiguous: false, argument: None }
    }
}

/// The servers that take part.
#[derive(Clone, Debug)]
pub(crate) struct Roster {
    own: Vec<Own>,
    /// QEMU, so isolated by its own IOMMU.
    qemu: Vec<Safety>,
    /// virtiofsd and diod.
    others: bool,
    /// Server cores in this process, and plain system calls.
    in_process: bool,
}

impl Roster {
    /// For a comparison of servers.
    pub(crate) fn comparison() -> Self {
        let own =
            [Safety::Off, Safety::Kept, Safety::StrictData, Safety::StrictTogether, Safety::Strict].map(Own::isolated);
        Self { own: own.to_vec(), qemu: vec![Safety::Off], others: true, in_process: true }
    }

    /// For the price of safety: all ways, each mechanism switched off, and strict daemons with the arguments of `variants`.
    pub(crate) fn safety(variants: &[(String, String)]) -> Self {
        let mut own: Vec<Own> = Safety::ALL.map(Own::isolated).to_vec();
        for mechanism in &MECHANISMS {
            let safety = mechanism.safety;
            let with = Own { name: mechanism.with, safety, contiguous: mechanism.contiguous, argument: None };
            if own.iter().all(|known| known.name != with.name) {
                own.push(with.clone());
            }
            own.push(Own { name: mechanism.without, argument: Some(mechanism.argument.to_owned()), ..with });
        }
        // A handful of names, needed to the end of the process.
        own.extend(variants.iter().map(|(name, argument)| Own {
            name: name.clone().leak(),
            safety: Safety::Strict,
            contiguous: false,
            argument: Some(argument.clone()),
        }));
        Self { own, qemu: Safety::ALL.to_vec(), others: false, in_process: false }
    }
}

/// Starts every server and opens its session. Peers are left out where there are no programs; one that does not start is
/// missing, and why is told.
pub(super) fn assemble(
    scene: &Scene<'_>,
    roster: &Roster,
    tree: &Tree,
    directories: &[u32],
) -> Result<(Vec<Contender>, Vec<Absent>), Failure> {
    let mut contenders = Vec::new();
    let mut absent = Vec::new();
    for wanted in &roster.own {
        scene.steps.say(&format!("files: starting {}", wanted.name));
        contenders.push(Contender::ours(NinepSubject::open(own(scene, wanted)?, tree, directories)?));
    }
    let mut peer = |name: &'static str, started: Result<Box<dyn Subject>, Failure>| match started {
        Ok(subject) => contenders.push(Contender::peer(subject)),
        Err(cause) => absent.push(Absent::new(scene, name, &cause)),
    };
    if let Some(programs) = scene.programs {
        for safety in &roster.qemu {
            scene.steps.say(&format!("files: starting {}", safety.qemu_name()));
            let channel = qemu(scene, programs, *safety);
            peer(safety.qemu_name(), channel.and_then(|channel| ninep(channel, tree, directories)));
        }
        if roster.others {
            scene.steps.say("files: starting virtiofsd and diod");
            peer(Virtiofsd::NAME, virtiofsd(scene, programs, tree, directories));
            peer(Diod::NAME, diod(scene, programs).and_then(|channel| ninep(channel, tree, directories)));
        }
    }
    if roster.in_process {
        if scene.programs.is_some() {
            peer("crate p9", P9Channel::p9(scene.folder).and_then(|channel| ninep(channel, tree, directories)));
        }
        let core = NinepSubject::open(CoreChannel::own(scene.folder)?, tree, directories)?;
        contenders.push(Contender::ours(core));
        contenders.push(Contender::ours(Plain::open(tree, directories)?));
    }
    Ok((contenders, absent))
}

fn ninep(
    channel: impl super::ninep::Channel + 'static,
    tree: &Tree,
    directories: &[u32],
) -> Result<Box<dyn Subject>, Failure> {
    Ok(Box::new(NinepSubject::open(channel, tree, directories)?))
}

fn virtiofsd(
    scene: &Scene<'_>,
    programs: &Programs,
    tree: &Tree,
    directories: &[u32],
) -> Result<Box<dyn Subject>, Failure> {
    let place = scene.place(Virtiofsd::NAME)?;
    let virtiofsd = Virtiofsd::start(programs, MEMORY_MIB, scene.folder, scene.cores, &place)?;
    Ok(Box::new(FuseSubject::open(virtiofsd, tree, directories)?))
}

fn diod(scene: &Scene<'_>, programs: &Programs) -> Result<StreamChannel, Failure> {
    let diod = Diod::start(programs, scene.folder, scene.cores, &scene.place(Diod::NAME)?)?;
    StreamChannel::connect(Diod::NAME, diod.server, &diod.socket, scene.folder)
}

fn own(scene: &Scene<'_>, own: &Own) -> Result<VirtioChannel, Failure> {
    let Own { name, safety, contiguous, argument } = own;
    let arguments: Vec<String> = scene.daemon_args.iter().chain(argument).cloned().collect();
    let options = DaemonOptions { folder: scene.folder, window: WINDOW, more: &arguments };
    let daemon = Daemon::start(&options, scene.cores, &scene.place(name)?)?;
    let translated = *safety != Safety::Off;
    let socket = if translated { daemon.translated } else { daemon.direct };
    let mut session = Session::boot(GuestOptions {
        memory_mib: MEMORY_MIB,
        iommu_socket: translated.then_some(daemon.iommu),
        iommu_transport: daemon.transport,
        transport: daemon.transport,
        shares: vec![ShareOptions { socket, endpoint: Daemon::ENDPOINT, translated }],
        mapping: safety.mapping().unwrap_or_default(),
        passthrough: *safety == Safety::Passthrough,
        client: CLIENT,
        // The session is opened by the work's own client.
        msize: 0,
        ..GuestOptions::default()
    })?;
    let share = session.shares.pop().ok_or_else(|| Failure::wrong(name, "no share"))?;
    VirtioChannel::new(name, daemon.server, share.client, session.iommu.take(), *contiguous)
}

fn qemu(scene: &Scene<'_>, programs: &Programs, safety: Safety) -> Result<VirtioChannel, Failure> {
    let name = safety.qemu_name();
    let translated = safety != Safety::Off;
    let options = QemuOptions { memory_mib: MEMORY_MIB, iommu: translated, folder: Some(scene.folder), translated };
    let qemu = Qemu::start(programs, name, &options, scene.cores, &scene.place(name)?)?;
    let (mapper, iommu) = if translated {
        let (mapper, iommu) = behind_qemus_iommu(&qemu, safety)?;
        (mapper, Some(iommu))
    } else {
        (Arc::new(Direct) as Arc<dyn DmaMapper>, None)
    };
    let client_options = ClientOptions { translated, ..CLIENT };
    let client = NinepClient::start(Box::new(qemu.share()?), Arc::clone(&qemu.memory), mapper, client_options)?;
    VirtioChannel::new(name, qemu.server, client, iommu, false)
}

fn behind_qemus_iommu(qemu: &Qemu, safety: Safety) -> Result<(Arc<dyn DmaMapper>, Arc<Iommu>), Failure> {
    /// As in Linux, the first domain would be for bypass.
    const DOMAIN: u32 = 1;
    let device = Box::new(qemu.iommu()?);
    let iommu = Arc::new(Iommu::start(device, Arc::clone(&qemu.memory), &IommuOptions::default())?);
    let Some(mapping) = safety.mapping() else {
        iommu.attach(DOMAIN, Qemu::ENDPOINT, ATTACH_F_BYPASS)?;
        return Ok((Arc::new(Direct), iommu));
    };
    let reserved = if iommu.features() & F_PROBE == 0 { Vec::new() } else { iommu.probe(Qemu::ENDPOINT)? };
    iommu.attach(DOMAIN, Qemu::ENDPOINT, 0)?;
    // The same window as the daemon's, so that both allocators work alike.
    let iova = IovaAllocator::new(0, (MEMORY_MIB << 20) - 1, &reserved, IovaOrder::TopDown);
    Ok((Arc::new(DomainMapper::new(Arc::clone(&iommu), DOMAIN, iova, mapping)), iommu))
}
