//! How fast this processor's time stamp counter runs, which an emulated PC has for its own.

use std::time::{Duration, Instant};

/// Long enough for three digits.
const INTERVAL: Duration = Duration::from_millis(20);

/// Thousands of ticks in a second, for a guest's `tsc_early_khz`; 1 GHz where there is no such counter.
#[must_use]
pub fn kilohertz() -> u64 {
    let (start, first) = (Instant::now(), ticks());
    std::thread::sleep(INTERVAL);
    let (passed, ticks) = (start.elapsed(), ticks().saturating_sub(first));
    u64::try_from(u128::from(ticks) * 1_000_000 / passed.as_nanos().max(1)).unwrap_or(1_000_000).max(1)
}

#[cfg(target_arch = "x86_64")]
fn ticks() -> u64 {
    // SAFETY: every x86_64 processor has the instruction, and it touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn ticks() -> u64 {
    u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos()).unwrap_or(0)
}
