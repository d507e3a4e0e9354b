//! How long to look for work instead of sleeping.

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Longest that the adaptive policy polls in vain: some wake-ups' worth.
const AUTO_LIMIT: Duration = Duration::from_micros(100);
/// What the adaptive policy starts from.
const AUTO_START: Duration = Duration::from_micros(10);
/// Looking in vain alone; beyond it other threads of this processor are let through between two looks at the clock.
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

/// The policy at work.
#[derive(Debug)]
pub(super) struct Poller {
    policy: PollPolicy,
    /// How long the adaptive policy polls at the moment.
    span: Duration,
    /// When the last thread went to sleep.
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

    /// A thread was woken by a kick while none polled. Had one polled a little longer, it would not have slept?
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

    /// No thread polls any more.
    pub(super) fn sleeping(&mut self) {
        self.slept = (self.policy == PollPolicy::Auto).then(Instant::now);
    }

    /// How to poll now.
    pub(super) fn plan(&self) -> Plan {
        let span = match self.policy {
            PollPolicy::Off => Some(Duration::ZERO),
            PollPolicy::Always => None,
            PollPolicy::For(time) => Some(time),
            PollPolicy::Auto => Some(self.span),
        };
        Plan { span, spin_alone: self.spin_alone }
    }
}

/// What to do after a while of looking in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Look again.
    Look,
    /// Look again, but let other threads of this processor run first.
    LetOthersRun,
    /// Sleep.
    GiveUp,
}

/// How one stretch of polling goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// How long to look in vain; `None` for ever.
    span: Option<Duration>,
    /// How long to look before others are let through.
    spin_alone: Duration,
}

impl Plan {
    /// Whether to poll at all.
    pub(super) fn polls(self) -> bool {
        self.span != Some(Duration::ZERO)
    }

    /// What to do when nothing was found for `passed`.
    pub(super) fn after(self, passed: Duration) -> Next {
        if self.span.is_some_and(|span| passed >= span) {
            Next::GiveUp
        } else if passed > self.spin_alone {
            Next::LetOthersRun
        } else {
            Next::Look
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
        assert!(!poller.plan().polls());
        for _ in 0..10 {
            poller.adapt(Duration::from_micros(30));
        }
        assert_eq!(poller.plan().span, Some(AUTO_LIMIT));
        for _ in 0..10 {
            poller.adapt(Duration::from_millis(5));
        }
        assert!(!poller.plan().polls());
    }

    #[test]
    fn polling_in_vain_lets_others_run_and_ends_as_the_policy_says() {
        let micros = Duration::from_micros;
        let plan = |policy| Poller { policy, ..auto() }.plan();
        let limited = plan(PollPolicy::For(micros(70)));
        assert_eq!(limited.after(micros(20)), Next::Look);
        assert_eq!(limited.after(micros(21)), Next::LetOthersRun);
        assert_eq!(limited.after(micros(69)), Next::LetOthersRun);
        assert_eq!(limited.after(micros(70)), Next::GiveUp);
        assert_eq!(plan(PollPolicy::Always).after(Duration::MAX), Next::LetOthersRun);
        assert!(!plan(PollPolicy::Off).polls());
    }
}
