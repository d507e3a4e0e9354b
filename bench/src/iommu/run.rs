//! The run: this project's virtio-iommu and QEMU's, turn about.

use std::sync::Arc;
use std::time::{Duration, Instant};

use calgary_tests::guest::{GuestMemory, QtestBus, Transport, VfioUserDevice, VhostUserDevice, VhostUserOptions};
use calgaryd::transport::TransportKind;
use serde::Serialize;

use super::batches::Batches;
use crate::failure::Failure;
use crate::measure::{Figure, Limits, Sample, Series, ping_pongs};
use crate::measure::{Idle, idle};
use crate::peers::Absent;
use crate::peers::{Daemon, DaemonOptions, Programs, Qemu, QemuOptions, Server};
use crate::scene::Scene;

/// RAM of both guests in MiB, mostly never touched.
const MEMORY_MIB: u64 = 2048;
/// The IOVA window as the daemon's command line has it: 262,144 live mappings on every other page end just past 2 GiB.
const WINDOW: &str = "4G";

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct IommuPlan {
    /// Requests per kick.
    pub(crate) per_kick: Vec<u16>,
    /// Live mappings.
    pub(crate) live: Vec<u64>,
    /// Samples of each point and server.
    pub(crate) rounds: usize,
    /// Length of a sample.
    pub(crate) sample: Duration,
}

impl IommuPlan {
    /// The whole grid, or a corner of it.
    pub(crate) fn new(quick: bool, rounds: usize) -> Self {
        if quick {
            Self { per_kick: vec![1, 128], live: vec![0, 65_536], rounds, sample: Duration::from_millis(30) }
        } else {
            let live = vec![0, 4_096, 65_536, 262_144];
            Self { per_kick: vec![1, 4, 16, 64, 128, 256], live, rounds, sample: Duration::from_millis(40) }
        }
    }
}

/// One server at one point of the grid.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct IommuPoint {
    /// The server.
    pub(crate) peer: &'static str,
    /// Requests per kick.
    pub(crate) per_kick: u16,
    /// Live mappings.
    pub(crate) live: u64,
    /// Nanoseconds from the kick to the last used entry, per request.
    pub(crate) wall: Figure,
    /// Nanoseconds of server processor time per request, polling between kicks included.
    pub(crate) cpu: Figure,
}

/// A kick of QEMU's device without a request: what of its figures is the socket's.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EmptyKick {
    /// Nanoseconds until it is acknowledged.
    pub(crate) wall: Figure,
    /// Nanoseconds of QEMU's processor time.
    pub(crate) cpu: Figure,
}

/// The results.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct IommuReport {
    /// The bare round trips, before and after.
    pub(crate) limits: [Limits; 2],
    /// A kick of QEMU's device without a request, if it took part.
    pub(crate) empty_kick: Option<EmptyKick>,
    /// What each server takes with its driver ready and nothing to do.
    pub(crate) idle: Vec<Idle>,
    /// Peers without figures.
    pub(crate) absent: Vec<Absent>,
    /// All points, by live mappings, then requests per kick, then server.
    pub(crate) points: Vec<IommuPoint>,
}

/// A server and its driver.
struct Side {
    batches: Batches,
    server: Server,
    /// The socket that kicks go through, if they do.
    bus: Option<Arc<QtestBus>>,
}

