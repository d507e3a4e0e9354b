//! What makes the daemon fast can be switched off, and guests notice nothing.

use calgary_tests::guest::Mapping;
use calgary_tests::guest::demo::transfer;
use calgaryd::device::Mechanisms;

use crate::rig::Rig;

#[test]
fn data_is_the_same_without_any_of_them() {
    let all = Mechanisms::default();
    let without = [
        Mechanisms { batching: false, ..all },
        Mechanisms { coalescing: false, ..all },
        Mechanisms { zero_copy: false, ..all },
    ];
    for mechanisms in without {
        let rig = Rig::with_mechanisms(mechanisms);
        let mut guest = rig.guest(Mapping::StrictTogether);
        for share in &mut guest.shares {
            let report = transfer(share, b"transfer.bin", 2).unwrap();
            assert!(report.is_intact(), "{mechanisms:?}");
        }
        let stats = rig.iommu().stats().snapshot();
        assert_eq!(stats.largest_batch == 1, !mechanisms.batching, "{mechanisms:?}");
    }
}
