//! Two or more guests at a time, whose samples are taken turn about.

use serde::Serialize;

use super::load::{self, Work};
use super::machine::{DIRECT, Guest, Mode, TRANSLATED};
use crate::failure::Failure;
use crate::measure::{Figure, Series};
use crate::peers::{Daemon, Qemu};
use crate::scene::Scene;

/// What one kind of work costs on one server, outside and behind its IOMMU.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GuestPoint {
    /// The server.
    pub(crate) server: String,
    /// How Linux drives the IOMMU.
    pub(crate) mode: Mode,
    /// The work.
    pub(crate) work: Work,
    /// Wall time and server processor time per operation, outside.
    pub(crate) off: [Figure; 2],
    /// The same behind it.
    pub(crate) on: [Figure; 2],
}

/// A server that takes part: its name, and whether it is this project's with these arguments.
struct Contender {
    name: &'static str,
    own: Option<Vec<String>>,
}

/// Measures `modes`, `rounds` samples of each figure; each of `variants` is one more daemon, with its argument.
pub(crate) fn run(
    scene: &Scene<'_>,
    modes: &[Mode],
    rounds: usize,
    variants: &[(String, String)],
) -> Result<Vec<GuestPoint>, Failure> {
    load::prepare(scene.folder).map_err(|cause| Failure::system("fill the shared folder", cause))?;
    let mut contenders = vec![Contender { name: Daemon::NAME, own: Some(Vec::new()) }];
    for (name, argument) in variants {
        // Names live as long as the program, as those of all servers do.
        contenders.push(Contender { name: String::leak(name.clone()), own: Some(vec![argument.clone()]) });
    }
    contenders.push(Contender { name: Qemu::NAME, own: None });
    let mut points = Vec::new();
    for mode in modes {
        scene.steps.say(&format!("booting {} guests, {}", contenders.len(), mode.name()));
        let guests = contenders.iter().map(|contender| match &contender.own {
            Some(args) => Guest::on_daemon(scene, contender.name, *mode, args),
            None => Guest::on_qemu(scene, contender.name, *mode),
        });
        let guests = guests.collect::<Result<Vec<_>, _>>()?;
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
            for (contender, [off, on]) in contenders.iter().zip(&series) {
                let figures = |series: &Series| [series.wall(), series.cpu()];
                let server = contender.name.to_owned();
                points.push(GuestPoint { server, mode: *mode, work, off: figures(off), on: figures(on) });
            }
        }
    }
    Ok(points)
}
