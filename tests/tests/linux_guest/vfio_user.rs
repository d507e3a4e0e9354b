//! Devices over vfio-user, alone and beside others over vhost-user.

use calgary_tests::vm::Machine;
use iommu_calgary::TableSize;

use crate::rig::{DIRECT, Rig, TRANSLATED, VFIO_USER, VHOST_USER};

/// A share for each transport, behind the IOMMU and outside it.
const FOUR: [(&str, calgaryd::transport::TransportKind, bool); 4] = [
    ("vhost-translated", VHOST_USER, true),
    ("vhost-direct", VHOST_USER, false),
    ("vfio-translated", VFIO_USER, true),
    ("vfio-direct", VFIO_USER, false),
];

/// Mounts `tags` and moves a file through each, both ways.
fn exercise<'a>(rig: &Rig, guest: &Machine, tags: impl IntoIterator<Item = &'a str>, round: u32) {
    guest.check(". /guest/lib.sh; head -c 3000000 /dev/urandom > /tmp/data; sum=$(checksum /tmp/data)").unwrap();
    for tag in tags {
        guest.check(&format!("mount_tag {tag} /mnt/{tag} && cp /tmp/data /mnt/{tag}/{tag}-{round}")).unwrap();
        guest.check(&format!("[ $(checksum /mnt/{tag}/{tag}-{round}) = $sum ]")).unwrap();
        let written = std::fs::read(rig.shared().join(format!("{tag}-{round}"))).unwrap();
        assert_eq!(written.len(), 3_000_000, "{tag}");
        assert!(
            guest.check(&format!("checksum /mnt/{tag}/{tag}-{round}")).unwrap() == guest.check("echo $sum").unwrap()
        );
    }
}

/// Lines of /proc/interrupts that belong to the device with this tag: one vector for its queue, one for configuration.
fn vectors(guest: &Machine, tag: &str) -> String {
    guest
        .check(&format!(
            "grep \"PCI-MSIX-0000:$(device_of {tag} | cut -d: -f2-)\" /proc/interrupts || cat /proc/interrupts"
        ))
        .unwrap()
}

#[test]
fn both_transports_serve_one_guest_whatever_carries_the_iommu() {
    for transport in [VHOST_USER, VFIO_USER] {
        let Some(rig) = Rig::serving(TableSize::MiB256, transport, &FOUR) else { return };
        let guest = rig.guest().spawn().unwrap();
        guest.wait_ready().unwrap();
        exercise(&rig, &guest, FOUR.map(|(tag, ..)| tag), 0);
        for (tag, _, translated) in FOUR {
            let group = guest.check(&format!("group_of $(device_of {tag})")).unwrap();
            assert_eq!(group != "none", translated, "{tag} over {transport}: group {group}");
        }
        assert!(rig.stats().maps > 0);
        assert!(guest.iommu_faults().unwrap().is_empty());
        guest.quit().unwrap();
        rig.assert_clean();
    }
}

#[test]
fn a_window_of_4g_serves_a_guest_of_512m_through_pause_and_reboot() {
    let tags = [TRANSLATED, DIRECT];
    let shares = [(TRANSLATED, VFIO_USER, true), (DIRECT, VFIO_USER, false)];
    let Some(rig) = Rig::serving(TableSize::GiB4, VFIO_USER, &shares) else { return };
    let guest = rig.guest().allow_reboot().spawn().unwrap();
    guest.wait_ready().unwrap();
    let rings = rig.mapped_pages();
    exercise(&rig, &guest, tags, 0);
    for tag in tags {
        let vectors = vectors(&guest, tag);
        assert!(vectors.contains("-config") && vectors.contains("-requests"), "{tag}: {vectors}");
        assert_eq!(vectors.lines().count(), 2, "{tag}: {vectors}");
    }
    for _ in 0..3 {
        guest.stop().unwrap();
        assert_eq!(guest.status().unwrap(), "paused");
        guest.cont().unwrap();
        guest.check(&format!("[ $(checksum /mnt/{TRANSLATED}/{TRANSLATED}-0) = $sum ]")).unwrap();
    }
    // Left mounted: the reset takes the guest by surprise.
    guest.reset().unwrap();
    guest.wait_ready().unwrap();
    rig.wait_for_pages(rings);
    for tag in tags {
        assert_eq!(rig.daemon.share(tag).unwrap().stats().fids, 0, "{tag}: fids of the old life");
    }
    exercise(&rig, &guest, tags, 1);
    assert!(guest.iommu_faults().unwrap().is_empty());
    guest.quit().unwrap();
    rig.assert_clean();
}
