//! Random batches, compared with a model that knows each page by itself, while devices keep reading.

use iommu_calgary::chip::model::{Knobs, Mode, Model};
use iommu_calgary::registers::Variant;
use iommu_calgary::{DomainId, DomainKind, EndpointId, Iova, PAGE_SIZE, Permissions, RealAddr, Request, TableSize};
use proptest::prelude::*;

use crate::assert_clean;
use crate::machine::Machine;

const PHBS: u32 = 3;
const DOMAINS: u32 = 3;

/// Pages that crowd where mistakes are: low ones above the first MiB, and the table's end.
fn page(entries: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0x100..0x140_u64,
        2 => entries - 40..entries + 2,
        1 => 0x100..entries,
    ]
}

fn permissions() -> impl Strategy<Value = Permissions> {
    (any::<bool>(), any::<bool>()).prop_map(|(read, write)| Permissions::new(read, write))
}

fn request(entries: u64) -> impl Strategy<Value = Request> {
    let domain = (0..DOMAINS).prop_map(DomainId);
    let endpoint = (0..PHBS).prop_map(EndpointId);
    let pages = prop_oneof![6 => 1..4_u64, 3 => 1..40_u64, 1 => 1..600_u64];
    let map = (domain.clone(), page(entries), pages.clone(), 0..1_u64 << 30, permissions());
    let map = map.prop_map(|(domain, page, pages, real, permissions)| Request::Map {
        domain,
        first: Iova(page * PAGE_SIZE),
        last: Iova((page + pages) * PAGE_SIZE - 1),
        real: RealAddr(real / 8 * PAGE_SIZE),
        permissions,
    });
    let unmap = (domain.clone(), page(entries), pages).prop_map(|(domain, page, pages)| Request::Unmap {
        domain,
        first: Iova(page * PAGE_SIZE),
        last: Iova((page + pages) * PAGE_SIZE - 1),
    });
    let unmap_all = domain.clone().prop_map(|domain| Request::Unmap { domain, first: Iova(0), last: Iova(u64::MAX) });
    let kind = prop_oneof![9 => Just(DomainKind::Translated), 1 => Just(DomainKind::Bypass)];
    let attach = (domain.clone(), endpoint.clone(), kind).prop_map(|(domain, endpoint, kind)| Request::Attach {
        domain,
        endpoint,
        kind,
    });
    let detach = (domain, endpoint).prop_map(|(domain, endpoint)| Request::Detach { domain, endpoint });
    prop_oneof![10 => map, 8 => unmap, 1 => unmap_all, 2 => attach, 1 => detach]
}

fn batches() -> impl Strategy<Value = (TableSize, Vec<Vec<Request>>)> {
    (0..TableSize::ALL.len()).prop_flat_map(|code| {
        let size = TableSize::ALL[code];
        let batch = prop::collection::vec(request(size.entries() as u64), 1..20);
        (Just(size), prop::collection::vec(batch, 1..8))
    })
}

fn compare(variant: Variant, mode: Mode, seed: u64, size: TableSize, batches: &[Vec<Request>]) {
    let mut machine = Machine::new(Model::new(variant, Knobs::new(mode, seed)), size, PHBS as usize);
    let homes: Vec<_> = (0..PHBS)
        .map(|phb| Request::Attach {
            domain: DomainId(phb % DOMAINS),
            endpoint: EndpointId(phb),
            kind: DomainKind::Translated,
        })
        .collect();
    machine.run(&homes);
    for batch in batches {
        machine.stir();
        let commit = machine.run(batch);
        assert_eq!(commit.broken, []);
        machine.sweep_and_compare();
    }
    assert_clean(&mut machine);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn calgary_does_as_the_naive_model((size, batches) in batches(), seed in any::<u64>()) {
        compare(Variant::Calgary, Mode::Adversarial, seed, size, &batches);
        compare(Variant::Calgary, Mode::Realistic, seed, size, &batches);
    }

    #[test]
    fn calioc2_does_as_the_naive_model((size, batches) in batches(), seed in any::<u64>()) {
        compare(Variant::CalIoc2, Mode::Adversarial, seed, size, &batches);
        compare(Variant::CalIoc2, Mode::Realistic, seed, size, &batches);
    }
}
