//! Keeps what a guest can cause in the log bounded.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Messages per interval by default.
const BURST: u32 = 8;
/// The interval.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lets a burst of messages through per interval and counts the rest.
#[derive(Debug)]
pub(crate) struct Throttle {
    burst: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    passed: u32,
    withheld: u64,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::of(BURST)
    }
}

impl Throttle {
    /// Lets `burst` messages through per interval of 10 seconds.
    pub(crate) fn of(burst: u32) -> Self {
        Self { burst, state: Mutex::default() }
    }

    /// Whether to write the message at hand; `Some(n)` says that `n` messages were withheld before it.
    pub(crate) fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.since.is_none_or(|since| now.duration_since(since) >= INTERVAL) {
            state.since = Some(now);
            state.passed = 0;
        }
        if state.passed == self.burst {
            state.withheld += 1;
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.withheld))
    }
}

/// Logs at `warn` unless `throttle` withholds it.
macro_rules! warn_throttled {
    ($throttle:expr, $($arg:tt)+) => {
        match $throttle.pass() {
            Some(0) => log::warn!($($arg)+),
            Some(withheld) => log::warn!("{} ({withheld} similar messages withheld)", format_args!($($arg)+)),
            None => {}
        }
    };
}
pub(crate) use warn_throttled;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_burst_per_interval_and_a_count() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let passed = (0..100).filter(|_| throttle.pass_at(start).is_some()).count();
        assert_eq!(passed, BURST as usize);
        assert_eq!(throttle.pass_at(start + INTERVAL), Some(100 - u64::from(BURST)));
        assert_eq!(throttle.pass_at(start + INTERVAL), Some(0));
    }
}
