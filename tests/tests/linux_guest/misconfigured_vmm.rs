//! A VMM that is set up wrongly: the daemon's log says what to change on its command line.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iommu_calgary::TableSize;
use log::{Log, Metadata, Record};

use crate::rig::{PATIENCE, Rig, TRANSLATED, VFIO_USER};

/// What the daemon logged, for as long as the process lives.
struct Captured(Mutex<Vec<String>>);

static LOG: Captured = Captured(Mutex::new(Vec::new()));

/// What these tests wait for is in one log: one of them at a time. No other test of this process causes such a line.
static ONE_MISTAKE: Mutex<()> = Mutex::new(());

impl Log for Captured {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.0.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

impl Captured {
    /// Empties the log; the result is the right to look for something in it, to be kept for as long as a daemon logs.
    fn start(&'static self) -> MutexGuard<'static, ()> {
        let turn = ONE_MISTAKE.lock().unwrap_or_else(PoisonError::into_inner);
        // A second test of this process finds it installed.
        let _ = log::set_logger(self);
        log::set_max_level(log::LevelFilter::Warn);
        self.0.lock().unwrap().clear();
        turn
    }

    /// Waits for a line with all of `parts`.
    fn wait_for(&self, parts: &[&str], evidence: impl Fn() -> String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = self.0.lock().unwrap().clone();
            if lines.iter().any(|line| parts.iter().all(|part| line.contains(part))) {
                return;
            }
            assert!(Instant::now() < deadline, "no line with {parts:?} in {lines:#?}; {}", evidence());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Boots a guest whose RAM is the memory backend `backend` and waits for a line with `parts` in the log.
fn private_memory_is_named(rig: &Rig, backend: &str, parts: &[&str]) {
    let backend = format!("{backend},id=private,size=512M,share=off");
    let guest = rig.guest().extra_args(["-object", &backend, "-M", "memory-backend=private"]).spawn().unwrap();
    LOG.wait_for(parts, || guest.evidence().to_string());
}

#[test]
fn memory_that_is_not_shared_is_named() {
    let _turn = LOG.start();
    let Some(rig) = Rig::new() else { return };
    private_memory_is_named(&rig, "memory-backend-memfd", &["iommu", "share=on"]);
}

#[test]
fn memory_without_a_file_is_refused_over_vfio_user() {
    let _turn = LOG.start();
    let Some(rig) = Rig::serving(TableSize::MiB256, VFIO_USER, &[(TRANSLATED, VFIO_USER, true)]) else { return };
    private_memory_is_named(&rig, "memory-backend-ram", &["iommu", "is not shared with this daemon and is refused"]);
}

#[test]
fn a_private_copy_of_a_file_is_named_over_vfio_user() {
    let _turn = LOG.start();
    let Some(rig) = Rig::serving(TableSize::MiB256, VFIO_USER, &[(TRANSLATED, VFIO_USER, true)]) else { return };
    private_memory_is_named(&rig, "memory-backend-memfd", &["iommu", "queue looks empty", "share=on"]);
}

#[test]
fn a_window_outside_ram_is_named() {
    let _turn = LOG.start();
    let Some(rig) = Rig::with_window(TableSize::GiB1) else { return };
    let guest = rig.unchecked_guest().spawn().unwrap();
    LOG.wait_for(&["window of 1G", "0x20000000..0x40000000", "-m", "--window"], || guest.evidence().to_string());
}
