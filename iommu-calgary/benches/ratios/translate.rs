//! A translation that hits, against one load from the same table at the same place.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use iommu_calgary::{
    Access, Calgary, DmaPort, DomainId, DomainKind, EndpointId, Fences, Iova, Limits, PAGE_SIZE, Permissions, RealAddr,
    TableSize, TceTable,
};

use crate::turns::{Dice, best_of};
use crate::{Goal, Row};

const TRANSLATIONS: usize = 1 << 16;
/// Translations of one request: its descriptors and buffers.
const OF_ONE_REQUEST: usize = 16;
const DOMAIN: DomainId = DomainId(1);

struct Unit {
    _iommu: Calgary,
    port: DmaPort,
    table: Arc<TceTable>,
}

impl Unit {
    fn new(size: TableSize, fences: Fences) -> Self {
        let mut iommu = Calgary::new(size, Limits { fences, ..Limits::default() }).unwrap();
        let phb = iommu.add_endpoint(EndpointId(1)).unwrap();
        iommu.attach(DOMAIN, EndpointId(1), DomainKind::Translated).unwrap();
        for page in 0..size.entries() as u64 {
            // Every page leads elsewhere, so no run is longer than a page.
            let (first, last) = (Iova(page * PAGE_SIZE), Iova((page + 1) * PAGE_SIZE - 1));
            let real = RealAddr((page ^ 1) * PAGE_SIZE);
            iommu.map(DOMAIN, first, last, real, Permissions::READ_WRITE).unwrap();
        }
        iommu.commit(Duration::ZERO);
        let table = Arc::clone(iommu.domain(DOMAIN).unwrap().table());
        Self { port: phb.new_port(), table, _iommu: iommu }
    }

    fn translate(&mut self, iovas: &[Iova], per_epoch: usize) -> u64 {
        let mut sum = 0;
        for iovas in iovas.chunks(per_epoch) {
            let epoch = self.port.enter();
            for &iova in iovas {
                sum += epoch.translate(iova, 64, Access::Read).unwrap().real.0;
            }
        }
        black_box(sum);
        iovas.len() as u64
    }

    fn load(&self, iovas: &[Iova]) -> u64 {
        let mut sum = 0_u64;
        for iova in iovas {
            let index = usize::try_from(iova.0 / PAGE_SIZE).unwrap();
            sum = sum.wrapping_add(self.table.load(index).unwrap().value());
        }
        black_box(sum);
        iovas.len() as u64
    }
}

/// The same work several times in one turn, so that the turns before it do not decide what is in the caches.
fn passes(mut work: impl FnMut() -> u64) -> u64 {
    (0..8).map(|_| work()).sum()
}

pub(crate) fn rows() -> Vec<Row> {
    [TableSize::MiB512, TableSize::GiB4].into_iter().flat_map(rows_of).collect()
}

fn rows_of(size: TableSize) -> Vec<Row> {
    let (mut symmetric, mut asymmetric) = (Unit::new(size, Fences::Symmetric), Unit::new(size, Fences::Asymmetric));
    let bare = Unit::new(size, Fences::Symmetric);
    let mut dice = Dice(11);
    let iovas: Vec<Iova> =
        (0..TRANSLATIONS).map(|_| Iova(dice.below(size.entries()) as u64 * PAGE_SIZE + 64)).collect();
    let mut symmetric_too = Unit::new(size, Fences::Symmetric);
    let [one, request, light, load] = best_of([
        &mut || passes(|| symmetric.translate(&iovas, 1)),
        &mut || passes(|| symmetric_too.translate(&iovas, OF_ONE_REQUEST)),
        &mut || passes(|| asymmetric.translate(&iovas, 1)),
        &mut || passes(|| bare.load(&iovas)),
    ]);
    let row = |what: &str, figure: f64, goal| Row {
        what: format!("translate a random hit in a window of {size}, {what}, against one load"),
        figure: format!("{figure:.1} against {load:.1} ns"),
        ratio: figure / load,
        goal,
    };
    vec![
        row("16 per epoch", request, Goal::AtMost(4.0)),
        row("one per epoch", one, Goal::None),
        row("one per epoch, asymmetric fences", light, Goal::AtMost(4.0)),
    ]
}
