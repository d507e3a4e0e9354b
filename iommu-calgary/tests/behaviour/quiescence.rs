//! A commit is not over before the accesses through what it removed are.
//!
//! With no time to wait, a commit breaks exactly the endpoints that it would have waited for. That makes "does it wait?"
//! a question without clocks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use iommu_calgary::{Access, Calgary, DomainId, DomainKind, EndpointId, FaultReason, Iova, Limits, Phb, TableSize};

use crate::rig::{AT_ONCE, D1, D2, DISK, NIC, PATIENT, Rig, reach};

use DomainKind::{Bypass, Translated};

/// The NIC in domain 1 with pages 1 to 8 mapped.
fn mapped() -> Rig {
    let mut rig = Rig::attached();
    for page in 1..=8 {
        rig.map(page << 12, (page << 12) + 0xfff, 0x10_0000 + (page << 12)).unwrap();
    }
    rig.commit();
    rig
}

#[test]
fn mapping_waits_for_nobody() {
    let mut rig = mapped();
    let (mut port, mut pinning) = (rig.nic.new_port(), rig.nic.new_port());
    let pins = rig.nic.new_pins();
    pinning.enter().pin(&pins, Iova(0), u64::MAX);
    let _epoch = port.enter();
    rig.map(0x10_000, 0x1f_fff, 0).unwrap();
    rig.iommu.attach(D1, DISK, Translated).unwrap();
    let commit = rig.iommu.commit(AT_ONCE);
    assert_eq!((commit.broken.len(), commit.invalidated, commit.waited), (0, 0, Duration::ZERO));
    assert_eq!(rig.iommu.stats().invalidations, 0);
}

#[test]
fn unmapping_waits_for_epochs_of_the_endpoints_concerned() {
    let mut rig = mapped();
    rig.iommu.attach(D2, DISK, Translated).unwrap();
    rig.commit();
    let (mut nic, mut disk) = (rig.nic.new_port(), rig.disk.new_port());
    let disk_epoch = disk.enter();
    rig.unmap(0x1000, 0x1fff).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, []);
    drop(disk_epoch);
    let _nic_epoch = nic.enter();
    rig.unmap(0x2000, 0x2fff).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, [NIC]);
}

#[test]
fn unmapping_waits_for_overlapping_pins_only() {
    let mut rig = mapped();
    let mut port = rig.nic.new_port();
    let pins = rig.nic.new_pins();
    port.enter().pin(&pins, Iova(0x3800), 0x1000);
    for page in [1, 2, 5, 6] {
        rig.unmap(page << 12, (page << 12) + 0xfff).unwrap();
        assert_eq!(rig.iommu.commit(AT_ONCE).broken, [], "page {page}");
    }
    // A range that only touches the pin where nothing was mapped removes nothing under it.
    rig.unmap(0x7000, u64::MAX).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, []);
    rig.unmap(0x4000, 0x4fff).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, [NIC]);
}

#[test]
fn unmapping_waits_for_a_pin_anywhere_in_a_long_range() {
    for pinned in [0x100, 0x140, 0x1ff] {
        let mut rig = Rig::attached();
        rig.map(0x10_0000, 0x1f_ffff, 0x90_0000).unwrap();
        rig.map(0x20_0000, 0x20_0fff, 0).unwrap();
        rig.commit();
        let pins = rig.nic.new_pins();
        rig.nic.new_port().enter().pin(&pins, Iova(pinned << 12), 1);
        rig.unmap(0x20_0000, 0x2f_ffff).unwrap();
        assert_eq!(rig.iommu.commit(AT_ONCE).broken, []);
        rig.unmap(0, 0x1f_ffff).unwrap();
        assert_eq!(rig.iommu.commit(AT_ONCE).broken, [NIC], "page {pinned:#x}");
    }
}

