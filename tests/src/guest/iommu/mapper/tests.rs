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
