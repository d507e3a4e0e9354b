//! MAP and UNMAP of one page, with more and more live mappings.
//!
//! In every case the mappings, and the 8 Ki pages that are mapped and unmapped, lie at random over the whole window, so
//! all cases miss the same caches, and what differs is the number of mappings. Requests come in batches of 128, as a driver's queue holds them: 128 MAPs and a commit,
//! then 128 UNMAPs and a commit.

use std::hint::black_box;
use std::time::Duration;

use iommu_calgary::{
    Calgary, DomainId, DomainKind, EndpointId, Iova, Limits, PAGE_SIZE, Permissions, Phb, RealAddr, TableSize,
};

use crate::turns::{Dice, best_of};
use crate::{Goal, Row, memory};

const BATCH: usize = 128;
const BATCHES: usize = 64;
/// Pages that are mapped and unmapped.
const POOL: usize = BATCH * BATCHES;
const DOMAIN: DomainId = DomainId(1);

struct Unit {
    iommu: Calgary,
    /// Keeps a port registered, as a device does.
    _port: iommu_calgary::DmaPort,
    /// Pages that are free, in random order; a batch takes some and gives them back.
    free: Vec<usize>,
    next: usize,
}

impl Unit {
    fn new(live: usize) -> Self {
        let size = TableSize::GiB4;
        let mut iommu = Calgary::new(size, Limits::default()).unwrap();
        let phb: std::sync::Arc<Phb> = iommu.add_endpoint(EndpointId(1)).unwrap();
        iommu.attach(DOMAIN, EndpointId(1), DomainKind::Translated).unwrap();
        let mut pages = Dice(7).permutation(size.entries());
        let mut free = pages.split_off(live.min(size.entries() - POOL));
        free.truncate(POOL);
        let mut unit = Self { iommu, _port: phb.new_port(), free, next: 0 };
        for page in pages {
            unit.map(page);
        }
        unit.commit();
        unit
    }

    fn map(&mut self, page: usize) {
        let first = page as u64 * PAGE_SIZE;
        let last = Iova(first + (PAGE_SIZE - 1));
        self.iommu.map(DOMAIN, Iova(first), last, RealAddr(first), Permissions::READ_WRITE).unwrap();
    }

    fn unmap(&mut self, page: usize) {
        let first = page as u64 * PAGE_SIZE;
        self.iommu.unmap(DOMAIN, Iova(first), Iova(first + (PAGE_SIZE - 1))).unwrap();
    }

    fn commit(&mut self) {
        assert!(self.iommu.commit(Duration::ZERO).broken.is_empty());
    }

    fn work(&mut self, batch: usize) -> u64 {
        for _ in 0..POOL / batch {
            if self.next + batch > self.free.len() {
                self.next = 0;
            }
            for at in self.next..self.next + batch {
                self.map(self.free[at]);
            }
            self.commit();
            for at in self.next..self.next + batch {
                self.unmap(self.free[at]);
            }
            self.commit();
            self.next += batch;
        }
        POOL as u64
    }
}

pub(crate) fn rows() -> Vec<Row> {
    let counts = [(64, "64"), (4 << 10, "4 Ki"), (64 << 10, "64 Ki"), (1 << 20, "1 Mi − 8 Ki")];
    let [mut few, mut some, mut many, mut full] = counts.map(|(live, _)| Unit::new(live));
    let mut single = Unit::new(64 << 10);
    let bare = memory::writable(TableSize::GiB4.entries());
    let places: Vec<usize> = Dice(9).permutation(bare.len());
    let mut place = 0;
    let [a, b, c, d, one, store] = best_of([
        &mut || few.work(BATCH),
        &mut || some.work(BATCH),
        &mut || many.work(BATCH),
        &mut || full.work(BATCH),
        &mut || single.work(1),
        &mut || {
            for _ in 0..POOL {
                bare[places[place]] = black_box(place as u64);
                place = (place + 1) % places.len();
            }
            POOL as u64
        },
    ]);
    let figures = [a, b, c, d];
    let mut rows: Vec<Row> = figures
        .into_iter()
        .zip(counts)
        .map(|(figure, (_, name))| Row {
            what: format!("MAP + UNMAP of one page, {name} live mappings, against a random 8-byte store"),
            figure: format!("{figure:.0} against {store:.1} ns"),
            ratio: figure / store,
            goal: Goal::AtMost(30.0),
        })
        .collect();
    let (least, most) = (figures.into_iter().fold(f64::MAX, f64::min), figures.into_iter().fold(0.0, f64::max));
    rows.push(Row {
        what: "the slowest of these against the fastest".to_owned(),
        figure: format!("{most:.0} against {least:.0} ns"),
        ratio: most / least,
        goal: Goal::AtMost(2.0),
    });
    rows.push(Row {
        what: "the same with a commit after each MAP and each UNMAP, 64 Ki live mappings".to_owned(),
        figure: format!("{one:.0} against {store:.1} ns"),
        ratio: one / store,
        goal: Goal::None,
    });
    rows
}
