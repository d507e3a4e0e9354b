//! The side core: while traffic lasts, the thread that serves a queue looks for work itself, so that a request costs
//! the guest no exit and the daemon no wake-up; when traffic stops, it goes to sleep until the guest kicks.
//!
//! (Amit, Ben-Yehuda, Tsafrir, Schuster: vIOMMU, USENIX ATC 2011, had the idea for an emulated IOMMU.)

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Longest that the adaptive policy polls in vain: some wake-ups' worth.
const AUTO_LIMIT: Duration = Duration::from_micros(100);
/// What the adaptive policy starts from.
const AUTO_START: Duration = Duration::from_micros(10);
/// Looks at the ring between two looks at the clock.
const LOOKS_PER_TICK: u32 = 32;
/// Spinning alone; beyond it other threads of this processor are let through between two looks at the clock.
const SPIN_ALONE: Duration = Duration::from_micros(20);
/// The same where the daemon has one processor only: a guest's next request often comes sooner, and otherwise the thread
/// that has work may be another of the daemon's own.
const SPIN_SHARED: Duration = Duration::from_micros(2);

/// When to look for work instead of sleeping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PollPolicy {
    /// For up to 100 µs, as long as that finds work; not at all on a single processor.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Without end.
    Always,
    /// For this long after the last request.
    For(Duration),
}

impl FromStr for PollPolicy {
    type Err = String;

    /// `auto`, `off`, `always`, or a number with `us` or `ms`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is no way to poll; say auto, off, always, or a time such as 50us or 2ms");
        match text {
            "auto" => return Ok(Self::Auto),
            "off" => return Ok(Self::Off),
            "always" => return Ok(Self::Always),
            _ => {}
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let time = match &text[digits..] {
            "us" => Duration::from_micros(number),
            "ms" => Duration::from_millis(number),
            _ => return Err(wrong()),
        };
        Ok(Self::For(time))
    }
}

/// Processors of the machine: a daemon that is pinned to one of many leaves the guest the others.
fn online_processors() -> libc::c_long {
    // SAFETY: `sysconf` takes no pointers.
    unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }
}

/// Processors that this process may use.
fn usable_processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// What ended a stretch of polling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PollEnd {
    /// There is work.
    Found,
    /// There was none for as long as the policy allows.
    Idle,
}

/// The policy at work in one thread.
#[derive(Debug)]
pub(super) struct Poller {
    policy: PollPolicy,
    /// How long the adaptive policy polls at the moment.
    span: Duration,
    /// When the thread last went to sleep.
    slept: Option<Instant>,
    /// How long to poll before others are let through.
    spin_alone: Duration,
}

impl Poller {
    pub(super) fn new(policy: PollPolicy) -> Self {
        let policy = if policy == PollPolicy::Auto && online_processors() == 1 { PollPolicy::Off } else { policy };
        let spin_alone = if usable_processors() == 1 { SPIN_SHARED } else { SPIN_ALONE };
        Self { policy, span: Duration::ZERO, slept: None, spin_alone }
    }

    /// The thread was woken by a kick. Had it polled a little longer, it would not have slept?
    pub(super) fn woken(&mut self) {
        if self.policy == PollPolicy::Auto
            && let Some(slept) = self.slept.take()
        {
            self.adapt(slept.elapsed());
        }
    }

    fn adapt(&mut self, slept: Duration) {
        self.span = if slept <= AUTO_LIMIT {
            (self.span * 2).clamp(AUTO_START, AUTO_LIMIT)
        } else if self.span > AUTO_START {
            self.span / 2
        } else {
            Duration::ZERO
        };
    }

    /// The thread is about to sleep.
    pub(super) fn sleeping(&mut self) {
        self.slept = (self.policy == PollPolicy::Auto).then(Instant::now);
    }

    /// How long to poll now; `None` for ever.
    fn span(&self) -> Option<Duration> {
        match self.policy {
            PollPolicy::Off => Some(Duration::ZERO),
            PollPolicy::Always => None,
            PollPolicy::For(time) => Some(time),
            PollPolicy::Auto => Some(self.span),
        }
    }

