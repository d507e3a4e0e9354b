//! The price of safety as a table and a few sentences.

use std::fmt::Write;

use super::table::{Table, time};
use crate::files::{FilePoint, FilesReport, Safety, Work};

/// One row per server and kind of work, each beside the same server without isolation.
pub(crate) fn safety_text(report: &FilesReport) -> String {
    let head = ["work", "depth", "server", "per second", "MB/s", "of off", "CPU per op", "of off"];
    let mut table = Table::new(&head);
    for (work, depth) in report.rows() {
        for peer in &report.peers {
            let Some(point) = report.find(peer, work, depth) else { continue };
            let off = report.find(unsafe_one(peer), work, depth);
            let of_off =
                |part: fn(&FilePoint, &FilePoint) -> f64| off.map_or("–".to_owned(), |off| percent(part(point, off)));
            table.row(vec![
                work.to_string(),
                depth.to_string(),
                (*peer).to_owned(),
                format!("{:.0}", rate(point)),
                megabytes(point),
                of_off(|point, off| off.wall.over(&point.wall)),
                time(point.cpu.median),
                of_off(|point, off| point.cpu.over(&off.cpu)),
            ]);
        }
    }
    let mut text = table.render();
    text.push('\n');
    text += MEANING;
    for safety in [Safety::Kept, Safety::Lazy, Safety::Strict] {
        for (name, off) in [(safety.own_name(), Safety::Off.own_name()), (safety.qemu_name(), Safety::Off.qemu_name())]
        {
            let throughput = range(report, name, off, |point, off| off.wall.over(&point.wall));
            let processor = range(report, name, off, |point, off| point.cpu.over(&off.cpu));
            if let (Some(throughput), Some(processor)) = (throughput, processor) {
                let _ = writeln!(
                    text,
                    "{name}: {} of the throughput without an IOMMU, at {} of the processor time.",
                    throughput.show(),
                    processor.show()
                );
            }
        }
    }
    text
}

/// What the columns are.
const MEANING: &str = "\
off: no IOMMU. kept: every DMA is translated, each buffer is mapped once and stays so. lazy: mapped before each request,
unmapped later, with the next request that is waited for. strict: mapped before and unmapped after each request, one page
per MAP, each waited for, as Linux does for virtio devices. Throughput is the client's wall time and so contains the
round trips of the IOMMU; CPU is the servers' alone.
";

/// The same server without isolation.
fn unsafe_one(peer: &str) -> &'static str {
    if peer.starts_with(Safety::Off.qemu_name()) { Safety::Off.qemu_name() } else { Safety::Off.own_name() }
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

fn percent(part: f64) -> String {
    if part.is_finite() { format!("{:.0} %", part * 100.0) } else { "–".to_owned() }
}

/// The least and the greatest part of what the same server has without isolation, and the work it has it at.
struct Range {
    least: (f64, String),
    most: (f64, String),
}

impl Range {
    fn show(&self) -> String {
        let (least, most) = (percent(self.least.0), percent(self.most.0));
        format!("{least} ({}) to {most} ({})", self.least.1, self.most.1)
    }
}

fn range(report: &FilesReport, name: &str, off: &str, of: fn(&FilePoint, &FilePoint) -> f64) -> Option<Range> {
    let part = |(work, depth): (Work, u16)| {
        let part = of(report.find(name, work, depth)?, report.find(off, work, depth)?);
        Some((part, format!("{work}, depth {depth}")))
    };
    let mut parts: Vec<_> = report.rows().into_iter().filter_map(part).collect();
    parts.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    Some(Range { least: parts.first()?.clone(), most: parts.last()?.clone() })
}
