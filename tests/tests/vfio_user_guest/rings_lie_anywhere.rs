//! Ring addresses are IOVAs as the guest wrote them, so the window may be any of the eight sizes, whatever the RAM.

use calgary_tests::guest::{Mapping, transfer};
use iommu_calgary::TableSize;

use crate::rig::{Rig, WINDOW_MIB};

#[test]
fn any_window_serves_a_small_guest() {
    for window in TableSize::ALL {
        let rig = Rig::with(window, false);
        let mut guest = rig.guest(Mapping::Strict);
        let ring = *guest.shares[0].client.queue().ring().placement();
        // The driver takes the highest addresses first, below the window for interrupts.
        assert!(ring.descriptors.device.0 >= window.window_bytes() / 2, "{window:?}: {ring:x?}");
        if window.window_bytes() > WINDOW_MIB << 21 {
            assert!(guest.memory.host_address(calgary_tests::guest::GuestPhys(ring.descriptors.device.0), 1).is_err());
        }
        for share in &mut guest.shares {
            assert!(transfer(share, b"file", 1).unwrap().is_intact(), "{window:?}");
        }
        assert_eq!(rig.iommu().faults().recorded(), 0);
    }
}
