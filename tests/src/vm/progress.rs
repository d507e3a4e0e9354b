//! How long work tells its caller how far it is.

/// A receiver of progress: a bar, a line printer, or nothing (`()`).
///
/// Any `Fn(&str, u64, u64) + Sync` is one too.
pub trait Progress: Sync {
    /// `text` names the step, `done` of `total` units of it are finished. The unit is the step's own (packages,
    /// percent). A step begins with `done` = 0 and ends with `done` = `total`; calls may come from several threads.
    fn step(&self, text: &str, done: u64, total: u64);
}

impl Progress for () {
    fn step(&self, _text: &str, _done: u64, _total: u64) {}
}

impl<F: Fn(&str, u64, u64) + Sync> Progress for F {
    fn step(&self, text: &str, done: u64, total: u64) {
        self(text, done, total);
    }
}

/// Prints one line to standard error when a step begins.
#[derive(Debug, Clone, Copy, Default)]
pub struct PrintProgress;

impl Progress for PrintProgress {
    fn step(&self, text: &str, done: u64, _total: u64) {
        if done == 0 {
            eprintln!("{text}");
        }
    }
}
