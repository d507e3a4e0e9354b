//! The demo with the project's own user-space guest.

use calgary_tests::guest::{GuestOptions, Mapping, Session, Share, ShareOptions, TransferReport, transfer};

use super::progress::Steps;
use super::report::{Moved, Report};
use super::{DIRECT, Stage, TRANSLATED, finish};

/// Guest RAM in MiB: no less than the window, as for any front end.
const MEMORY_MIB: u64 = 256;

/// Brings up a guest on the stage's daemon and returns what it did.
pub(super) fn run(stage: &Stage, steps: &Steps) -> Result<Report, String> {
    steps.say("starting the user-space guest");
    let shares = stage.config.shares.iter().map(|share| ShareOptions {
        socket: share.socket.clone().unwrap_or_default(),
        endpoint: share.endpoint.map_or(0, |at| at.endpoint_id()),
        translated: share.iommu,
    });
    let options = GuestOptions {
        memory_mib: MEMORY_MIB,
        iommu_socket: stage.config.iommu.as_ref().map(|iommu| iommu.socket.clone()),
        iommu_transport: stage.config.iommu.as_ref().map(|iommu| iommu.transport).unwrap_or_default(),
        shares: shares.collect(),
        transport: stage.config.shares.first().and_then(|share| share.transport).unwrap_or_default(),
        mapping: Mapping::Strict,
        ..GuestOptions::default()
    };
    let mut guest = Session::boot(options).map_err(|cause| cause.to_string())?;
    let ring_mappings = stage.daemon.iommu().map_or(0, |iommu| iommu.live_mappings());
    let mut report = Report { guest: "user-space", ..Report::default() };
    let mut moved = [Moved::default(); 2];
    for ((moved, share), tag) in moved.iter_mut().zip(&mut guest.shares).zip([TRANSLATED, DIRECT]) {
        steps.say(&format!("writing and reading {} MiB through {tag}", stage.size_mib));
        *moved = move_through(stage, share, tag, &mut report.problems)?;
    }
    report.set_transfers(moved[0], moved[1]);
    Ok(finish(report, stage, ring_mappings))
}

fn move_through(stage: &Stage, share: &mut Share, tag: &str, problems: &mut Vec<String>) -> Result<Moved, String> {
    let name = format!("output-{tag}.bin");
    let done: TransferReport =
        transfer(share, name.as_bytes(), u64::from(stage.size_mib)).map_err(|cause| format!("{tag}: {cause}"))?;
    if !done.is_intact() {
        problems.push(format!("{tag}: the guest read other bytes than it wrote"));
    }
    let written: String = done.written.iter().map(|byte| format!("{byte:02x}")).collect();
    if stage.folder.checksum(&name, 0).map_err(|cause| cause.to_string())? != written {
        problems.push(format!("{tag}: other bytes arrived on the host than the guest wrote"));
    }
    Ok(Moved { bytes_read: done.bytes, bytes_written: done.bytes, seconds: (done.write + done.read).as_secs_f64() })
}
