//! Tables for a terminal, or for a page of text.

use std::fmt::Write;

use crate::files::{FilePoint, FilesReport};
use crate::iommu::{IommuPoint, IommuReport};
use crate::measure::{Figure, Idle, Limits};
use crate::peers::{Absent, Daemon, Qemu};

/// How tables are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Columns under each other.
    Plain,
    /// Markdown.
    Markdown,
}

/// Columns of text, the first aligned left, the others right.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[impl AsRef<str>]) -> Self {
        Self { rows: vec![head.iter().map(|cell| cell.as_ref().to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn render(&self, look: Look) -> String {
        match look {
            Look::Plain => self.plain(),
            Look::Markdown => self.markdown(),
        }
    }

    fn markdown(&self) -> String {
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if index == 0 {
                let _ = writeln!(text, "|---|{}", "---:|".repeat(row.len().saturating_sub(1)));
            }
        }
        text
    }

    fn plain(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let fill = " ".repeat(width - cell.chars().count());
                let gap = if column > 0 { "  " } else { "" };
                line += &if column == 0 { format!("{cell}{fill}") } else { format!("{gap}{fill}{cell}") };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// Nanoseconds with three digits that count.
pub(crate) fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        t if t.is_nan() => "–".to_owned(),
        t if t < 9.95 => format!("{t:.1} ns"),
        t if t < 999.5 => format!("{t:.0} ns"),
        t if t < 9_995.0 => format!("{:.2} µs", t / 1e3),
        t if t < 99_950.0 => format!("{:.1} µs", t / 1e3),
        t if t < 999_500.0 => format!("{:.0} µs", t / 1e3),
        t => format!("{:.2} ms", t / 1e6),
    }
}

/// A median with its spread.
pub(crate) fn figure(figure: &Figure) -> String {
    let spread = figure.spread();
    if spread.is_finite() { format!("{} ±{:.0}%", time(figure.median), spread * 100.0) } else { time(figure.median) }
}

/// What the `±` of [`figure`] is.
pub(super) const SPREAD: &str = "±: half the distance between the least and the greatest of the samples.\n";

/// What the servers take with nothing to do, in one line.
pub(crate) fn idle_line(idle: &[Idle]) -> String {
    let each: Vec<String> = idle.iter().map(|one| format!("{} {:.1} %", one.peer, one.share * 100.0)).collect();
    format!("Idle, processor time in parts of one processor: {}.\n", each.join("; "))
}

/// The bare round trips, in two lines.
pub(super) fn limits_lines(limits: &[Limits; 2]) -> String {
    let mut text = String::new();
    for (when, limits) in ["before", "after"].iter().zip(limits) {
        let _ = writeln!(
            text,
            "bare round trip between the two processors, {when}: shared memory {}, eventfd wake {}",
            figure(&limits.shared_memory),
            figure(&limits.eventfd)
        );
    }
    text
}

/// Which peers are missing, and why.
pub(crate) fn absent_lines(absent: &[Absent]) -> String {
    absent.iter().fold(String::new(), |text, one| text + &format!("{} is left out: {}\n", one.peer, one.cause))
}

/// A ratio such as `3.1×`.
pub(crate) fn ratio(ratio: f64) -> String {
    match ratio {
        r if !r.is_finite() => "–".to_owned(),
        r if r < 9.95 => format!("{r:.2}×"),
        r => format!("{r:.1}×"),
    }
}

/// The IOMMU's results.
pub(crate) fn iommu_table(report: &IommuReport, look: Look) -> String {
    let mut text =
        String::from("MAP and UNMAP of one page per request, per request: kick to last used entry, server CPU\n\n");
    let mut table = Table::new(&["per kick", "live", "calgaryd", "CPU", "QEMU", "CPU", "QEMU ÷ calgaryd", "CPU"]);
    let find = |peer: &str, like: &IommuPoint| {
        let mut points = report.points.iter();
        points.find(|p| p.peer == peer && p.per_kick == like.per_kick && p.live == like.live).cloned()
    };
    for own in report.points.iter().filter(|point| point.peer == Daemon::NAME) {
        let mut row = vec![own.per_kick.to_string(), own.live.to_string(), figure(&own.wall), figure(&own.cpu)];
        if let Some(qemu) = find(Qemu::NAME, own) {
            row.extend([figure(&qemu.wall), figure(&qemu.cpu)]);
            row.extend([ratio(qemu.wall.over(&own.wall)), ratio(qemu.cpu.over(&own.cpu))]);
        }
        table.row(row);
    }
    text += &table.render(look);
    text.push('\n');
    text += &limits_lines(&report.limits);
    if let Some(kick) = &report.empty_kick {
        let (wall, cpu) = (figure(&kick.wall), figure(&kick.cpu));
        let _ = writeln!(text, "a kick of QEMU without a request, over its qtest socket: {wall}, CPU {cpu}");
    }
    if let (Some(one), Some(last)) =
        (report.points.iter().find(|p| p.peer == Daemon::NAME && p.per_kick == 1), report.limits.first())
    {
        let _ = writeln!(
            text,
            "one request per kick ÷ shared memory round trip: {}",
            ratio(one.wall.median / last.shared_memory.median)
        );
    }
    text += &idle_line(&report.idle);
    text + &absent_lines(&report.absent)
}

/// The file servers' results: processor time, then wall time.
pub(crate) fn files_table(report: &FilesReport, look: Look) -> String {
    let cpu = one_table(report, "server CPU per operation", look, |point| &point.cpu);
    let wall = one_table(report, "wall time per operation", look, |point| &point.wall);
    let (idle, absent) = (idle_line(&report.idle), absent_lines(&report.absent));
    format!("{cpu}\n{wall}\n{SPREAD}{idle}{absent}")
}

fn one_table(report: &FilesReport, title: &str, look: Look, of: impl Fn(&FilePoint) -> &Figure) -> String {
    let mut head = vec![title, "depth"];
    head.extend(&report.peers);
    let mut table = Table::new(&head);
    for (work, depth) in report.rows() {
        let mut row = vec![work.to_string(), depth.to_string()];
        for peer in &report.peers {
            row.push(report.find(peer, work, depth).map(&of).map_or("–".to_owned(), figure));
        }
        table.row(row);
    }
    table.render(look)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["a", "bb"]);
        table.row(vec!["ccc".to_owned(), "µ".to_owned()]);
        assert_eq!(table.render(Look::Plain), "a    bb\nccc   µ\n");
        assert_eq!(table.render(Look::Markdown), "| a | bb |\n|---|---:|\n| ccc | µ |\n");
    }

    #[test]
    fn times_have_three_digits() {
        let shown = [1.23, 45.6, 999.9, 12_345.0, 123_456.0, 2e6].map(time);
        assert_eq!(shown, ["1.2 ns", "46 ns", "1.00 µs", "12.3 µs", "123 µs", "2.00 ms"]);
    }
}