#[test]
fn a_released_pin_is_no_obstacle() {
    let mut rig = mapped();
    let mut port = rig.nic.new_port();
    let pins = rig.nic.new_pins();
    port.enter().pin(&pins, Iova(0x1000), 0x1000);
    pins.release();
    rig.unmap(0x1000, 0x1fff).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, []);
    port.enter().pin(&pins, Iova(0x2000), 0x1000);
    drop(pins);
    rig.unmap(0x2000, 0x2fff).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, []);
}

#[test]
fn an_unmap_and_map_of_one_page_in_one_batch_waits() {
    let mut rig = mapped();
    let mut port = rig.nic.new_port();
    let pins = rig.nic.new_pins();
    port.enter().pin(&pins, Iova(0x1000), 1);
    rig.unmap(0x1000, 0x1fff).unwrap();
    rig.map(0x1000, 0x1fff, 0x90_0000).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, [NIC]);
}

#[test]
fn a_change_of_address_space_waits_for_all_pins() {
    type Change = fn(&mut Rig);
    let changes: [Change; 4] = [
        |rig| rig.iommu.detach(D1, NIC).unwrap(),
        |rig| rig.iommu.attach(D2, NIC, Translated).unwrap(),
        |rig| rig.iommu.attach(D2, NIC, Bypass).unwrap(),
        |rig| {
            rig.iommu.detach(D1, NIC).unwrap();
            rig.iommu.attach(D1, NIC, Translated).unwrap();
        },
    ];
    for change in changes {
        let mut rig = mapped();
        let pins = rig.nic.new_pins();
        rig.nic.new_port().enter().pin(&pins, Iova(0x1f0_0000), 1);
        change(&mut rig);
        assert_eq!(rig.iommu.commit(AT_ONCE).broken, [NIC]);
    }
}

#[test]
fn leaving_bypass_waits_and_entering_it_from_nothing_does_not() {
    let mut rig = Rig::new();
    let pins = rig.nic.new_pins();
    rig.iommu.set_bypass(true);
    assert_eq!(rig.iommu.commit(AT_ONCE).invalidated, 0);
    rig.nic.new_port().enter().pin(&pins, Iova(0x1000), 1);
    // Attached or not, the identity stays the identity.
    rig.iommu.attach(D2, NIC, Bypass).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).invalidated, 0);
    rig.iommu.detach(D2, NIC).unwrap();
    rig.iommu.set_bypass(false);
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, [NIC]);
}

#[test]
fn a_commit_returns_after_the_pin_is_released() {
    let mut rig = mapped();
    let nic = rig.nic.clone();
    let released = AtomicBool::new(false);
    let (pinned, wait_pinned) = mpsc::channel();
    let (unmapped, wait_unmapped) = mpsc::channel();
    let (waits, wait_waits) = mpsc::channel();
    thread::scope(|scope| {
        let released = &released;
        scope.spawn(move || {
            let mut port = nic.new_port();
            let pins = nic.new_pins();
            let epoch = port.enter();
            epoch.translate(Iova(0x1000), 1, Access::Write).unwrap();
            epoch.pin(&pins, Iova(0x1000), 1);
            drop(epoch);
            pinned.send(()).unwrap();
            // The translation is gone for everyone else long before the pin is.
            wait_unmapped.recv().unwrap();
            while port.enter().translate(Iova(0x1000), 1, Access::Write).is_ok() {
                thread::yield_now();
            }
            wait_waits.recv().unwrap();
            released.store(true, Ordering::SeqCst);
            pins.release();
        });
        wait_pinned.recv().unwrap();
        rig.unmap(0x1000, 0x1fff).unwrap();
        unmapped.send(()).unwrap();
        let commit = rig.iommu.commit_or_wait(PATIENT, || waits.send(()).unwrap());
        assert!(released.load(Ordering::SeqCst));
        assert_eq!(commit.broken, []);
        assert!(commit.waited > Duration::ZERO);
    });
    let stats = rig.iommu.stats();
    assert_eq!((stats.invalidations, stats.waits), (1, 1));
    assert!(stats.max_wait > Duration::ZERO);
}

