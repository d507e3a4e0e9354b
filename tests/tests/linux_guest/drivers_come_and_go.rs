//! The order and number of times in which Linux binds its drivers.

use crate::rig::Rig;

#[test]
fn a_driver_is_bound_a_hundred_times() {
    let Some(rig) = Rig::new() else { return };
    let guest = rig.guest().spawn().unwrap();
    guest.wait_ready().unwrap();
    let rings = rig.mapped_pages();
    guest
        .check(
            "cd /sys/bus/virtio/drivers/9pnet_virtio; \
             name=$(basename $(ls -d /sys/bus/pci/devices/0000:00:06.0/virtio*)); i=0; \
             while [ $i -lt 100 ]; do echo $name > unbind && echo $name > bind || break; i=$((i + 1)); done; [ $i = 100 ]",
        )
        .unwrap();
    rig.wait_for_pages(rings);
    guest.check(". /guest/lib.sh; mount_tag translated /mnt/t && echo still here > /mnt/t/note").unwrap();
    assert_eq!(std::fs::read(rig.shared().join("note")).unwrap(), b"still here\n");
    guest.quit().unwrap();
    rig.assert_clean();
}

#[test]
fn a_device_waits_for_its_iommu() {
    let Some(rig) = Rig::new() else { return };
    // The 9P driver first: Linux defers the device until the IOMMU that the VIOT names has a driver.
    let guest = rig.guest().modules(["9p", "9pnet_virtio", "virtio-iommu"]).spawn().unwrap();
    guest.wait_ready().unwrap();
    guest.check(". /guest/lib.sh; mount_tag translated /mnt/t && ls /mnt/t").unwrap();
    assert_ne!(guest.check(". /guest/lib.sh; group_of $(device_of translated)").unwrap(), "none");
    assert!(rig.stats().maps > 0);
    guest.quit().unwrap();
    rig.assert_clean();
}
