//! What the demo shows while it works, on standard error.

use std::time::Duration;

use calgary_tests::vm::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// A line that tells of the step at hand, with a bar while its length is known.
pub(super) struct Steps(ProgressBar);

impl Steps {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// Shows a step of unknown length.
    pub(super) fn say(&self, text: &str) {
        if self.0.is_hidden() {
            eprintln!("{text}");
        }
        self.0.set_style(ProgressStyle::default_spinner());
        self.0.set_message(text.to_owned());
    }

    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Steps {
    fn step(&self, text: &str, done: u64, total: u64) {
        if total == 0 {
            self.say(text);
            return;
        }
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
            self.0.set_style(style);
        }
        self.0.set_length(total);
        self.0.set_position(done);
        self.0.set_message(text.to_owned());
    }
}
