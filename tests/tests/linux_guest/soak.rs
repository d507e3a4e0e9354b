//! Mixed load for a while: no fault, no mapping left. `CALGARY_SOAK_SECONDS` sets how long, 10 if not set.

use std::time::Duration;

use crate::rig::{DIRECT, Rig, TRANSLATED};

#[test]
fn mixed_load_leaves_no_fault_and_no_mapping() {
    let Some(rig) = Rig::new() else { return };
    let seconds: u64 = std::env::var("CALGARY_SOAK_SECONDS").map_or(10, |text| text.parse().unwrap());
    let guest = rig.guest().patience(Duration::from_secs(seconds + 300)).spawn().unwrap();
    guest.wait_ready().unwrap();
    let rings = rig.mapped_pages();
    guest.check(". /guest/lib.sh; head -c 3000000 /dev/urandom > /tmp/data; sum=$(checksum /tmp/data)").unwrap();
    for tag in [TRANSLATED, DIRECT] {
        guest.check(&format!("mount_tag {tag} /mnt/{tag}; mkdir /mnt/{tag}/{tag}")).unwrap();
    }
    guest
        .check(
            "bulk() { while [ ! -f /tmp/stop ]; do cp /tmp/data $1/bulk; [ $(checksum $1/bulk) = $sum ] || echo bulk; done; }; \
             meta() { while [ ! -f /tmp/stop ]; do mkdir $1/d; for i in 1 2 3 4 5; do echo $i > $1/d/$i; mv $1/d/$i $1/d/m$i; \
             [ $(cat $1/d/m$i) = $i ] || echo meta; done; rm -r $1/d || echo rm; done; }; \
             load() { bulk /mnt/$1/$1 & meta /mnt/$1/$1 & wait; }",
        )
        .unwrap();
    let output = guest
        .run_within(
            &format!(
                "(load {TRANSLATED}) > /tmp/bad 2>&1 & (load {DIRECT}) >> /tmp/bad 2>&1 & sleep {seconds}; touch /tmp/stop; \
                 wait; cat /tmp/bad"
            ),
            Duration::from_secs(seconds + 240),
        )
        .unwrap();
    assert_eq!(output.text, "", "{}", guest.evidence());
    guest.check(&format!("umount /mnt/{TRANSLATED} && umount /mnt/{DIRECT}")).unwrap();
    rig.wait_for_pages(rings);
    assert!(guest.iommu_faults().unwrap().is_empty());
    guest.quit().unwrap();
    rig.assert_clean();
}
