//! Text of bounded length.

use std::fmt::{self, Write};

/// Most lines of a list, so that a guest with a million mappings cannot make the daemon hold as many lines for each fid:
/// about 1 MiB.
pub const MAX_LINES: usize = 16_384;

/// Lines, as many as are allowed.
#[derive(Default)]
pub(super) struct Text {
    text: String,
    lines: usize,
    withheld: usize,
}

impl Text {
    pub(super) fn line(&mut self, line: fmt::Arguments<'_>) {
        if self.lines == MAX_LINES {
            self.withheld += 1;
            return;
        }
        self.lines += 1;
        // A string takes whatever is written to it.
        let _ = writeln!(self.text, "{line}");
    }

    /// A counter.
    pub(super) fn counter(&mut self, name: &str, value: u64) {
        self.line(format_args!("{name} {value}"));
    }

    /// The text, with a last line that tells how many are missing.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.withheld > 0 {
            let _ = writeln!(self.text, "and {} more", self.withheld);
        }
        self.text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted() {
        let mut text = Text::default();
        for _ in 0..MAX_LINES + 7 {
            text.line(format_args!("x"));
        }
        let text = String::from_utf8(text.finish()).unwrap();
        assert_eq!(text.lines().count(), MAX_LINES + 1);
        assert!(text.ends_with("x\nand 7 more\n"));
    }
}
