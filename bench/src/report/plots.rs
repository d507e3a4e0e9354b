//! Which plots a report has.

use super::Comparison;
use super::plot::Plot;
use super::safety::throughput;
use crate::files::{FilePoint, FilesReport, LARGE, PERCENTILES, SMALL, Work};
use crate::peers::{Daemon, Qemu};

/// All plots, in the order of the page.
pub(super) fn plots(report: &Comparison) -> Vec<Plot> {
    let files = &report.files;
    vec![
        by_depth(files, Work::Getattr),
        by_depth(files, Work::Read(SMALL)),
        by_depth(files, Work::Write(SMALL)),
        by_depth(files, Work::Read(LARGE)),
        by_depth(files, Work::Write(LARGE)),
        by_size(files, "read", |work| if let Work::Read(bytes) = work { Some(bytes) } else { None }),
        by_size(files, "write", |work| if let Work::Write(bytes) = work { Some(bytes) } else { None }),
        by_live(report),
        by_batch(report),
        latencies(files, Work::Getattr),
        latencies(files, Work::Read(SMALL)),
        latencies(files, Work::Read(LARGE)),
    ]
}

/// A line for each server of `report` over `places`, without those that have no value.
fn lines<T: Copy>(
    report: &FilesReport,
    places: &[T],
    value: impl Fn(&str, T) -> Option<f64>,
) -> Vec<(String, Vec<Option<f64>>)> {
    let lines = report.peers.iter().map(|peer| {
        let values: Vec<Option<f64>> = places.iter().map(|place| value(peer, *place)).collect();
        ((*peer).to_owned(), values)
    });
    lines.filter(|(_, values)| values.iter().any(Option::is_some)).collect()
}

fn by_depth(report: &FilesReport, work: Work) -> Plot {
    let mut depths: Vec<u16> =
        report.points.iter().filter(|point| point.work == work).map(|point| point.depth).collect();
    depths.sort_unstable();
    depths.dedup();
    let rate = |point: &FilePoint| 1e9 / point.wall.median;
    Plot {
        title: format!("{work}: operations per second"),
        x: ("requests out at a time", depths.iter().map(ToString::to_string).collect()),
        y: "operations per second (log)",
        logarithmic: true,
        lines: lines(report, &depths, |peer, depth| report.find(peer, work, depth).map(rate)),
    }
}

fn by_size(report: &FilesReport, verb: &str, size: impl Fn(Work) -> Option<u32>) -> Plot {
    let at_one = report.points.iter().filter(|point| point.depth == 1);
    let mut works: Vec<(u32, Work)> = at_one.filter_map(|point| Some((size(point.work)?, point.work))).collect();
    works.sort_by_key(|(bytes, _)| *bytes);
    works.dedup();
    Plot {
        title: format!("{verb}, depth 1: throughput"),
        x: ("KiB per request", works.iter().map(|(bytes, _)| (bytes >> 10).to_string()).collect()),
        y: "10⁶ bytes per second (log)",
        logarithmic: true,
        lines: lines(report, &works, |peer, (_, work)| report.find(peer, work, 1).map(throughput)),
    }
}

/// Wall and processor time of both IOMMUs, at the points of which `place` is wanted.
fn iommu_lines<T: PartialEq + Copy>(
    report: &Comparison,
    places: &[T],
    place: impl Fn(u16, u64) -> Option<T>,
) -> Vec<(String, Vec<Option<f64>>)> {
    let mut lines = Vec::new();
    for peer in [Daemon::NAME, Qemu::NAME] {
        for processor in [false, true] {
            let value = |wanted: &T| {
                let mut points = report.iommu.points.iter().filter(|point| point.peer == peer);
                let point = points.find(|point| place(point.per_kick, point.live) == Some(*wanted))?;
                Some(if processor { point.cpu.median } else { point.wall.median })
            };
            let values: Vec<Option<f64>> = places.iter().map(value).collect();
            if values.iter().any(Option::is_some) {
                let what = if processor { "server CPU" } else { "wall" };
                lines.push((format!("{peer}, {what}"), values));
            }
        }
    }
    lines
}

fn by_live(report: &Comparison) -> Plot {
    const PER_KICK: u16 = 128;
    let mut live: Vec<u64> = report.iommu.points.iter().map(|point| point.live).collect();
    live.sort_unstable();
    live.dedup();
    Plot {
        title: format!("MAP and UNMAP of a page, {PER_KICK} per kick: cost by live mappings"),
        x: ("live mappings", live.iter().map(ToString::to_string).collect()),
        y: "ns per request (log)",
        logarithmic: true,
        lines: iommu_lines(report, &live, |per_kick, live| (per_kick == PER_KICK).then_some(live)),
    }
}

fn by_batch(report: &Comparison) -> Plot {
    let points = &report.iommu.points;
    let live = points.iter().map(|point| point.live).find(|live| *live > 0).unwrap_or(0);
    let mut batches: Vec<u16> = points.iter().map(|point| point.per_kick).collect();
    batches.sort_unstable();
    batches.dedup();
    Plot {
        title: format!("MAP and UNMAP of a page, {live} live mappings: cost by requests per kick"),
        x: ("requests per kick", batches.iter().map(ToString::to_string).collect()),
        y: "ns per request (log)",
        logarithmic: true,
        lines: iommu_lines(report, &batches, |per_kick, at| (at == live).then_some(per_kick)),
    }
}

fn latencies(report: &FilesReport, work: Work) -> Plot {
    let places: Vec<usize> = (0..PERCENTILES.len()).collect();
    let names =
        PERCENTILES.iter().map(|part| if *part < 1.0 { format!("{} %", part * 100.0) } else { "max".to_owned() });
    Plot {
        title: format!("{work}, depth 1: latency"),
        x: ("part of the operations", names.collect()),
        y: "µs (log)",
        logarithmic: true,
        lines: lines(report, &places, |peer, at| Some(report.find(peer, work, 1)?.latency?[at] / 1e3)),
    }
}
