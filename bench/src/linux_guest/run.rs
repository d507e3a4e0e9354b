//! Two or more guests at a time, whose samples are taken turn about.

use serde::Serialize;

use super::load::{self, Work};
use super::machine::{Arguments, DIRECT, Guest, Mode, TRANSLATED};
use crate::failure::Failure;
use crate::files::MECHANISMS;
use crate::measure::{Figure, Idle, Series, idle};
use crate::peers::{Absent, Daemon, Qemu};
use crate::scene::Scene;

/// What one kind of work costs on one server, outside and behind its IOMMU.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GuestPoint {
    /// The server.
    pub(crate) server: &'static str,
    /// How Linux drives the IOMMU.
    pub(crate) mode: Mode,
    /// The work.
    pub(crate) work: Work,
    /// Wall time and server processor time per operation, outside.
    pub(crate) off: [Figure; 2],
    /// The same behind it.
    pub(crate) on: [Figure; 2],
}

/// All that was found.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct GuestReport {
    /// Every figure.
    pub(crate) points: Vec<GuestPoint>,
    /// What the servers take while a guest has the share behind the IOMMU mounted and leaves it alone.
    pub(crate) idle: Vec<(Mode, Vec<Idle>)>,
    /// Peers without figures.
    pub(crate) absent: Vec<Absent>,
}

/// A server that takes part: its name, and whether it is this project's with these arguments.
struct Contender {
    name: &'static str,
    own: Option<Vec<String>>,
}

/// This project's daemon, the same with `variants`, each a name and an argument more, and QEMU.
fn contenders(variants: &[(String, String)]) -> Vec<Contender> {
    let mut contenders = vec![Contender { name: Daemon::NAME, own: Some(Vec::new()) }];
    // Names live as long as the program, as those of all servers do.
    contenders.extend(
        variants
            .iter()
            .map(|(name, argument)| Contender { name: name.clone().leak(), own: Some(vec![argument.clone()]) }),
    );
    contenders.push(Contender { name: Qemu::NAME, own: None });
    contenders
}

/// Every mechanism switched off, as variants of the daemon.
pub(crate) fn mechanisms() -> impl Iterator<Item = (String, String)> {
    MECHANISMS.iter().map(|mechanism| (format!("no {}", mechanism.title), mechanism.argument.to_owned()))
}

/// Measures `modes`, `rounds` samples of each figure; each of `variants` is one more daemon, with its argument. All guests
/// get `arguments`.
pub(crate) fn run(
    scene: &Scene<'_>,
    modes: &[Mode],
    rounds: usize,
    variants: &[(String, String)],
    arguments: Arguments<'_>,
) -> Result<GuestReport, Failure> {
    load::prepare(scene.folder).map_err(|cause| Failure::system("fill the shared folder", cause))?;
    let contenders = contenders(variants);
    let mut report = GuestReport::default();
    for mode in modes {
        let mut guests = Vec::new();
        for contender in &contenders {
            scene.steps.say(&format!("booting a guest on {}, {}", contender.name, mode.name()));
            match &contender.own {
                Some(args) => guests.push(Guest::on_daemon(scene, contender.name, *mode, args, arguments)?),
                None => match Guest::on_qemu(scene, contender.name, *mode, arguments) {
                    Ok(guest) => guests.push(guest),
                    Err(cause) => report.absent.push(Absent::new(scene, contender.name, &cause)),
                },
            }
        }
        for work in Work::ALL {
            let mut series = vec![[Series::default(), Series::default()]; guests.len()];
            // The first round is not counted: it fills the caches of both sides.
            for round in 0..=rounds {
                scene.steps.count(&format!("{}, {}", mode.name(), work.title()), round, rounds + 1);
                for (guest, series) in guests.iter().zip(&mut series) {
                    for (share, series) in [DIRECT, TRANSLATED].into_iter().zip(series) {
                        let sample = guest.sample(work, share)?;
                        if round > 0 {
                            series.push(sample);
                        }
                    }
                }
            }
            for (guest, [off, on]) in guests.iter().zip(&series) {
                let figures = |series: &Series| [series.wall(), series.cpu()];
                let (server, off, on) = (guest.name(), figures(off), figures(on));
                report.points.push(GuestPoint { server, mode: *mode, work, off, on });
            }
        }
        scene.steps.say(&format!("{}, watching the servers idle", mode.name()));
        guests.iter().try_for_each(Guest::mount_for_idling)?;
        let clocks: Vec<_> = guests.iter().map(|guest| (guest.name(), || guest.cpu())).collect();
        report.idle.push((*mode, idle(&clocks)?));
    }
    Ok(report)
}
