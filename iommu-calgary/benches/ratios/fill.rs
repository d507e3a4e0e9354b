//! Filling a run of entries, against filling as much memory with one value.

use std::hint::black_box;

use iommu_calgary::{Permissions, RealAddr, TableSize, Tce, TceTable};

use crate::turns::best_of;
use crate::{Goal, Row, memory};

pub(crate) fn rows() -> Vec<Row> {
    [(512, "512 entries"), (1 << 20, "1 Mi entries")].map(|(entries, name)| row(entries, name)).into()
}

fn row(entries: usize, name: &str) -> Row {
    let table = TceTable::new(TableSize::GiB4).unwrap();
    let bare = memory::writable(entries);
    let repeat = ((1 << 20) / entries as u64).max(4);
    let tce = Tce::new(RealAddr(0x1_0000_0000), Permissions::READ_WRITE);
    let [ours, theirs] = best_of([
        &mut || {
            for _ in 0..repeat {
                black_box(&table).fill(0, entries - 1, black_box(tce));
            }
            repeat * entries as u64
        },
        &mut || {
            for round in 0..repeat {
                memory::fill(black_box(&mut *bare), black_box(round));
            }
            repeat * entries as u64
        },
    ]);
    Row {
        what: format!("fill {name}, speed against a vectorised fill of as much memory"),
        figure: format!("{:.2} against {:.2} G entries/s", 1.0 / ours, 1.0 / theirs),
        ratio: theirs / ours,
        goal: Goal::AtLeast(0.5),
    }
}
