//! Shares that are unplugged while the guest runs, and plugged in again.

use std::time::{Duration, Instant};

use calgary_tests::vm::Machine;
use serde_json::json;

use crate::rig::{DIRECT, PATIENCE, Rig, SECOND, TRANSLATED};

/// Asks the guest to let go of a share's device.
fn ask_for(guest: &Machine, tag: &str) {
    guest.qmp("device_del", &json!({ "id": tag })).unwrap();
}

/// Waits until the guest has let go of it.
fn wait_until_gone(guest: &Machine, tag: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = guest.qmp("qom-list", &json!({ "path": "/machine/peripheral" })).unwrap();
        if found.as_array().unwrap().iter().all(|device| device["name"] != tag) {
            return;
        }
        assert!(Instant::now() < deadline, "{tag} is still there; {}", guest.evidence());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Plugs it in again. QEMU has closed the connection of its chardev, which is made anew.
fn plug(rig: &Rig, guest: &Machine, tag: &str) {
    let chardev = format!("chardev-{tag}");
    let address = json!({ "type": "unix", "data": { "path": rig.socket(tag) } });
    let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
    guest.qmp("chardev-remove", &json!({ "id": chardev })).unwrap();
    guest.qmp("chardev-add", &json!({ "id": chardev, "backend": backend })).unwrap();
    guest.qmp("device_add", &rig.device(tag)).unwrap();
}

#[test]
fn shares_with_groups_of_their_own_are_unplugged_and_plugged_in_again() {
    let Some(rig) = Rig::on_ports() else { return };
    let guest = rig.guest_with_ports().spawn().unwrap();
    guest.wait_ready().unwrap();
    guest.check(". /guest/lib.sh").unwrap();
    let group = |tag: &str| guest.check(&format!("group_of $(device_of {tag})")).unwrap();
    let groups = [group(TRANSLATED), group(SECOND)];
    assert!(groups[0] != groups[1] && !groups.contains(&"none".to_owned()), "{groups:?}");
    let rings = rig.mapped_pages();
    for round in 0..2 {
        for tag in [TRANSLATED, SECOND, DIRECT] {
            guest.check(&format!("mount_tag {tag} /mnt/{tag} && echo {tag} > /mnt/{tag}/{tag}-{round}")).unwrap();
            assert_eq!(
                std::fs::read_to_string(rig.shared().join(format!("{tag}-{round}"))).unwrap(),
                format!("{tag}\n")
            );
            if round == 0 {
                guest.check(&format!("umount /mnt/{tag}")).unwrap();
                ask_for(&guest, tag);
            } else {
                // The guest lets go of a share that is mounted once it is not, and can use it until then.
                ask_for(&guest, tag);
                assert_eq!(guest.check(&format!("cat /mnt/{tag}/{tag}-{round}")).unwrap(), tag);
                guest.check(&format!("umount /mnt/{tag}")).unwrap();
            }
            wait_until_gone(&guest, tag);
            assert_ne!(guest.run(&format!("device_of {tag}")).unwrap().status, 0);
            rig.wait_for_pages(if tag == DIRECT { rings } else { rings / 2 });
            plug(&rig, &guest, tag);
            guest.check(&format!("wait_for_tag {tag}")).unwrap();
            assert_eq!(group(tag) == "none", tag == DIRECT);
            rig.wait_for_pages(rings);
        }
    }
    // What is not on a port of its own stays: the IOMMU, and every device that `calgaryd attach` places.
    let refused = guest.qmp("device_del", &json!({ "id": "viommu" })).unwrap_err().to_string();
    assert!(refused.contains("does not support hotplugging"), "{refused}");
    guest.check(&format!("mount_tag {TRANSLATED} /mnt/{TRANSLATED}; cat /mnt/{TRANSLATED}/{DIRECT}-1")).unwrap();
    assert!(guest.iommu_faults().unwrap().is_empty());
    guest.quit().unwrap();
    rig.assert_clean();
}
