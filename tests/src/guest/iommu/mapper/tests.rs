use super::*;
use crate::guest::address::PAGE_BYTES;
use crate::guest::fake::{FakeDevice, FakeIommu};
use crate::guest::iommu::{IommuOptions, IovaOrder};
use crate::guest::memory::GuestMemory;
use crate::guest::vhost_user::{VhostUserDevice, VhostUserOptions};

const DOMAIN: u32 = 3;
const ENDPOINT: u32 = 9;
/// Addresses of a mapper that its device takes, the lowest ones, and such that it refuses.
const GOOD: u64 = 4;
const REFUSED: u64 = 2;

/// A mapper whose IOVAs run over the end of what the device takes.
fn mapper(fake: &FakeDevice<FakeIommu>, mapping: Mapping) -> DomainMapper {
    let memory = Arc::new(GuestMemory::new(8).unwrap());
    let device = VhostUserDevice::connect(Arc::clone(&memory), VhostUserOptions::new(fake.socket(), 2)).unwrap();
    let iommu = Iommu::start(Box::new(device), memory, &IommuOptions::default()).unwrap();
    iommu.attach(DOMAIN, ENDPOINT, 0).unwrap();
    let end = FakeIommu::LAST_IOVA + 1;
    let iova = IovaAllocator::new(end - GOOD * PAGE, end + REFUSED * PAGE - 1, &[], IovaOrder::BottomUp);
    DomainMapper::new(Arc::new(iommu), DOMAIN, iova, mapping)
}

/// The `number`-th page of guest memory.
fn page(number: u64, lasting: bool) -> Buffer {
    Buffer { gpa: GuestPhys(number * PAGE), bytes: PAGE_BYTES, direction: Direction::ToDevice, lasting }
}

#[test]
fn refused_maps_of_a_batch_give_their_addresses_back() {
    for (mapping, kept) in [(Mapping::StrictTogether, 0), (Mapping::StrictData, 1)] {
        let fake = FakeDevice::start(FakeIommu::new());
        let mapper = mapper(&fake, mapping);
        // One of the driver's own among the data.
        let buffers: Vec<_> = (1..=GOOD + REFUSED).map(|number| page(number, number == 2)).collect();
        let mut mapped = Vec::new();
        for round in 0..3 {
            let error = mapper.map_all(&buffers, &mut mapped).unwrap_err();
            let refused = matches!(error, DmaError::Iommu(IommuError::Refused { status: Status::Range, .. }));
            assert!(refused, "{mapping:?}, round {round}: {error}");
            assert_eq!(mapped.len() as u64, GOOD);
            for (mapped, buffer) in mapped.iter().zip(&buffers) {
                assert_eq!(fake.model.translate(ENDPOINT, mapped.address.0, false), Some(buffer.gpa.0));
            }
            assert_eq!(mapper.state().iova.free_pages(), REFUSED);

            mapper.unmap_all(&mut mapped).unwrap();
            assert!(mapped.is_empty());
            assert_eq!(mapper.state().iova.free_pages(), GOOD + REFUSED - kept);
            assert_eq!(fake.model.state().domains[&DOMAIN].len() as u64, kept);
        }
    }
}

#[test]
fn a_batch_without_enough_addresses_maps_what_it_can() {
    let fake = FakeDevice::start(FakeIommu::new());
    let mapper = mapper(&fake, Mapping::StrictData);
    mapper.state().iova.take(GOOD - 1).unwrap();
    let left = mapper.state().iova.free_pages();
    assert_eq!(left, 1 + REFUSED);
    let buffers: Vec<_> = (0..left + 2).map(|number| page(number, false)).collect();
    let mut mapped = Vec::new();
    let error = mapper.map_all(&buffers, &mut mapped).unwrap_err();
    assert!(matches!(error, DmaError::IovaExhausted { pages: 1 }), "{error}");
    assert_eq!(mapped.len(), 1);
    mapper.unmap_all(&mut mapped).unwrap();
    assert_eq!(mapper.state().iova.free_pages(), left);
}

#[test]
fn several_requests_are_mapped_at_the_same_time() {
    // The order of the pages, those of a wave together, and how many of the driver's own stay.
    for (mapping, order, stay) in [
        (Mapping::Strict, &[1, 11, 2, 12, 3, 13][..], 0),
        (Mapping::StrictTogether, &[1, 2, 3, 11, 12, 13], 0),
        (Mapping::StrictData, &[2, 3, 12, 13], 2),
        (Mapping::Lazy, &[1, 2, 3, 11, 12, 13], 0),
    ] {
        let fake = FakeDevice::start(FakeIommu::new());
        let mapper = mapper(&fake, mapping);
        mapper.state().iova = IovaAllocator::new(PAGE, 17 * PAGE - 1, &[], IovaOrder::BottomUp);
        let request = |first| Reach {
            buffers: [first, first + 1, first + 2].map(|number| page(number, number == first)).to_vec(),
            mapped: Vec::new(),
        };
        let mut requests = [request(1), request(11)];
        // What is kept is mapped before.
        mapper.map_requests(&mut requests).unwrap();
        mapper.unmap_requests(&mut requests).unwrap();
        fake.model.state().mapped.clear();
        mapper.map_requests(&mut requests).unwrap();
        assert_eq!(fake.model.state().mapped, order, "{mapping:?}");
        for Reach { buffers, mapped } in &requests {
            assert_eq!(mapped.len(), buffers.len());
            for (mapped, buffer) in mapped.iter().zip(buffers) {
                assert_eq!(fake.model.translate(ENDPOINT, mapped.address.0, false), Some(buffer.gpa.0), "{mapping:?}");
            }
        }
        mapper.unmap_requests(&mut requests).unwrap();
        mapper.flush().unwrap();
        assert_eq!(fake.model.state().domains[&DOMAIN].len(), stay);
        assert_eq!(mapper.state().iova.free_pages(), 16 - stay as u64, "{mapping:?}");
    }
}

#[test]
fn what_was_mapped_for_several_requests_before_an_error_can_be_unmapped() {
    for mapping in [Mapping::Strict, Mapping::StrictTogether, Mapping::StrictData, Mapping::Lazy] {
        let fake = FakeDevice::start(FakeIommu::new());
        let mapper = mapper(&fake, mapping);
        let request = |first| Reach {
            buffers: [first, first + 1, first + 2].map(|number| page(number, false)).to_vec(),
            mapped: Vec::new(),
        };
        let mut requests = [request(1), request(11)];
        mapper.map_requests(&mut requests).unwrap_err();
        mapper.unmap_requests(&mut requests).unwrap();
        mapper.flush().unwrap();
        assert_eq!(mapper.state().iova.free_pages(), GOOD + REFUSED, "{mapping:?}");
        assert!(fake.model.state().domains[&DOMAIN].is_empty(), "{mapping:?}");
    }
}
