//! A VMM that is set up wrongly: the daemon's log says what to change on its command line.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use iommu_calgary::TableSize;
use log::{Log, Metadata, Record};

use crate::rig::{PATIENCE, Rig};

/// What the daemon logged, for as long as the process lives.
struct Captured(Mutex<Vec<String>>);

static LOG: Captured = Captured(Mutex::new(Vec::new()));

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
    fn start(&'static self) {
        // A second test of this process finds it installed.
        let _ = log::set_logger(self);
        log::set_max_level(log::LevelFilter::Warn);
        self.0.lock().unwrap().clear();
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

#[test]
fn memory_that_is_not_shared_is_named() {
    let Some(rig) = Rig::new() else { return };
    LOG.start();
    let guest = rig
        .guest()
        .extra_args(["-object", "memory-backend-memfd,id=private,size=512M,share=off", "-M", "memory-backend=private"])
        .spawn()
        .unwrap();
    LOG.wait_for(&["iommu", "share=on"], || guest.evidence().to_string());
}

#[test]
fn a_window_outside_ram_is_named() {
    let Some(rig) = Rig::with_window(TableSize::GiB1) else { return };
    LOG.start();
    let guest = rig.unchecked_guest().spawn().unwrap();
    LOG.wait_for(&["window of 1G", "0x20000000..0x40000000", "-m", "--window"], || guest.evidence().to_string());
}
