//! What standard error shows while a run lasts.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;

use calgary_tests::vm::Progress;

/// A line that is written over on a terminal; elsewhere only what lasts is printed.
#[derive(Debug)]
pub(crate) struct Steps {
    terminal: bool,
    last: Mutex<String>,
}

impl Steps {
    /// Progress on standard error.
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), last: Mutex::new(String::new()) }
    }

    /// A step begins.
    pub(crate) fn say(&self, text: &str) {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *last == text {
            return;
        }
        text.clone_into(&mut last);
        // Nobody minds a lost progress line.
        let _ = if self.terminal {
            write!(std::io::stderr(), "\r\x1b[K{text}")
        } else {
            writeln!(std::io::stderr(), "{text}")
        };
    }

    /// The `done`-th of `total` parts begins.
    pub(crate) fn count(&self, text: &str, done: usize, total: usize) {
        self.say(&format!("[{}/{total}] {text}", done + 1));
    }

    /// Something that is to stay on the screen.
    pub(crate) fn warn(&self, text: &str) {
        self.finish();
        eprintln!("calgary-bench: {text}");
    }

    /// Nothing more is to come: leaves the line empty.
    pub(crate) fn finish(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Progress for Steps {
    fn step(&self, text: &str, done: u64, total: u64) {
        if self.terminal && total > 1 {
            self.say(&format!("{text} {}%", done * 100 / total));
        } else if done == 0 {
            self.say(text);
        }
    }
}
