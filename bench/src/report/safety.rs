//! The price of safety as tables and a few sentences.

use std::fmt::Write;

use super::table::{Look, SPREAD, Table, absent_lines, figure, idle_line, ratio};
use crate::files::{FilePoint, FilesReport, MECHANISMS, Safety, Work};
use crate::measure::Figure;
use crate::peers::{Daemon, Qemu};

/// A server's name in reports when so isolated.
type Name = fn(Safety) -> &'static str;
/// One of the two times of a point.
type Part = fn(&FilePoint) -> &Figure;

/// Throughput and processor time of both servers by isolation, then what each mechanism is worth.
pub(crate) fn safety_text(report: &FilesReport, look: Look) -> String {
    let mut text = String::new();
    let servers: [(&str, Name); 2] = [(Daemon::NAME, Safety::own_name), (Qemu::NAME, Safety::qemu_name)];
    for (server, name) in servers {
        let ways: Vec<Safety> = Safety::ALL.into_iter().filter(|way| report.peers.contains(&name(*way))).collect();
        if ways.len() > 1 {
            let _ = writeln!(text, "{}", throughput_table(report, server, &ways, name).render(look));
            let _ = writeln!(text, "{}", processor_table(report, server, &ways, name).render(look));
        }
    }
    let _ = writeln!(text, "{MEANING}{SPREAD}");
    for (title, of) in PARTS {
        let _ = writeln!(text, "{}", mechanism_table(report, title, of).render(look));
    }
    text += MECHANISMS_MEAN;
    let variants = variants(report);
    if !variants.is_empty() {
        let _ = writeln!(text, "\n{}", variant_table(report, &variants).render(look));
    }
    text.push('\n');
    text += &idle_line(&report.idle);
    text + &absent_lines(&report.absent)
}

/// What the columns are.
const MEANING: &str = "\
off: no IOMMU. passthrough: behind it, in a bypass domain. kept: every DMA is translated, each buffer is mapped once and stays
so. lazy: mapped before each request, unmapped later, with the next request that is waited for. strict: every page mapped
before and unmapped after each request, a kick for each page, each waited for, as Linux does for the rings of a virtio device.
strict, one kick: the same pages, but all MAPs of a request with one kick and one wait, and so the UNMAPs. strict, data: of
these the pages of file data alone, while the driver's own messages and descriptor tables stay mapped. Throughput is the
client's wall time and so contains the round trips of the IOMMU; CPU is the servers' alone. Ways other than off are told in
parts of its throughput (1 would be free), and as how many times its processor time.
";

/// What the figures of mechanisms are.
const MECHANISMS_MEAN: &str = "\
How many times as much without the mechanism as with it: polling where a kick goes out for each page; batching where the
requests of a kick come together; coalescing with mappings kept and buffers of neighbouring pages; zero copy with mappings kept.
";

/// Both kinds of time.
const PARTS: [(&str, Part); 2] =
    [("wall time, without ÷ with", |point| &point.wall), ("server CPU, without ÷ with", |point| &point.cpu)];

/// The head of a table of one server.
fn head(first: String, off: &str, ways: &[Safety]) -> Vec<String> {
    let mut head = vec![first, "depth".to_owned(), off.to_owned()];
    head.extend(ways.iter().filter(|way| **way != Safety::Off).map(|way| way.title().to_owned()));
    head
}

fn throughput_table(report: &FilesReport, server: &str, ways: &[Safety], name: Name) -> Table {
    let mut head = head(format!("{server}: throughput"), "off, per second", ways);
    head.insert(3, "MB/s".to_owned());
    let mut table = Table::new(&head);
    each_row(report, ways, name, |work, depth, off, others| {
        let mut row = vec![work.to_string(), depth.to_string(), format!("{:.0}", rate(off)), megabytes(off)];
        row.extend(
            others.map(|point| point.map_or("–".to_owned(), |point| format!("{:.2}", off.wall.over(&point.wall)))),
        );
        table.row(row);
    });
    table
}

fn processor_table(report: &FilesReport, server: &str, ways: &[Safety], name: Name) -> Table {
    let mut table = Table::new(&head(format!("{server}: server CPU per operation"), "off", ways));
    each_row(report, ways, name, |work, depth, off, others| {
        let mut row = vec![work.to_string(), depth.to_string(), figure(&off.cpu)];
        row.extend(others.map(|point| point.map_or("–".to_owned(), |point| ratio(point.cpu.over(&off.cpu)))));
        table.row(row);
    });
    table
}

/// Calls `add` with each row's point outside the IOMMU and those behind it.
fn each_row(
    report: &FilesReport,
    ways: &[Safety],
    name: Name,
    mut add: impl FnMut(Work, u16, &FilePoint, &mut dyn Iterator<Item = Option<&FilePoint>>),
) {
    for (work, depth) in report.rows() {
        let point = |way: &Safety| report.find(name(*way), work, depth);
        if let Some(off) = point(&Safety::Off) {
            add(work, depth, off, &mut ways.iter().filter(|way| **way != Safety::Off).map(point));
        }
    }
}

fn mechanism_table(report: &FilesReport, title: &str, of: Part) -> Table {
    let mut head = vec![title, "depth"];
    head.extend(MECHANISMS.iter().map(|mechanism| mechanism.title));
    let mut table = Table::new(&head);
    for (work, depth) in report.rows() {
        let mut row = vec![work.to_string(), depth.to_string()];
        row.extend(MECHANISMS.iter().map(|mechanism| {
            let find = |peer| report.find(peer, work, depth).map(of);
            find(mechanism.without)
                .zip(find(mechanism.with))
                .map_or("–".to_owned(), |(less, all)| ratio(less.over(all)))
        }));
        table.row(row);
    }
    table
}

/// The servers that the command line added.
fn variants(report: &FilesReport) -> Vec<&'static str> {
    let known = |peer: &&&'static str| {
        Safety::ALL.iter().any(|way| [way.own_name(), way.qemu_name()].contains(*peer))
            || MECHANISMS.iter().any(|mechanism| [mechanism.with, mechanism.without].contains(*peer))
    };
    report.peers.iter().filter(|peer| !known(peer)).copied().collect()
}

fn variant_table(report: &FilesReport, variants: &[&'static str]) -> Table {
    let mut head = vec!["strict, with an argument more".to_owned(), "depth".to_owned()];
    head.extend(variants.iter().flat_map(|name| [format!("{name}, wall"), format!("{name}, CPU")]));
    let mut table = Table::new(&head);
    for (work, depth) in report.rows() {
        let strict = report.find(Safety::Strict.own_name(), work, depth);
        let mut row = vec![work.to_string(), depth.to_string()];
        for name in variants {
            let pair = report.find(name, work, depth).zip(strict);
            row.extend(
                PARTS.map(|(_, of)| {
                    pair.map_or("–".to_owned(), |(variant, strict)| ratio(of(variant).over(of(strict))))
                }),
            );
        }
        table.row(row);
    }
    table
}

fn rate(point: &FilePoint) -> f64 {
    1e9 / point.wall.median
}

fn megabytes(point: &FilePoint) -> String {
    if point.bytes == 0 { "–".to_owned() } else { format!("{:.0}", throughput(point)) }
}

/// In 10^6 bytes per second.
pub(super) fn throughput(point: &FilePoint) -> f64 {
    crate::measure::count(point.bytes) * rate(point) / 1e6
}