#[test]
fn a_commit_returns_after_the_epoch_is_left() {
    let mut rig = mapped();
    let nic = rig.nic.clone();
    let left = AtomicBool::new(false);
    let (entered, wait_entered) = mpsc::channel();
    thread::scope(|scope| {
        let left = &left;
        scope.spawn(move || {
            let mut port = nic.new_port();
            let epoch = port.enter();
            entered.send(()).unwrap();
            thread::sleep(Duration::from_millis(5));
            left.store(true, Ordering::SeqCst);
            drop(epoch);
            // A port that is busy again at once does not prolong the wait.
            loop {
                let epoch = port.enter();
                if epoch.translate(Iova(0x1000), 1, Access::Read).is_err() {
                    break;
                }
            }
        });
        wait_entered.recv().unwrap();
        rig.unmap(0x1000, 0x1fff).unwrap();
        let commit = rig.iommu.commit(PATIENT);
        assert!(left.load(Ordering::SeqCst));
        assert_eq!(commit.broken, []);
    });
}

#[test]
fn what_takes_a_translation_away_changes_the_generation_and_nothing_else_does() {
    type Change = fn(&mut Rig);
    let takes: [Change; 5] = [
        |rig| assert_eq!(rig.unmap(0x1000, 0x1fff), Ok(1)),
        |rig| rig.iommu.detach(D1, NIC).unwrap(),
        |rig| rig.iommu.attach(D2, NIC, Translated).unwrap(),
        |rig| rig.iommu.attach(D2, NIC, Bypass).unwrap(),
        |rig| assert_eq!(rig.iommu.reset().broken, []),
    ];
    for (number, take) in takes.into_iter().enumerate() {
        let mut rig = mapped();
        let mut port = rig.nic.new_port();
        let before = port.enter().generation();
        rig.map(0x20_000, 0x20_fff, 0x90_0000).unwrap();
        rig.commit();
        assert_eq!(port.enter().generation(), before, "a MAP takes nothing away");
        take(&mut rig);
        rig.commit();
        assert_ne!(port.enter().generation(), before, "{number}");
    }
}

#[test]
fn the_generation_changes_with_bypass_and_when_an_endpoint_breaks() {
    let mut rig = Rig::new();
    rig.iommu.set_bypass(true);
    rig.commit();
    let mut port = rig.nic.new_port();
    let in_bypass = port.enter().generation();
    rig.iommu.set_bypass(false);
    rig.commit();
    assert_ne!(port.enter().generation(), in_bypass);

    let mut rig = mapped();
    let mut port = rig.nic.new_port();
    let pins = rig.nic.new_pins();
    port.enter().pin(&pins, Iova(0x1000), 1);
    // While the commit waits for the pin, the generation is that of the removal.
    rig.unmap(0x2000, 0x2fff).unwrap();
    rig.commit();
    let removed = port.enter().generation();
    rig.unmap(0x1000, 0x1fff).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, [NIC]);
    assert!(port.enter().generation() >= removed + 2, "once for the removal, once for the slot");
}

