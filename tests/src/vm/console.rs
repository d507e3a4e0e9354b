//! The serial console: all that QEMU wrote to it, and a reader's place in it.

use std::process::ExitStatus;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// The most that is kept, in bytes. A guest that prints without end loses its oldest half.
const LIMIT: usize = 16 << 20;

/// What [`Console::next_line`] finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// A line, without its end.
    Line(String),
    /// QEMU has exited and every line has been read.
    Exited(ExitStatus),
    /// Nothing came in time.
    Timeout,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// Start of the first line that has not been read.
    cursor: usize,
    exit: Option<ExitStatus>,
}

/// The console's text, filled by one thread and read by others.
#[derive(Debug, Default)]
pub(super) struct Console {
    state: Mutex<State>,
    changed: Condvar,
}

impl Console {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the text as it was, which is what a reader then wants to see.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn append(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.bytes.extend(bytes.iter().filter(|byte| **byte != b'\r'));
        if state.bytes.len() > LIMIT {
            let excess = state.bytes.len() - LIMIT / 2;
            state.bytes.drain(..excess);
            state.cursor = state.cursor.saturating_sub(excess);
        }
        self.changed.notify_all();
    }

    pub(super) fn finish(&self, status: ExitStatus) {
        self.state().exit = Some(status);
        self.changed.notify_all();
    }

    /// All text so far.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.state().bytes).into_owned()
    }

    /// The exit status, once QEMU has exited.
    pub(super) fn exit(&self) -> Option<ExitStatus> {
        self.state().exit
    }

    /// The next line that has not been read. At exit a line without an end counts.
    pub(super) fn next_line(&self, deadline: Instant) -> Next {
        let mut state = self.state();
        loop {
            let unread = &state.bytes[state.cursor..];
            let end = unread.iter().position(|byte| *byte == b'\n');
            if let Some(length) = end.or((state.exit.is_some() && !unread.is_empty()).then_some(unread.len())) {
                let line = String::from_utf8_lossy(&unread[..length]).into_owned();
                state.cursor = (state.cursor + length + 1).min(state.bytes.len());
                return Next::Line(line);
            }
            if let Some(status) = state.exit {
                return Next::Exited(status);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Timeout;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Waits for the end of QEMU without reading lines.
    pub(super) fn wait_exit(&self, deadline: Instant) -> Option<ExitStatus> {
        let left = deadline.saturating_duration_since(Instant::now());
        let state = self.state();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, left, |state| state.exit.is_none())
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        state.exit
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn line(text: &str) -> Next {
        Next::Line(text.to_owned())
    }

    #[test]
    fn lines_come_whole_and_once_and_the_end_last() {
        let console = Console::default();
        let now = Instant::now();
        console.append(b"one\r\ntw");
        assert_eq!(console.next_line(now), line("one"));
        assert_eq!(console.next_line(now), Next::Timeout);
        console.append(b"o\n\nthr");
        assert_eq!(console.next_line(now), line("two"));
        assert_eq!(console.next_line(now), line(""));
        assert_eq!(console.wait_exit(now), None);
        console.finish(ExitStatus::from_raw(0));
        assert_eq!(console.next_line(now), line("thr"));
        assert_eq!(console.next_line(now), Next::Exited(ExitStatus::from_raw(0)));
        assert_eq!(console.wait_exit(now), Some(ExitStatus::from_raw(0)));
        assert_eq!(console.text(), "one\ntwo\n\nthr");
    }

    #[test]
    fn a_flood_is_bounded_and_leaves_the_newest() {
        let console = Console::default();
        let chunk = [b'x'; 1 << 16];
        for _ in 0..=LIMIT / chunk.len() {
            console.append(&chunk);
        }
        console.append(b"\nlast\n");
        assert!(console.text().len() <= LIMIT);
        let now = Instant::now();
        assert!(matches!(console.next_line(now), Next::Line(_)));
        assert_eq!(console.next_line(now), line("last"));
    }
}
