//! The mapped chip, against a file on which the model acts.
//!
//! Before each read the model puts what its register holds into the file, in the chip's byte order; after each write it
//! takes what the file holds. So what the mapped chip reads and writes is what the model gives and gets, or the test fails.
//! Frames are scattered, so that a page number that was not resolved shows.

mod acting;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use iommu_calgary::chip::mapped::{PageResolver, Pagemap};
use iommu_calgary::chip::model::{Dma, Expected, Home, Knobs, Mode, Model};
use iommu_calgary::chip::{Hardware, PhysicalTable};
use iommu_calgary::driver::Driven;
use iommu_calgary::registers::{PhbIndex, Variant};
use iommu_calgary::{
    Access, Calgary, DomainId, DomainKind, EndpointId, Iova, Limits, MapError, Permissions, RealAddr, TableSize, Tce,
};
use rustix::fs::{MemfdFlags, memfd_create};

use acting::{Acting, RAM_PAGES, frame_of_ram};

const PATIENT: Duration = Duration::from_secs(600);
const DOMAIN: DomainId = DomainId(1);
const PHB: PhbIndex = PhbIndex::ALL[1];

struct Rig(Calgary<Driven<Acting>>);

impl Rig {
    fn new(variant: Variant) -> Self {
        let model = Model::new(variant, Knobs::new(Mode::Adversarial, 5));
        let chip = Driven::new(Acting::new(model)).unwrap();
        let mut unit = Calgary::over(chip, TableSize::MiB64, Limits::default()).unwrap();
        unit.bring_up(EndpointId(7), PHB, 1).unwrap();
        let mut rig = Self(unit);
        rig.model().acknowledge();
        rig.model().expect(Expected::Move { phb: PHB, home: Home::Domain(DOMAIN) });
        rig.0.attach(DOMAIN, EndpointId(7), DomainKind::Translated).unwrap();
        rig.commit();
        rig
    }

    fn model(&mut self) -> &mut Model {
        &mut self.0.chip_mut().hardware_mut().model
    }

    fn commit(&mut self) {
        assert_eq!(self.0.commit(PATIENT).broken, []);
        self.model().acknowledge();
    }

    fn map(&mut self, page: usize, pages: usize, real: usize) {
        for offset in 0..pages {
            let tce = Tce::new(RealAddr(frame_of_ram(real + offset)), Permissions::READ_WRITE);
            self.model().expect(Expected::Map { domain: DOMAIN, first: page + offset, last: page + offset, tce });
        }
        let (first, last) = bounds(page, pages);
        self.0.map(DOMAIN, first, last, RealAddr((real as u64) << 12), Permissions::READ_WRITE).unwrap();
    }

    fn unmap(&mut self, page: usize, pages: usize) {
        self.model().expect(Expected::Unmap { domain: DOMAIN, first: page, last: page + pages - 1 });
        let (first, last) = bounds(page, pages);
        assert_eq!(self.0.unmap(DOMAIN, first, last), Ok(1));
    }

    fn reach(&mut self, page: usize) -> Dma {
        loop {
            match self.model().dma(PHB, Iova((page as u64) << 12 | 0x123), Access::Read) {
                Dma::Waiting => self.model().run(10),
                settled => return settled,
            }
        }
    }
}

fn bounds(page: usize, pages: usize) -> (Iova, Iova) {
    (Iova((page as u64) << 12), Iova((((page + pages) as u64) << 12) - 1))
}

#[test]
fn devices_reach_the_frames_behind_the_guests_pages() {
    for variant in [Variant::Calgary, Variant::CalIoc2] {
        let mut rig = Rig::new(variant);
        rig.map(0x200, 100, 17);
        rig.commit();
        for offset in 0..100 {
            assert_eq!(rig.reach(0x200 + offset), Dma::Reached(RealAddr(frame_of_ram(17 + offset) | 0x123)));
        }
        rig.unmap(0x200, 100);
        rig.commit();
        assert_eq!(rig.reach(0x200), Dma::Refused);
        rig.map(0x200, 2, 3);
        rig.unmap(0x200, 2);
        rig.map(0x200, 3, 5);
        rig.commit();
        assert_eq!(rig.reach(0x202), Dma::Reached(RealAddr(frame_of_ram(7) | 0x123)));
        assert_eq!(rig.model().violations(), []);
    }
}

#[test]
fn pages_that_are_not_there_are_refused() {
    let mut rig = Rig::new(Variant::Calgary);
    let (first, last) = bounds(0x200, 2);
    for page in [RAM_PAGES - 1, RAM_PAGES, 1 << 30] {
        let real = RealAddr((page as u64) << 12);
        assert_eq!(rig.0.map(DOMAIN, first, last, real, Permissions::READ), Err(MapError::BadAddress));
    }
    let real = RealAddr((RAM_PAGES as u64 - 2) << 12);
    assert_eq!(rig.0.map(DOMAIN, first, last, real, Permissions::READ), Ok(()));
}

#[test]
fn tables_need_contiguous_aligned_frames_and_are_used_again() {
    let mut rig = Rig::new(Variant::Calgary);
    // The arena has room for a few tables, so memory that was not given back would end soon.
    for round in 0..50 {
        let other = DomainId(10 + round);
        rig.0.attach(other, EndpointId(7), DomainKind::Translated).unwrap();
        assert_eq!(rig.0.commit(PATIENT).broken, []);
    }
    let chip = &mut rig.0.chip_mut().hardware_mut().chip;
    let held: Vec<_> = (0..).map_while(|_| chip.allocate(TableSize::MiB64).ok()).collect();
    assert!((1..8).contains(&held.len()), "{} tables of 128 KiB in 1 MiB, most of it in use", held.len());
    for table in &held {
        assert!(table.base().is_multiple_of(128 << 10));
    }
}

#[test]
fn the_page_map_tells_what_it_does_not_tell() {
    let entry = |value: u64| {
        let file = File::from(memfd_create("pagemap", MemfdFlags::CLOEXEC).unwrap());
        let page = Box::new(Page([0; 4096]));
        let address = (&raw const *page).addr();
        file.write_all_at(&value.to_ne_bytes(), (address as u64 >> 12) * 8).unwrap();
        Pagemap::from_file(file).resolve(address).map_err(|error| error.kind())
    };
    assert_eq!(entry(1 << 63 | 0x12345), Ok(0x1234_5000));
    assert_eq!(entry(0x12345), Err(io::ErrorKind::NotFound));
    assert_eq!(entry(1 << 63), Err(io::ErrorKind::PermissionDenied));
}

#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "only its place matters")] [u8; 4096]);
