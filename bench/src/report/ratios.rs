//! How many times as much a peer takes for the same work.

use super::Comparison;
use super::table::{Look, SPREAD, Table, absent_lines, figure, idle_line, limits_lines, ratio, time};
use crate::files::{FilePoint, Safety, Work};
use crate::iommu::IommuPoint;
use crate::measure::Figure;
use crate::peers::{Daemon, Diod, Qemu, Virtiofsd};

const OWN: &str = Safety::Off.own_name();

/// The columns that hold a time, and how many times that of the daemon it is.
const PEERS: [&str; 4] = [Qemu::NAME, Virtiofsd::NAME, Diod::NAME, "system calls"];

/// A column that holds a ratio alone: what is divided by what.
struct Column {
    title: &'static str,
    over: &'static str,
    under: &'static str,
}

/// The crate `p9` over this project's core, and the daemon without IOMMU over itself with it.
const COLUMNS: [Column; 5] = [
    Column { title: "p9 ÷ our core", over: "crate p9", under: "our core" },
    Column { title: "off ÷ kept", over: OWN, under: Safety::Kept.own_name() },
    Column { title: "off ÷ strict, data", over: OWN, under: Safety::StrictData.own_name() },
    Column { title: "off ÷ strict, one kick", over: OWN, under: Safety::StrictTogether.own_name() },
    Column { title: "off ÷ strict", over: OWN, under: Safety::Strict.own_name() },
];

/// What the columns are.
const MEANING: &str = "\
In brackets: how many times what calgaryd takes. off ÷: calgaryd outside its IOMMU over itself behind it; 1 would be free.
kept: mappings in place. strict: every page mapped before and unmapped after each request, with a kick for each page, or with
one kick for all; or, with one kick, the pages of file data alone while the driver's own messages stay mapped.
";

/// The tables of ratios: above 1 the second of each pair is better.
pub(crate) fn ratio_table(report: &Comparison, look: Look) -> String {
    let cpu = files(report, "server CPU per operation", look, |point| &point.cpu);
    let wall = files(report, "wall time per operation", look, |point| &point.wall);
    let (idle, absent) = (idle_line(&report.files.idle), absent_lines(&report.files.absent));
    format!("{cpu}\n{wall}\n{MEANING}{SPREAD}{idle}{absent}\n{}", iommu(report, look))
}

fn files(report: &Comparison, title: &str, look: Look, of: impl Fn(&FilePoint) -> &Figure) -> String {
    let mut head = vec![title, "depth", OWN];
    head.extend(PEERS.iter().chain(COLUMNS.iter().map(|column| &column.title)));
    let mut table = Table::new(&head);
    for (work, depth) in report.files.rows() {
        table.row(row(report, work, depth, &of));
    }
    table.render(look)
}

fn row(report: &Comparison, work: Work, depth: u16, of: &impl Fn(&FilePoint) -> &Figure) -> Vec<String> {
    let find = |peer: &str| report.files.find(peer, work, depth).map(of);
    let none = || "–".to_owned();
    let own = find(OWN);
    let mut cells = vec![work.to_string(), depth.to_string(), own.map_or_else(none, figure)];
    for peer in PEERS {
        let pair = find(peer).zip(own);
        cells.push(pair.map_or_else(none, |(peer, own)| format!("{} ({})", time(peer.median), ratio(peer.over(own)))));
    }
    for column in &COLUMNS {
        let pair = find(column.over).zip(find(column.under));
        cells.push(pair.map_or_else(none, |(over, under)| ratio(over.over(under))));
    }
    cells
}

fn iommu(report: &Comparison, look: Look) -> String {
    let head = ["MAP/UNMAP, per request", "live", OWN, "CPU", "QEMU", "CPU", "÷ bare round trip"];
    let mut table = Table::new(&head);
    let points = &report.iommu.points;
    let bare = report.iommu.limits.iter().map(|limits| limits.shared_memory.median).fold(f64::INFINITY, f64::min);
    for own in points.iter().filter(|point| point.peer == Daemon::NAME) {
        let same =
            |point: &&IommuPoint| point.peer == Qemu::NAME && point.per_kick == own.per_kick && point.live == own.live;
        let qemu = points.iter().find(same);
        let beside = |of: fn(&IommuPoint) -> &Figure| {
            qemu.map_or("–".to_owned(), |qemu| {
                format!("{} ({})", time(of(qemu).median), ratio(of(qemu).over(of(own))))
            })
        };
        table.row(vec![
            format!("{} per kick", own.per_kick),
            own.live.to_string(),
            figure(&own.wall),
            figure(&own.cpu),
            beside(|point| &point.wall),
            beside(|point| &point.cpu),
            ratio(own.wall.median / bare),
        ]);
    }
    let (limits, idle) = (limits_lines(&report.iommu.limits), idle_line(&report.iommu.idle));
    format!("{}\n{limits}{idle}{}", table.render(look), absent_lines(&report.iommu.absent))
}