/// Measures `plan`.
pub(crate) fn run(scene: &Scene<'_>, plan: &IommuPlan) -> Result<IommuReport, Failure> {
    let most = plan.live.iter().copied().max().unwrap_or(0);
    scene.steps.say("iommu: bare round trips between the two processors");
    let before = ping_pongs(scene.cores, plan.rounds)?;
    scene.cores.enter_client()?;
    let mut sides = vec![own(scene, most)?];
    let mut absent = Vec::new();
    match scene.programs.map(|programs| qemu(scene, programs, most)) {
        Some(Ok(side)) => sides.push(side),
        Some(Err(cause)) => absent.push(Absent::new(scene, Qemu::NAME, &cause)),
        None => {}
    }
    let mut points = Vec::new();
    let total = plan.live.len() * plan.per_kick.len();
    for live in &plan.live {
        scene.steps.say(&format!("iommu: making {live} live mappings"));
        for side in &mut sides {
            side.batches.set_live(*live)?;
        }
        for per_kick in &plan.per_kick {
            scene.steps.count(&format!("iommu: {per_kick} per kick, {live} live"), points.len() / sides.len(), total);
            points.extend(point(&sides, plan, *per_kick, *live)?);
        }
    }
    let empty_kick = sides.iter().find_map(|side| Some(empty_kicks(side, side.bus.as_ref()?, plan))).transpose()?;
    scene.steps.say("iommu: watching the servers idle");
    let clocks: Vec<_> = sides.iter().map(|side| (side.server.name(), || side.server.cpu())).collect();
    let idle = idle(&clocks)?;
    drop(sides);
    let after = ping_pongs(scene.cores, plan.rounds)?;
    Ok(IommuReport { limits: [before, after], empty_kick, idle, absent, points })
}

fn point(sides: &[Side], plan: &IommuPlan, per_kick: u16, live: u64) -> Result<Vec<IommuPoint>, Failure> {
    let mut series = vec![Series::default(); sides.len()];
    for round in 0..=plan.rounds {
        for (side, series) in sides.iter().zip(&mut series) {
            let sample = side.batches.sample(per_kick, plan.sample, &|| side.server.cpu())?;
            // The first round warms caches.
            if round > 0 {
                series.push(sample);
            }
        }
    }
    let points = sides.iter().zip(&series).map(|(side, series)| IommuPoint {
        peer: side.server.name(),
        per_kick,
        live,
        wall: series.wall(),
        cpu: series.cpu(),
    });
    Ok(points.collect())
}

fn empty_kicks(side: &Side, bus: &QtestBus, plan: &IommuPlan) -> Result<EmptyKick, Failure> {
    let mut series = Series::default();
    for _ in 0..plan.rounds {
        let before = side.server.cpu()?;
        let start = Instant::now();
        let mut operations = 0;
        while start.elapsed() < plan.sample {
            side.batches.kick()?;
            bus.settle().map_err(|cause| Failure::system("kick QEMU", cause))?;
            operations += 1;
        }
        let wall = start.elapsed();
        series.push(Sample { operations, wall, cpu: side.server.cpu()?.saturating_sub(before) });
    }
    Ok(EmptyKick { wall: series.wall(), cpu: series.cpu() })
}

fn own(scene: &Scene<'_>, most: u64) -> Result<Side, Failure> {
    let options = DaemonOptions { folder: scene.folder, window: WINDOW, more: scene.daemon_args };
    let daemon = Daemon::start(&options, scene.cores, &scene.place("iommu-calgaryd")?)?;
    let memory = Arc::new(GuestMemory::new(MEMORY_MIB)?);
    let device: Box<dyn Transport> = match daemon.transport {
        TransportKind::VhostUser => {
            Box::new(VhostUserDevice::connect(Arc::clone(&memory), VhostUserOptions::new(&daemon.iommu, 2))?)
        }
        TransportKind::VfioUser => Box::new(VfioUserDevice::connect(Arc::clone(&memory), &daemon.iommu)?),
    };
    let batches = Batches::new(Daemon::NAME, device, memory, Daemon::ENDPOINT, most)?;
    Ok(Side { batches, server: daemon.server, bus: None })
}

fn qemu(scene: &Scene<'_>, programs: &Programs, most: u64) -> Result<Side, Failure> {
    let options = QemuOptions { memory_mib: MEMORY_MIB, iommu: true, folder: None, translated: true };
    let qemu = Qemu::start(programs, Qemu::NAME, &options, scene.cores, &scene.place("iommu-qemu")?)?;
    let device = qemu.iommu()?;
    let batches = Batches::new(Qemu::NAME, Box::new(device), Arc::clone(&qemu.memory), Qemu::ENDPOINT, most)?;
    Ok(Side { batches, server: qemu.server, bus: Some(qemu.bus) })
}
