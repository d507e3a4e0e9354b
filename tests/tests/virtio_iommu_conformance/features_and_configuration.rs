//! R01–R07: feature bits and configuration space (virtio 1.2 §5.13.3, §5.13.4).

use calgary_tests::guest::IommuOptions;
use calgary_tests::guest::iommu::{F_BYPASS, F_BYPASS_CONFIG, F_MAP_UNMAP, IommuConfig};

use crate::guest::Guest;
use crate::rig::Rig;

const BYPASS_OFFSET: usize = IommuConfig::BYPASS_OFFSET as usize;

fn write(guest: &Guest, offset: u32, bytes: &[u8]) {
    guest.iommu.with_device(|device| device.write_config(offset, bytes)).unwrap();
}

fn offered(guest: &Guest) -> u64 {
    guest.iommu.with_device(|device| device.offered())
}

#[test]
fn r01_map_unmap_is_offered() {
    let rig = Rig::new();
    assert_ne!(offered(&Guest::boot(&rig)) & F_MAP_UNMAP, 0);
}

#[test]
fn r02_the_old_bypass_bit_is_not_offered() {
    let rig = Rig::new();
    let offered = offered(&Guest::boot(&rig));
    assert_eq!(offered & F_BYPASS, 0);
    assert_ne!(offered & F_BYPASS_CONFIG, 0);
}

#[test]
fn r03_page_size_mask_names_a_granule() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let config = IommuConfig::parse(&guest.config_bytes());
    assert_eq!((config.page_size_mask, config.granule()), (0x1000, 0x1000));
}

#[test]
fn r04_bypass_reads_as_0_or_1_whatever_is_written() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    for start in [0, 1] {
        for value in 0..=u8::MAX {
            // Alone, in an aligned word, in half of one, and as part of the whole space.
            let word = [value, 0xff, 0xff, 0xff];
            let mut whole = [0xff; 40];
            whole[BYPASS_OFFSET] = value;
            let writes: [(u32, &[u8]); 5] =
                [(36, &word[..1]), (36, &word[..2]), (36, &word), (32, &[0xff, 0xff, 0xff, 0xff, value]), (0, &whole)];
            for (offset, bytes) in writes {
                guest.iommu.set_bypass(start).unwrap();
                write(&guest, offset, bytes);
                let expected = if value <= 1 { value } else { start };
                let context = format!("{value} written with {} bytes at {offset}", bytes.len());
                assert_eq!(guest.iommu.bypass().unwrap(), expected, "{context}");
                assert_eq!(rig.iommu().bypass(), expected == 1, "{context}");
            }
        }
    }
}

#[test]
fn r05_bypass_survives_a_device_reset() {
    for configured in [false, true] {
        let rig = Rig::with_bypass(configured);
        let guest = Guest::boot(&rig);
        assert_eq!(guest.iommu.bypass().unwrap(), u8::from(configured), "the initial value is the configured one");
        for value in [1, 0] {
            guest.iommu.set_bypass(value).unwrap();
            guest.reset();
            assert_eq!(guest.iommu.bypass().unwrap(), value);
        }
    }
}

#[test]
fn r06_writes_to_all_other_bytes_have_no_effect() {
    let rig = Rig::new();
    let guest = Guest::boot(&rig);
    let before = guest.config_bytes();
    assert_eq!(before[37..], [0; 3], "reserved");
    for value in [0, 1, 0xff] {
        for (offset, bytes) in (0_u32..40).flat_map(|offset| [1, 2, 4, 8].map(|bytes| (offset, bytes))) {
            let end = offset as usize + bytes;
            if end > 40 || (offset as usize..end).contains(&BYPASS_OFFSET) {
                continue;
            }
            write(&guest, offset, &[value; 8][..bytes]);
            assert_eq!(guest.config_bytes(), before, "{bytes} bytes of {value:#x} at {offset}");
        }
    }
}

#[test]
fn r07_bypass_cannot_be_written_unless_bypass_config_was_negotiated() {
    for configured in [false, true] {
        let rig = Rig::with_bypass(configured);
        let features = IommuOptions::default().features & !F_BYPASS_CONFIG;
        let guest = Guest::with_features(&rig, features);
        for value in [0, 1, 2, 0xff] {
            guest.iommu.set_bypass(value).unwrap();
            assert_eq!(guest.iommu.bypass().unwrap(), u8::from(configured));
            assert_eq!(rig.iommu().bypass(), configured);
        }
    }
}