    /// Looks for work until `look` finds some, the policy gives up, or `give_way` says that somebody else waits.
    pub(super) fn poll(&self, look: impl FnMut() -> bool, give_way: impl Fn() -> bool) -> PollEnd {
        if self.span() == Some(Duration::ZERO) {
            return PollEnd::Idle;
        }
        let start = Instant::now();
        self.poll_by(|| start.elapsed(), look, give_way)
    }

    /// The same by a clock that says how long it runs.
    fn poll_by(
        &self,
        clock: impl Fn() -> Duration,
        mut look: impl FnMut() -> bool,
        give_way: impl Fn() -> bool,
    ) -> PollEnd {
        let span = self.span();
        loop {
            for _ in 0..LOOKS_PER_TICK {
                if look() {
                    return PollEnd::Found;
                }
                std::hint::spin_loop();
            }
            let passed = clock();
            if give_way() || span.is_some_and(|span| passed >= span) {
                return PollEnd::Idle;
            }
            if passed > self.spin_alone {
                std::thread::yield_now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto() -> Poller {
        Poller { policy: PollPolicy::Auto, span: Duration::ZERO, slept: None, spin_alone: SPIN_ALONE }
    }

    #[test]
    fn policies_are_read() {
        assert_eq!("auto".parse(), Ok(PollPolicy::Auto));
        assert_eq!("50us".parse(), Ok(PollPolicy::For(Duration::from_micros(50))));
        assert_eq!("2ms".parse(), Ok(PollPolicy::For(Duration::from_millis(2))));
        for wrong in ["", "us", "50", "5s", "-1us", "99999999999999999999us", "sometimes"] {
            assert!(wrong.parse::<PollPolicy>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn short_sleeps_lengthen_the_polling_and_long_ones_end_it() {
        let mut poller = auto();
        assert_eq!(poller.span(), Some(Duration::ZERO));
        for _ in 0..10 {
            poller.adapt(Duration::from_micros(30));
        }
        assert_eq!(poller.span(), Some(AUTO_LIMIT));
        for _ in 0..10 {
            poller.adapt(Duration::from_millis(5));
        }
        assert_eq!(poller.span(), Some(Duration::ZERO));
    }

    #[test]
    fn polling_ends_with_work_and_gives_way() {
        let always = Poller { policy: PollPolicy::Always, span: Duration::ZERO, slept: None, spin_alone: SPIN_ALONE };
        let mut looks = 0;
        let end = always.poll(
            || {
                looks += 1;
                looks == 1000
            },
            || false,
        );
        assert_eq!((end, looks), (PollEnd::Found, 1000));
        assert_eq!(always.poll(|| false, || true), PollEnd::Idle);
        let off = Poller { policy: PollPolicy::Off, span: Duration::ZERO, slept: None, spin_alone: SPIN_ALONE };
        assert_eq!(off.poll(|| panic!("looked"), || false), PollEnd::Idle);
    }

    #[test]
    fn polling_in_vain_ends_within_its_time() {
        let limit = Duration::from_micros(70);
        let adapted = Poller { policy: PollPolicy::Auto, span: limit, slept: None, spin_alone: SPIN_ALONE };
        let fixed =
            Poller { policy: PollPolicy::For(limit), span: Duration::ZERO, slept: None, spin_alone: SPIN_ALONE };
        for poller in [adapted, fixed] {
            let now = std::cell::Cell::new(Duration::ZERO);
            // Each look at the clock is 10 µs after the one before.
            let tick = || {
                now.set(now.get() + Duration::from_micros(10));
                now.get()
            };
            let mut looks = 0;
            let count = || {
                looks += 1;
                false
            };
            assert_eq!(poller.poll_by(tick, count, || false), PollEnd::Idle);
            assert_eq!((now.get(), looks), (limit, 7 * LOOKS_PER_TICK));
        }
    }
}
