//! The life of a guest: paused under load, reset, mounted again.

use std::time::Duration;

use calgary_tests::vm::Machine;

use crate::rig::{DIRECT, Rig, TRANSLATED};

fn mount(guest: &Machine) {
    guest.check(". /guest/lib.sh").unwrap();
    for tag in [TRANSLATED, DIRECT] {
        guest.check(&format!("mount_tag {tag} /mnt/{tag}")).unwrap();
    }
}

#[test]
fn a_pause_under_load_loses_nothing() {
    let Some(rig) = Rig::new() else { return };
    let guest = rig.guest().spawn().unwrap();
    guest.wait_ready().unwrap();
    mount(&guest);
    guest.check("head -c 4194304 /dev/urandom > /tmp/data; sum=$(checksum /tmp/data)").unwrap();
    guest
        .check(
            "load() { i=0; while [ ! -f /tmp/stop ]; do i=$((i + 1)); cp /tmp/data /mnt/$1/load-$1 && \
             [ \"$(checksum /mnt/$1/load-$1)\" = $sum ] || echo bad >> /tmp/bad; echo $i > /tmp/rounds-$1; done; }",
        )
        .unwrap();
    guest.check("load translated > /dev/null 2>&1 & load direct > /dev/null 2>&1 &").unwrap();
    for _ in 0..3 {
        let before = rig.daemon.share(TRANSLATED).unwrap().stats().requests;
        // The load runs: the pause comes in the middle of it.
        let deadline = std::time::Instant::now() + Duration::from_secs(120);
        while rig.daemon.share(TRANSLATED).unwrap().stats().requests < before + 200 {
            assert!(std::time::Instant::now() < deadline, "the load stands still; {}", guest.evidence());
            std::thread::sleep(Duration::from_millis(5));
        }
        guest.stop().unwrap();
        assert_eq!(guest.status().unwrap(), "paused");
        guest.cont().unwrap();
    }
    guest.check("touch /tmp/stop; wait").unwrap();
    assert_eq!(guest.check("cat /tmp/bad 2>/dev/null || echo none").unwrap(), "none");
    for tag in [TRANSLATED, DIRECT] {
        assert!(guest.check(&format!("cat /tmp/rounds-{tag}")).unwrap().parse::<u32>().unwrap() > 0);
    }
    guest.check("umount /mnt/translated; umount /mnt/direct").unwrap();
    guest.quit().unwrap();
    rig.assert_clean();
}

#[test]
fn a_reset_guest_mounts_again() {
    let Some(rig) = Rig::new() else { return };
    let guest = rig.guest().allow_reboot().spawn().unwrap();
    guest.wait_ready().unwrap();
    let rings = rig.mapped_pages();
    for round in 0..3 {
        mount(&guest);
        for tag in [TRANSLATED, DIRECT] {
            guest.check(&format!("echo round {round} > /mnt/{tag}/{tag}-{round}")).unwrap();
            // Left open and mounted: the reset takes the guest by surprise.
            guest.check(&format!("exec 7< /mnt/{tag}/{tag}-{round}")).unwrap();
        }
        assert!(rig.daemon.share(TRANSLATED).unwrap().stats().fids > 1);
        guest.reset().unwrap();
        guest.wait_ready().unwrap();
        rig.wait_for_pages(rings);
        for tag in [TRANSLATED, DIRECT] {
            assert_eq!(rig.daemon.share(tag).unwrap().stats().fids, 0, "{tag}: fids of the old life");
        }
    }
    mount(&guest);
    for round in 0..3 {
        for tag in [TRANSLATED, DIRECT] {
            assert_eq!(guest.check(&format!("cat /mnt/{tag}/{tag}-{round}")).unwrap(), format!("round {round}"));
        }
    }
    guest.quit().unwrap();
    rig.assert_clean();
}
