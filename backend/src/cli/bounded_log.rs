//! The log, which guests and clients cannot flood.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};

use crate::device::throttle::Throttle;

/// Parts of the program that say what others cause.
const CAUSED: [&str; 4] = ["calgaryd::device", "calgaryd::listen", "calgaryd::supervisor", "calgaryd::transport"];
/// Lines of one place in the program within [`Throttle`]'s interval. A daemon with many devices says much when it starts.
const BURST: u32 = 100;

/// Logs to standard error from now on, what `level` lets through.
pub(super) fn start(level: LevelFilter) {
    let logger = env_logger::Builder::new().filter_level(level).format_target(false).build();
    // There is one log in a process; another that is there already is left alone.
    if log::set_boxed_logger(Box::new(Bounded::new(logger))).is_ok() {
        log::set_max_level(level);
    }
}

/// Where in the program a line comes from.
type Place = (&'static str, u32);

struct Bounded<L> {
    log: L,
    places: Mutex<HashMap<Place, Arc<Throttle>>>,
}

impl<L: Log> Bounded<L> {
    fn new(log: L) -> Self {
        Self { log, places: Mutex::default() }
    }

    /// How many lines of this place were withheld before the one at hand; `None` if it is to be withheld too.
    fn pass(&self, record: &Record<'_>) -> Option<u64> {
        let place = record.file_static().zip(record.line());
        let Some(place) = place.filter(|_| CAUSED.iter().any(|part| record.target().starts_with(part))) else {
            return Some(0);
        };
        // One for each line of source that logs: there are not many.
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let throttle = places.entry(place).or_insert_with(|| Arc::new(Throttle::of(BURST))).clone();
        drop(places);
        throttle.pass()
    }
}

impl<L: Log> Log for Bounded<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.log.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        match self.pass(record) {
            Some(0) => self.log.log(record),
            Some(withheld) => self.log.log(
                &Record::builder()
                    .metadata(record.metadata().clone())
                    .args(format_args!("{} ({withheld} similar messages withheld)", record.args()))
                    .build(),
            ),
            None => {}
        }
    }

    fn flush(&self) {
        self.log.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts what reaches it.
    #[derive(Default)]
    struct Counter(Mutex<u32>);

    impl Log for Counter {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.level() <= log::Level::Info
        }

        fn log(&self, _: &Record<'_>) {
            *self.0.lock().unwrap() += 1;
        }

        fn flush(&self) {}
    }

    /// How many of 1,000 lines get through, each of the same place of `target` or each of its own.
    fn passed(target: &str, level: log::Level, same_place: bool) -> u32 {
        let log = Bounded::new(Counter::default());
        for number in 0..1000 {
            let line = if same_place { 7 } else { number };
            let mut record = Record::builder();
            record.target(target).level(level).file_static(Some("file.rs")).line(Some(line));
            log.log(&record.build());
        }
        *log.log.0.lock().unwrap()
    }

    #[test]
    fn a_place_that_others_can_cause_to_log_is_bounded_and_no_other() {
        let info = log::Level::Info;
        assert_eq!(passed("calgaryd::device::share", info, true), BURST);
        assert_eq!(passed("calgaryd::transport::vfio_user", log::Level::Error, true), BURST);
        assert_eq!(passed("calgaryd::supervisor", info, true), BURST);
        assert_eq!(passed("calgaryd::device::share", info, false), 1000);
        assert_eq!(passed("calgaryd::daemon", info, true), 1000, "the counters are as long as they are");
        assert_eq!(passed("calgaryd::device", log::Level::Debug, true), 0);
    }
}
