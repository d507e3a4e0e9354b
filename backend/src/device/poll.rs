//! How long to look for work instead of sleeping.

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

/// Longest that the adaptive policy polls in vain: some wake-ups' worth.
const AUTO_LONG: Duration = Duration::from_micros(100);
/// How long it does where that has not paid lately: less than the wake-up costs that came before.
const AUTO_BRIEF: Duration = Duration::from_micros(10);
/// Finds that pay for one long time in vain: each saves a sleep and a wake-up.
const PRICE: u32 = 4;
/// Finds that count at most, so that old ones are forgotten.
const MAX_CREDIT: u32 = 4 * PRICE;
/// Without credit, every so many times is a long one all the same.
const LONG_EVERY: u32 = 8;
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
///
/// The adaptive one does not ask a clock how long a thread slept: that is the guest's pause and the wake-up together, and where
/// wake-ups are slow every sleep would seem too long to be saved. It tries, and counts what it found. After each wake-up it
/// polls at least briefly, and for long whenever it has found enough before, or has not tried for a while; so a guest that
/// makes requests in close succession is polled for after a few of them, whatever happened before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Poller {
    policy: PollPolicy,
    /// Finds that no long time in vain has used up.
    credit: u32,
    /// Times in vain so far.
    vain: u32,
    /// How long to poll before others are let through.
    spin_alone: Duration,
}

impl Poller {
    pub(super) fn new(policy: PollPolicy) -> Self {
        let policy = if policy == PollPolicy::Auto && online_processors() == 1 { PollPolicy::Off } else { policy };
        let spin_alone = if usable_processors() == 1 { SPIN_SHARED } else { SPIN_ALONE };
        Self { policy, credit: 0, vain: 0, spin_alone }
    }

    /// Polling found work.
    pub(super) fn found(&mut self) {
        self.credit = (self.credit + 1).min(MAX_CREDIT);
    }

    /// The thread goes to sleep: polling found nothing for as long as it may take.
    pub(super) fn in_vain(&mut self) {
        if self.span() == Some(AUTO_LONG) {
            self.credit = self.credit.saturating_sub(PRICE);
        }
        self.vain = self.vain.wrapping_add(1);
    }

    /// How long to look in vain now; `None` for ever.
    fn span(&self) -> Option<Duration> {
        match self.policy {
            PollPolicy::Off => Some(Duration::ZERO),
            PollPolicy::Always => None,
            PollPolicy::For(time) => Some(time),
            PollPolicy::Auto if self.credit >= PRICE || self.vain.is_multiple_of(LONG_EVERY) => Some(AUTO_LONG),
            PollPolicy::Auto => Some(AUTO_BRIEF),
        }
    }

    /// Whether to poll at all.
    pub(super) fn polls(&self) -> bool {
        self.span() != Some(Duration::ZERO)
    }

    /// What to do when nothing was found for `passed`.
    pub(super) fn after(&self, passed: Duration) -> Next {
        if self.span().is_some_and(|span| passed >= span) {
            Next::GiveUp
        } else if passed > self.spin_alone {
            Next::LetOthersRun
        } else {
            Next::Look
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    fn auto() -> Poller {
        Poller { policy: PollPolicy::Auto, credit: 0, vain: 0, spin_alone: SPIN_ALONE }
    }

    /// The guest's next request comes `pause` after the last answer. Returns whether the thread slept, and how long it polled.
    fn request(poller: &mut Poller, pause: Duration) -> (bool, Duration) {
        let mut passed = Duration::ZERO;
        while passed < pause {
            if poller.after(passed) == Next::GiveUp {
                poller.in_vain();
                return (true, passed);
            }
            passed += MICRO;
        }
        poller.found();
        (false, passed)
    }

    /// Every state that the policy can be in, as far as it makes a difference.
    fn states() -> impl Iterator<Item = Poller> {
        (0..=MAX_CREDIT).flat_map(|credit| (0..LONG_EVERY).map(move |vain| Poller { credit, vain, ..auto() }))
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
    fn close_requests_are_polled_for_after_a_few_sleeps_whatever_came_before() {
        for pause in [1, 9, 11, 50, 100].map(|micros| micros * MICRO) {
            for start in states() {
                let mut poller = start;
                let sleeps = (0..LONG_EVERY).filter(|_| request(&mut poller, pause).0).count();
                assert!(sleeps < 8, "never found in {start:?} with pauses of {pause:?}");
                // Long enough to earn what one late request costs.
                (0..2 * LONG_EVERY).for_each(|_| _ = request(&mut poller, pause));
                let slept = (0..1000).filter(|_| request(&mut poller, pause).0).count();
                assert_eq!(slept, 0, "from {start:?} with pauses of {pause:?}");
                // As after a pause between two pieces of work, or when the thread was kept from its processor.
                assert!(request(&mut poller, Duration::from_secs(1)).0);
                assert!(!request(&mut poller, pause).0, "one late request ends polling with pauses of {pause:?}");
            }
        }
    }

    #[test]
    fn rare_requests_cost_less_polling_than_waking() {
        for pause in [101, 150, 1000, 20_000].map(|micros| micros * MICRO) {
            let mut poller = Poller { credit: MAX_CREDIT, ..auto() };
            let polled: Duration = (0..1000).map(|_| request(&mut poller, pause).1).sum();
            assert!(polled < 1000 * 25 * MICRO, "{polled:?} for 1000 requests {pause:?} apart");
        }
    }

    #[test]
    fn short_bursts_are_polled_for_as_far_as_that_pays() {
        // Two close requests, then nothing for a while: one find for each time in vain.
        let mut poller = auto();
        let polled: Duration = (0..1000)
            .map(|_| request(&mut poller, 5 * MICRO).1 + request(&mut poller, Duration::from_millis(1)).1)
            .sum();
        assert!(polled < 1000 * 50 * MICRO, "{polled:?} for 1000 bursts");
    }

    #[test]
    fn polling_in_vain_lets_others_run_and_ends_as_the_policy_says() {
        let micros = Duration::from_micros;
        let with = |policy| Poller { policy, ..auto() };
        let limited = with(PollPolicy::For(micros(70)));
        assert_eq!(limited.after(micros(20)), Next::Look);
        assert_eq!(limited.after(micros(21)), Next::LetOthersRun);
        assert_eq!(limited.after(micros(69)), Next::LetOthersRun);
        assert_eq!(limited.after(micros(70)), Next::GiveUp);
        assert_eq!(with(PollPolicy::Always).after(Duration::MAX), Next::LetOthersRun);
        assert!(!with(PollPolicy::Off).polls());
        assert!(auto().polls());
    }
}
