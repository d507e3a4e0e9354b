//! What the demo found.

use std::fmt;

use serde::Serialize;

/// The demo's result; the names are those of `--json`.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    /// `linux` or `user-space`.
    pub(super) guest: &'static str,
    /// The guest's kernel version, for Linux.
    pub(super) kernel: Option<String>,
    /// IOMMU group of the translated device, for Linux.
    pub(super) iommu_group: Option<String>,
    /// Type of its IOMMU domain (DMA, DMA-FQ, identity), for Linux.
    pub(super) iommu_domain: Option<String>,
    /// Whether every byte arrived on both sides and nothing was left behind.
    pub(super) verified: bool,
    /// Bytes that the guest read, through both shares.
    pub(super) bytes_read: u64,
    /// Bytes that the guest wrote, through both shares.
    pub(super) bytes_written: u64,
    /// MAP requests served.
    pub(super) maps: u64,
    /// UNMAP requests served.
    pub(super) unmaps: u64,
    /// IOMMU requests per drain of the request queue.
    pub(super) iommu_requests_per_batch: f64,
    /// 9P requests per kick, behind the IOMMU.
    pub(super) ninep_requests_per_kick: f64,
    /// DMA refused.
    pub(super) faults: u64,
    /// Mappings when the guest had unmounted.
    pub(super) live_mappings: u64,
    /// Mappings of the rings alone, before anything was mounted.
    pub(super) ring_mappings: u64,
    /// 10^6 bytes per second behind the IOMMU, reads and writes together.
    pub(super) mbps_iommu: f64,
    /// The same outside it.
    pub(super) mbps_direct: f64,
    /// `mbps_iommu` divided by `mbps_direct`.
    pub(super) price_of_safety: f64,
    /// What did not verify.
    pub(super) problems: Vec<String>,
}

/// Bytes moved through one share.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
    pub(super) seconds: f64,
}

impl Report {
    /// Adds the two transfers.
    pub(super) fn set_transfers(&mut self, translated: Moved, direct: Moved) {
        self.bytes_read = translated.bytes_read + direct.bytes_read;
        self.bytes_written = translated.bytes_written + direct.bytes_written;
        self.mbps_iommu = translated.megabytes_per_second();
        self.mbps_direct = direct.megabytes_per_second();
        self.price_of_safety =
            if self.mbps_direct > 0.0 { rounded(self.mbps_iommu / self.mbps_direct, 3) } else { 0.0 };
        self.mbps_iommu = rounded(self.mbps_iommu, 1);
        self.mbps_direct = rounded(self.mbps_direct, 1);
    }

    /// Sets `verified` from everything known.
    pub(super) fn judge(&mut self) {
        if self.faults != 0 {
            self.problems.push(format!("{} DMA accesses were refused", self.faults));
        }
        if self.live_mappings != self.ring_mappings {
            self.problems
                .push(format!("{} mappings are live where the rings have {}", self.live_mappings, self.ring_mappings));
        }
        if self.maps == 0 {
            self.problems.push("the guest mapped nothing".to_owned());
        }
        self.verified = self.problems.is_empty();
    }
}

impl Moved {
    #[expect(clippy::cast_precision_loss, reason = "a throughput to three digits")]
    fn megabytes_per_second(self) -> f64 {
        let bytes = (self.bytes_read + self.bytes_written) as f64;
        if self.seconds > 0.0 { bytes / self.seconds / 1e6 } else { 0.0 }
    }
}

/// `part` per `whole`, to two digits; 0 for none.
#[expect(clippy::cast_precision_loss, reason = "a ratio to two digits")]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { rounded(part as f64 / whole as f64, 2) }
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: String| writeln!(f, "{name:<26}{value}");
        row(
            "guest",
            match &self.kernel {
                Some(kernel) => format!("{} {kernel}", self.guest),
                None => self.guest.to_owned(),
            },
        )?;
        if let Some(group) = &self.iommu_group {
            let domain = self.iommu_domain.as_deref().unwrap_or("unknown");
            row("IOMMU group", format!("{group} (domain type {domain})"))?;
        }
        row("read, written", format!("{} MiB, {} MiB", self.bytes_read >> 20, self.bytes_written >> 20))?;
        row("MAP, UNMAP", format!("{}, {}", self.maps, self.unmaps))?;
        row("IOMMU requests per batch", self.iommu_requests_per_batch.to_string())?;
        row("9P requests per kick", self.ninep_requests_per_kick.to_string())?;
        row("faults", self.faults.to_string())?;
        row("live mappings", format!("{} (rings {})", self.live_mappings, self.ring_mappings))?;
        row("behind the IOMMU", format!("{} MB/s", self.mbps_iommu))?;
        row("outside the IOMMU", format!("{} MB/s", self.mbps_direct))?;
        row("price of safety", format!("{} (1 = free)", self.price_of_safety))?;
        row("verified", if self.verified { "yes".to_owned() } else { format!("no: {}", self.problems.join("; ")) })
    }
}
