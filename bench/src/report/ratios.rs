//! How many times as much a peer takes for the same work.

use super::Comparison;
use super::table::{Table, ratio, time};
use crate::files::{FilePoint, Safety, Work};
use crate::iommu::IommuPoint;
use crate::measure::Figure;
use crate::peers::{Daemon, Diod, Qemu, Virtiofsd};

/// A column: what is divided by what.
struct Column {
    title: &'static str,
    over: &'static str,
    under: &'static str,
}

const OWN: &str = Safety::Off.own_name();

/// The peers over the daemon, the crate `p9` over this project's core, and the daemon without IOMMU over itself with it.
const COLUMNS: [Column; 7] = [
    Column { title: "QEMU", over: Qemu::NAME, under: OWN },
    Column { title: "virtiofsd", over: Virtiofsd::NAME, under: OWN },
    Column { title: "diod", over: Diod::NAME, under: OWN },
    Column { title: "system calls", over: "system calls", under: OWN },
    Column { title: "p9 ÷ our core", over: "crate p9", under: "our core" },
    Column { title: "off ÷ kept", over: OWN, under: Safety::Kept.own_name() },
    Column { title: "off ÷ strict", over: OWN, under: Safety::Strict.own_name() },
];

/// One table of ratios: above 1 the second of each pair is better.
pub(crate) fn ratio_table(report: &Comparison) -> String {
    let cpu = files(report, "server CPU, peer ÷ calgaryd", |point| &point.cpu);
    let wall = files(report, "wall time, peer ÷ calgaryd", |point| &point.wall);
    format!("{cpu}\n{wall}\n{}", iommu(report))
}

/// The ratios of one row, in the order of the columns.
fn row(report: &Comparison, work: Work, depth: u16, of: &impl Fn(&FilePoint) -> &Figure) -> Vec<String> {
    let figure = |peer: &str| report.files.find(peer, work, depth).map(of);
    let columns = COLUMNS.iter().map(|column| match (figure(column.over), figure(column.under)) {
        (Some(over), Some(under)) => ratio(over.over(under)),
        _ => "–".to_owned(),
    });
    columns.collect()
}

fn files(report: &Comparison, title: &str, of: impl Fn(&FilePoint) -> &Figure) -> String {
    let mut head = vec![title, "depth", "calgaryd"];
    head.extend(COLUMNS.iter().map(|column| column.title));
    let mut table = Table::new(&head);
    for (work, depth) in report.files.rows() {
        let own = report.files.find(OWN, work, depth).map_or(f64::NAN, |point| of(point).median);
        let mut cells = vec![work.to_string(), depth.to_string(), time(own)];
        cells.extend(row(report, work, depth, &of));
        table.row(cells);
    }
    table.render()
}

fn iommu(report: &Comparison) -> String {
    let head = ["MAP/UNMAP, per request", "live", "calgaryd", "CPU", "QEMU ÷ calgaryd", "CPU", "÷ bare round trip"];
    let mut table = Table::new(&head);
    let points = &report.iommu.points;
    let bare = report.iommu.limits.iter().map(|limits| limits.shared_memory.median).fold(f64::INFINITY, f64::min);
    for own in points.iter().filter(|point| point.peer == Daemon::NAME) {
        let same =
            |point: &&IommuPoint| point.peer == Qemu::NAME && point.per_kick == own.per_kick && point.live == own.live;
        let qemu = points.iter().find(same);
        let over = |of: fn(&IommuPoint) -> &Figure| qemu.map_or("–".to_owned(), |qemu| ratio(of(qemu).over(of(own))));
        table.row(vec![
            format!("{} per kick", own.per_kick),
            own.live.to_string(),
            time(own.wall.median),
            time(own.cpu.median),
            over(|point| &point.wall),
            over(|point| &point.cpu),
            ratio(own.wall.median / bare),
        ]);
    }
    table.render()
}