#[test]
fn a_broken_endpoint_faults_until_a_reset_finds_it_quiet() {
    let mut rig = mapped();
    rig.iommu.attach(D1, DISK, Translated).unwrap();
    rig.commit();
    let pins = rig.nic.new_pins();
    rig.nic.new_port().enter().pin(&pins, Iova(0x1000), 0x2000);
    rig.unmap(0x1000, 0x1fff).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, [NIC]);
    assert!(rig.nic.is_slot_disabled());
    assert_eq!(reach(&rig.nic, 0x2000), Err(FaultReason::SlotDisabled));
    assert_eq!(reach(&rig.disk, 0x2000), Ok(0x10_2000));

    // It costs nobody else: it is not waited for again, and it is not let back in.
    rig.unmap(0x2000, 0x2fff).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, []);
    rig.iommu.attach(D2, NIC, Bypass).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, []);
    assert_eq!(rig.iommu.endpoint_domain(NIC), Some(D2));
    assert_eq!(reach(&rig.nic, 0x2000), Err(FaultReason::SlotDisabled));

    assert_eq!(rig.iommu.reset().broken, [NIC]);
    assert_eq!(reach(&rig.nic, 0x2000), Err(FaultReason::SlotDisabled));
    assert_eq!(reach(&rig.disk, 0x2000), Err(FaultReason::NotAttached));

    pins.release();
    assert_eq!(rig.iommu.reset().broken, []);
    assert_eq!(reach(&rig.nic, 0x2000), Err(FaultReason::NotAttached));
    rig.iommu.attach(D1, NIC, Translated).unwrap();
    rig.map(0x2000, 0x2fff, 0x7000).unwrap();
    rig.commit();
    assert_eq!(reach(&rig.nic, 0x2000), Ok(0x7000));
}

#[test]
fn a_table_outlives_its_domain_while_somebody_is_inside() {
    let mut rig = mapped();
    let mut port = rig.nic.new_port();
    let epoch = port.enter();
    let table = std::sync::Arc::downgrade(rig.iommu.domain(D1).unwrap().table());
    rig.iommu.detach(D1, NIC).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, [NIC]);
    drop(rig.iommu);
    assert!(table.upgrade().is_some());
    drop(epoch);
    drop(port);
    drop(rig.nic);
    assert!(table.upgrade().is_none());
}

#[test]
fn a_table_is_freed_by_the_commit_that_takes_it_out_of_use() {
    let mut rig = mapped();
    for kind in [Translated, Bypass] {
        let table = std::sync::Arc::downgrade(rig.iommu.domain(D1).unwrap().table());
        rig.iommu.attach(D2, NIC, kind).unwrap();
        assert!(table.upgrade().is_some());
        rig.commit();
        assert!(table.upgrade().is_none());
        rig.iommu.detach(D2, NIC).unwrap();
        rig.iommu.attach(D1, NIC, Translated).unwrap();
        rig.commit();
    }
}

#[test]
fn a_busy_guest_cannot_pile_up_tables() {
    let mut rig = mapped();
    let mut port = rig.nic.new_port();
    let _epoch = port.enter();
    let mut tables = Vec::new();
    for id in 10..60 {
        rig.iommu.attach(DomainId(id), NIC, Translated).unwrap();
        tables.push(std::sync::Arc::downgrade(rig.iommu.domain(DomainId(id)).unwrap().table()));
        rig.iommu.commit(AT_ONCE);
    }
    let kept = tables.iter().filter(|table| table.upgrade().is_some()).count();
    assert!(kept <= 2, "{kept} tables kept");
}

#[test]
fn a_leaked_epoch_stands_for_itself_only() {
    let mut rig = mapped();
    let mut port = rig.nic.new_port();
    std::mem::forget(port.enter());
    drop(port.enter());
    rig.unmap(0x1000, 0x1fff).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, []);
    std::mem::forget(port.enter());
    let _next = port.enter();
    rig.unmap(0x2000, 0x2fff).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, [NIC]);
}

#[test]
fn a_port_or_pin_set_that_goes_away_is_not_waited_for_any_longer() {
    let mut rig = mapped();
    let mut port = rig.nic.new_port();
    std::mem::forget(port.enter());
    rig.unmap(0x1000, 0x1fff).unwrap();
    assert_eq!(rig.iommu.commit_or_wait(PATIENT, || drop(port)).broken, []);
    let pins = rig.nic.new_pins();
    rig.nic.new_port().enter().pin(&pins, Iova(0x2000), 1);
    rig.unmap(0x2000, 0x2fff).unwrap();
    assert_eq!(rig.iommu.commit_or_wait(PATIENT, || drop(pins)).broken, []);
}

