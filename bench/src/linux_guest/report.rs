//! The table.

use super::load::Work;
use super::run::{GuestPoint, GuestReport};
use crate::measure::Figure;
use crate::peers::Qemu;
use crate::report::{Look, Table, absent_lines, figure, idle_line, ratio};

/// What the columns are.
const MEANING: &str = "\
Each row: one server, outside its IOMMU (off) and behind it, in the same boot of the same guest; samples of all servers turn
about. safety: throughput behind the IOMMU in parts of that without (the guest's wall time), and the server's processor time
so compared. QEMU ÷: how many times as long QEMU takes behind its own IOMMU. The guest's processor is emulated, and its own
work is most of the wall time, so that processor time tells servers apart better. calgaryd's processor time is that of
its process; QEMU's is that of its process without the thread that is the guest's processor.
";

/// One row for each kind of work, mode and server.
pub(crate) fn text(report: &GuestReport, look: Look) -> String {
    let points = &report.points;
    let head =
        ["work", "mode", "server", "off", "CPU off", "on", "CPU on", "safety", "its CPU", "QEMU ÷", "QEMU's CPU ÷"];
    let mut table = Table::new(&head);
    for work in Work::ALL {
        for point in points.iter().filter(|point| point.work == work) {
            let [wall_off, cpu_off] = &point.off;
            let [wall, cpu] = &point.on;
            let same = |other: &&GuestPoint| {
                other.server == Qemu::NAME && other.mode == point.mode && other.work == point.work
            };
            let qemu = points.iter().find(same).filter(|qemu| qemu.server != point.server);
            let beside =
                |part: usize, own: &Figure| qemu.map_or("–".to_owned(), |qemu| ratio(qemu.on[part].over(own)));
            table.row(vec![
                work.title().to_owned(),
                point.mode.name().to_owned(),
                point.server.to_owned(),
                figure(wall_off),
                figure(cpu_off),
                figure(wall),
                figure(cpu),
                ratio(wall_off.over(wall)),
                ratio(cpu.over(cpu_off)),
                beside(0, wall),
                beside(1, cpu),
            ]);
        }
    }
    let mut text = format!("{}\n{MEANING}", table.render(look));
    for (mode, idle) in &report.idle {
        text += &format!("{}: {}", mode.name(), idle_line(idle));
    }
    text + &absent_lines(&report.absent)
}
