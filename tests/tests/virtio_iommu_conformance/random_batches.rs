//! Batches of random requests, one kick each, against the sequential [`model`](crate::model): the same statuses and, in
//! the end, the same tables.

use calgary_tests::guest::iommu::Request;
use calgary_tests::guest::queue::{IndirectTable, Segment};
use calgary_tests::guest::{GuestPhys, IommuOptions};
use iommu_calgary::{DomainId, DomainKind, EndpointId, Permissions, RealAddr, Tce};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner};

use crate::guest::{Guest, PAGE};
use crate::model::Model;
use crate::rig::{ENDPOINTS, NO_ENDPOINT, Rig, WINDOW};

/// Requests of one kick.
const BATCH: usize = 256;
const CASES: u32 = 48;
/// Poison of the tails.
const POISON: u8 = 0xa5;
/// Readable part, tail and descriptor table of one request.
const SLOT: u64 = 256;
const SLOT_TAIL: u64 = 128;
const SLOT_TABLE: u64 = 192;

/// Addresses in few places, so that ranges meet: the middle of the window, the reserved hole, the edges, and beyond.
fn range() -> impl Strategy<Value = (u64, u64)> {
    let page = prop_oneof![
        8 => 0x1000_u64..0x1020,
        2 => 0x9c_u64..0x104,
        2 => 0x3ffc_u64..0x4002,
        1 => 0_u64..3,
    ];
    let len = prop_oneof![6 => 1_u64..4, 2 => 1_u64..20, 1 => 60_u64..140];
    prop_oneof![
        40 => (page.clone(), len.clone()).prop_map(|(page, pages)| (page * PAGE, (page + pages) * PAGE - 1)),
        2 => (page.clone(), len, 0_u64..PAGE, 0_u64..PAGE)
            .prop_map(|(page, pages, skew, more)| (page * PAGE + skew, (page + pages) * PAGE - 1 + more)),
        1 => (page.clone(), page).prop_map(|(first, last)| (first * PAGE, last * PAGE)),
        1 => Just((0, u64::MAX)),
        1 => Just((u64::MAX - PAGE + 1, u64::MAX)),
        1 => any::<(u64, u64)>(),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let domain = || prop_oneof![12 => 0_u32..3, 1 => Just(u32::MAX), 1 => Just(1 << 31)];
    let endpoint = || prop_oneof![6 => Just(ENDPOINTS[0]), 6 => Just(ENDPOINTS[1]), 1 => Just(NO_ENDPOINT)];
    let target = prop_oneof![
        10 => (0_u64..0x4000).prop_map(|page| page * PAGE),
        1 => (0_u64..4).prop_map(|pages| (1 << 48) - pages * PAGE),
        1 => any::<u64>(),
    ];
    let flags = prop_oneof![10 => 0_u32..4, 1 => any::<u32>()];
    prop_oneof![
        3 => (domain(), endpoint(), prop_oneof![6 => Just(0_u32), 2 => Just(1), 1 => any::<u32>()])
            .prop_map(|(domain, endpoint, flags)| Request::Attach { domain, endpoint, flags }),
        1 => (domain(), endpoint()).prop_map(|(domain, endpoint)| Request::Detach { domain, endpoint }),
        24 => (domain(), range(), target, flags).prop_map(|(domain, (first, last), target, flags)| {
            Request::Map { domain, first, last, target: GuestPhys(target), flags }
        }),
        16 => (domain(), range()).prop_map(|(domain, (first, last))| Request::Unmap { domain, first, last }),
    ]
}

/// Makes all `requests` visible at once, kicks once, and returns the tails.
fn run_batch(guest: &Guest, requests: &[Request]) -> Vec<[u8; 4]> {
    let bytes = requests.len() * usize::try_from(SLOT).unwrap();
    let run = guest.memory.take_run(bytes).unwrap();
    let slots: Vec<GuestPhys> = (0..requests.len() as u64).map(|number| run + number * SLOT).collect();
    guest.iommu.with_requests(|queue| {
        let mut heads = Vec::new();
        for (request, &slot) in requests.iter().zip(&slots) {
            let readable = request.to_bytes();
            guest.memory.write(slot, &readable).unwrap();
            guest.memory.fill(slot + SLOT_TAIL, POISON, 4).unwrap();
            let segments = [
                Segment { address: slot.into(), bytes: u32::try_from(readable.len()).unwrap(), writable: false },
                Segment { address: (slot + SLOT_TAIL).into(), bytes: 4, writable: true },
            ];
            let table = slot + SLOT_TABLE;
            let table = IndirectTable { memory: table, device: table.into() };
            heads.push(queue.add(&segments, Some(table)).unwrap());
        }
        queue.publish().unwrap();
        queue.force_kick().unwrap();
        for _ in requests {
            let used = queue.take().unwrap();
            assert!(heads.contains(&used.head));
            assert_eq!(used.bytes, 4);
        }
    });
    let tail = |slot: &GuestPhys| guest.memory.read_vec(*slot + SLOT_TAIL, 4).unwrap().try_into().unwrap();
    let tails = slots.iter().map(tail).collect();
    guest.memory.give_run(run, bytes);
    tails
}

/// The device holds what the model holds: domains, kinds, attachments, mappings, and every entry of every table.
fn compare_tables(rig: &Rig, model: &Model) -> TestCaseResult {
    rig.iommu().inspect(|calgary| {
        let ids: Vec<u32> = calgary.domains().map(|domain| domain.0).collect();
        prop_assert_eq!(ids, model.domains.keys().copied().collect::<Vec<_>>());
        for (&endpoint, &domain) in &model.endpoints {
            prop_assert_eq!(calgary.endpoint_domain(EndpointId(endpoint)).map(|domain| domain.0), domain);
        }
        for (&id, expected) in &model.domains {
            let kind = if expected.bypass { DomainKind::Bypass } else { DomainKind::Translated };
            prop_assert_eq!(calgary.domain_kind(DomainId(id)), Some(kind));
            prop_assert_eq!(calgary.live_mappings_of(DomainId(id)), expected.mappings.len() as u64);
            let Some(domain) = calgary.domain(DomainId(id)) else { continue };
            let mut entries = vec![Tce::FREE; usize::try_from(WINDOW / PAGE).unwrap()];
            for (&first, mapping) in &expected.mappings {
                for page in 0..(mapping.last - first + 1) / PAGE {
                    let permissions = Permissions::new(mapping.flags & 1 != 0, mapping.flags & 2 != 0);
                    let real = RealAddr(mapping.target + page * PAGE);
                    entries[usize::try_from(first / PAGE + page).unwrap()] = Tce::new(real, permissions);
                }
            }
            for (index, entry) in entries.iter().enumerate() {
                prop_assert_eq!(domain.table().load(index), Some(*entry), "entry {:#x} of domain {}", index, id);
            }
        }
        Ok(())
    })
}

fn run_case(rig: &Rig, guest: &Guest, batches: &[Vec<Request>]) -> TestCaseResult {
    guest.reset();
    let reserved: Vec<_> = rig.iommu().reserved().iter().map(|region| (region.first, region.last)).collect();
    let mut model = Model::new(WINDOW, guest.iommu.config().domain_last, &reserved, &ENDPOINTS);
    for requests in batches {
        let tails = run_batch(guest, requests);
        for (index, (request, tail)) in requests.iter().zip(tails).enumerate() {
            let expected = [model.apply(*request), 0, 0, 0];
            prop_assert_eq!(tail, expected, "request {} of {}: {:x?}", index, requests.len(), request);
        }
        compare_tables(rig, &model)?;
    }
    Ok(())
}

#[test]
fn batches_of_256_requests_do_what_the_specification_says_one_by_one() {
    let rig = Rig::new();
    let guest = Guest::with_options(&rig, &IommuOptions { queue_size: 256, ..IommuOptions::default() });
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let batches = vec(vec(request(), 1..=BATCH), 0..2)
        .prop_flat_map(|first| vec(request(), BATCH).prop_map(move |last| [first.clone(), vec![last]].concat()));
    let outcome = runner.run(&batches, |batches| run_case(&rig, &guest, &batches));
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}