#[test]
fn an_endpoint_that_moves_into_a_domain_that_lost_something_is_brought_to_quiet_once() {
    let mut rig = mapped();
    rig.iommu.attach(D2, DISK, Translated).unwrap();
    rig.commit();
    rig.unmap(0x1000, 0x1fff).unwrap();
    rig.iommu.attach(D1, DISK, Translated).unwrap();
    assert_eq!(rig.commit().invalidated, 2);
}

#[test]
fn a_unit_that_goes_away_takes_everything_with_it() {
    let rig = mapped();
    let mut port = rig.nic.new_port();
    let before = port.enter().generation();
    let table = std::sync::Arc::downgrade(rig.iommu.domain(D1).unwrap().table());
    drop(rig.iommu);
    assert_ne!(port.enter().generation(), before, "what was remembered of it is good no longer");
    assert!(table.upgrade().is_none());
    assert_eq!(reach(&rig.nic, 0x1000), Err(FaultReason::NotAttached));
}

#[test]
fn one_late_endpoint_does_not_cost_the_others() {
    let mut iommu = Calgary::new(TableSize::MiB32, Limits::default()).unwrap();
    let phbs: Vec<_> = (0..4).map(|id| iommu.add_endpoint(EndpointId(id)).unwrap()).collect();
    for id in 0..4 {
        iommu.attach(D1, EndpointId(id), Translated).unwrap();
    }
    let (first, last) = (Iova(0x1000), Iova(0x1fff));
    iommu.map(D1, first, last, iommu_calgary::RealAddr(0), iommu_calgary::Permissions::READ).unwrap();
    iommu.commit(AT_ONCE);
    let stuck = phbs[0].new_pins();
    phbs[0].new_port().enter().pin(&stuck, first, 1);
    let _elsewhere = phbs[1].new_port().enter().translate(first, 1, Access::Read).unwrap();
    iommu.unmap(D1, first, last).unwrap();
    assert_eq!(iommu.commit(Duration::from_millis(1)).broken, [EndpointId(0)]);
    assert!(phbs[1..].iter().all(|phb| !phb.is_slot_disabled()));
}

#[test]
#[should_panic(expected = "serves only the PHB that made it")]
fn pins_of_another_phb_are_refused() {
    let rig = mapped();
    let pins = rig.disk.new_pins();
    rig.nic.new_port().enter().pin(&pins, Iova(0), 1);
}

#[test]
fn handles_go_to_other_threads() {
    fn is_send<T: Send>(_: &T) {}
    fn is_sync<T: Sync>(_: &T) {}
    let rig = Rig::new();
    is_send(&rig.iommu);
    is_send(&rig.nic.new_port());
    is_send(&rig.nic.new_pins());
    is_sync::<Phb>(&rig.nic);
}

#[test]
fn what_was_never_true_is_not_waited_for() {
    let mut rig = mapped();
    let mut port = rig.nic.new_port();
    let _epoch = port.enter();
    rig.map(0x20_000, 0x21_fff, 0x90_0000).unwrap();
    rig.unmap(0x20_000, 0x21_fff).unwrap();
    rig.map(0x21_000, 0x21_fff, 0xa0_0000).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).invalidated, 0);
    assert_eq!(reach(&rig.nic, 0x20_000), Err(FaultReason::NotMapped));
    assert_eq!(reach(&rig.nic, 0x21_000), Ok(0xa0_0000));
    // Removed, mapped and removed again: the first removal counts.
    rig.unmap(0x1000, 0x1fff).unwrap();
    rig.map(0x1000, 0x1fff, 0xb0_0000).unwrap();
    rig.unmap(0x1000, 0x1fff).unwrap();
    assert_eq!(rig.iommu.commit(AT_ONCE).broken, [NIC]);
}
