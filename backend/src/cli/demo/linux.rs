//! The demo with Linux under QEMU.

use std::time::{Duration, Instant};

use calgary_tests::vm::{Accel, Bundle, Machine, Record, Report as ScenarioReport, Scenario};

use super::folder::INPUT;
use super::progress::Steps;
use super::report::{Moved, Report};
use crate::attachment;

use super::{Args, DIRECT, Layout, Stage, TRANSLATED, finish};

/// A deferred UNMAP of Linux comes within 10 ms of guest time; emulation on a busy machine is slow.
const SETTLE: Duration = Duration::from_secs(20);

/// Boots Linux on the stage's daemon and returns what it did.
pub(super) fn run(stage: &Stage, args: &Args, steps: &Steps) -> Result<Report, String> {
    let bundle = match (&args.kernel, &args.modules) {
        (Some(kernel), Some(modules)) => Bundle::from_system(kernel, modules),
        _ if args.machine.is_aarch64() => Bundle::obtain_aarch64(steps),
        _ => Bundle::obtain(steps),
    }
    .map_err(|cause| cause.to_string())?;
    let accel = if args.kvm { Accel::Kvm } else { Accel::Tcg };
    steps.say("booting Linux");
    let attachment = attachment::qemu_machine(&stage.config, args.machine, Layout::of(args.machine).memory_mib)
        .map_err(|cause| cause.to_string())?;
    let machine = Machine::builder(&bundle)
        .attachment(attachment)
        .accel(accel)
        .kernel_arg(format!("calgary.mib={}", stage.size_mib))
        .kernel_arg(format!("calgary.file={INPUT}"))
        .scenario(Scenario::Demo)
        .then_commands()
        .spawn()
        .map_err(|cause| cause.to_string())?;
    let live = || stage.daemon.iommu().map_or(0, |iommu| iommu.live_mappings());
    let mut ring_mappings = None;
    let scenario = machine
        .follow(&mut |record: &Record| {
            // Drivers are bound and nothing is mounted yet.
            ring_mappings.get_or_insert_with(live);
            steps.say(&format!("guest: {} {}", record.key, record.value));
        })
        .map_err(|cause| cause.to_string())?;
    let ring_mappings = ring_mappings.unwrap_or_default();
    let deadline = Instant::now() + SETTLE;
    while live() != ring_mappings && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut report = read(&scenario);
    verify(stage, &scenario, &mut report);
    let report = finish(report, stage, ring_mappings);
    machine.quit().map_err(|cause| cause.to_string())?;
    Ok(report)
}

/// What the guest said.
fn read(scenario: &ScenarioReport) -> Report {
    let mut report = Report { guest: "linux", ..Report::default() };
    report.kernel = scenario.all("kernel").next().map(|record| record.value.clone());
    if let Some(device) = scenario.about("device", TRANSLATED) {
        report.iommu_group = device.field("group").map(str::to_owned);
        report.iommu_domain = device.field("domain").map(str::to_owned);
    }
    let moved = |tag: &str| {
        let about = |key: &str| {
            let record = scenario.about(key, tag);
            let number = |name: &str| record.and_then(|record| record.field(name)?.parse::<f64>().ok()).unwrap_or(0.0);
            (number("mib"), number("seconds"))
        };
        let ((read, read_seconds), (written, write_seconds)) = (about("read"), about("write"));
        Moved { bytes_read: mebibytes(read), bytes_written: mebibytes(written), seconds: read_seconds + write_seconds }
    };
    report.set_transfers(moved(TRANSLATED), moved(DIRECT));
    report
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a small whole number from the guest's script"
)]
fn mebibytes(number: f64) -> u64 {
    (number.clamp(0.0, 1e6) as u64) << 20
}

/// Compares checksums on both sides.
fn verify(stage: &Stage, scenario: &ScenarioReport, report: &mut Report) {
    if scenario.status != 0 {
        report.problems.push(format!("the guest's script ended with status {}", scenario.status));
    }
    for record in scenario.all("problem") {
        report.problems.push(format!("the guest says: {}", record.value));
    }
    let half = u64::from(stage.size_mib / 2) << 20;
    let expected = |rotate| stage.folder.checksum(INPUT, rotate).unwrap_or_else(|cause| cause.to_string());
    let (input, output) = (expected(0), expected(half));
    for tag in [TRANSLATED, DIRECT] {
        let told = |key: &str| scenario.about(key, tag).and_then(|record| record.field("sha256"));
        if told("read") != Some(input.as_str()) {
            report.problems.push(format!("{tag}: the guest read other bytes than the host has"));
        }
        let name = format!("output-{tag}.bin");
        let arrived = stage.folder.checksum(&name, 0).unwrap_or_else(|cause| cause.to_string());
        if told("write") != Some(output.as_str()) || arrived != output {
            report.problems.push(format!("{tag}: other bytes arrived on the host than the guest wrote"));
        }
    }
}
