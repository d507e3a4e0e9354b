//! What a batch saves the hardware: 128 UNMAPs of one page at once, against 128 batches of one, on the realistic model.

use std::time::Duration;

use iommu_calgary::chip::model::{Costs, Counters, Knobs, Mode, Model};
use iommu_calgary::driver::Driven;
use iommu_calgary::registers::{PhbIndex, Variant};
use iommu_calgary::{
    Calgary, DomainId, DomainKind, EndpointId, Iova, Limits, PAGE_SIZE, Permissions, RealAddr, Request, TableSize,
};

use crate::{Goal, Row};

const UNMAPS: u64 = 128;
const DOMAIN: DomainId = DomainId(1);
const FIRST_PAGE: u64 = 0x100;

fn cost(variant: Variant, batch: usize) -> Counters {
    let chip = Driven::new(Model::new(variant, Knobs::new(Mode::Realistic, 3))).unwrap();
    let mut unit = Calgary::over(chip, TableSize::MiB512, Limits::default()).unwrap();
    unit.bring_up(EndpointId(0), PhbIndex::ALL[0], 0).unwrap();
    unit.attach(DOMAIN, EndpointId(0), DomainKind::Translated).unwrap();
    let bounds = |page: u64| (Iova(page * PAGE_SIZE), Iova((page + 1) * PAGE_SIZE - 1));
    for page in FIRST_PAGE..FIRST_PAGE + UNMAPS {
        let (first, last) = bounds(page);
        unit.map(DOMAIN, first, last, RealAddr(page << 20), Permissions::READ_WRITE).unwrap();
    }
    unit.commit(Duration::from_secs(10));
    let traffic = (FIRST_PAGE..FIRST_PAGE + UNMAPS).map(|page| (PhbIndex::ALL[0], usize::try_from(page).unwrap()));
    unit.chip_mut().hardware_mut().set_traffic(traffic.collect());
    unit.chip_mut().hardware_mut().run(2000);

    let before = unit.chip().hardware().counters();
    let requests: Vec<_> = (FIRST_PAGE..FIRST_PAGE + UNMAPS)
        .map(|page| {
            let (first, last) = bounds(page);
            Request::Unmap { domain: DOMAIN, first, last }
        })
        .collect();
    for requests in requests.chunks(batch) {
        let mut results = Vec::new();
        let commit = unit.apply(requests, Duration::from_secs(10), &mut results);
        assert!(commit.broken.is_empty() && results.iter().all(Result::is_ok));
    }
    unit.chip().hardware().counters() - before
}

pub(crate) fn rows() -> Vec<Row> {
    [Variant::Calgary, Variant::CalIoc2].into_iter().flat_map(rows_of).collect()
}

fn rows_of(variant: Variant) -> Vec<Row> {
    let (together, apart) = (cost(variant, 128), cost(variant, 1));
    let row = |what: &str, apart: f64, together: f64, unit: &str, goal| Row {
        what: format!("128 UNMAPs in 128 batches against one batch, {variant}: {what}"),
        figure: format!("{apart:.0} against {together:.0}{unit}"),
        ratio: apart / together,
        goal,
    };
    let count = |count: u64| count as f64;
    let micros = |counters: &Counters| Costs::default().of_driver(counters).as_secs_f64() * 1e6;
    let goal = Goal::AtLeast(50.0);
    vec![
        row("invalidations", count(apart.invalidations), count(together.invalidations), "", goal),
        row("lines flushed", count(apart.line_flushes), count(together.line_flushes), "", Goal::None),
        row(
            "register accesses",
            count(apart.mmio_reads + apart.mmio_writes),
            count(together.mmio_reads + together.mmio_writes),
            "",
            Goal::None,
        ),
        row("ticks of a stopped bus", count(apart.stopped_ticks), count(together.stopped_ticks), "", Goal::None),
        row("driver's time at assumed costs", micros(&apart), micros(&together), " µs", Goal::None),
    ]
}
