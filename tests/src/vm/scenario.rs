//! What a guest does after it has booted, and the lines by which it tells the host.

/// The prefix of every line that is meant for the host.
pub(super) const PREFIX: &str = "@@ ";

/// What a guest does after it has booted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scenario {
    /// Runs the host's commands; see [`Machine::run`](super::Machine::run).
    #[default]
    Commands,
    /// Mounts each tag, reads the file `calgary.file` (default `input.bin`) of `calgary.mib` MiB (default 64) with a
    /// checksum, and writes `output-TAG.bin`: the second half of that file followed by the first.
    ///
    /// Records: `kernel`, `device`, `mount`, `list`, `read`, `write`, `faults`. The file must fit into half of the
    /// guest's memory.
    Demo,
    /// Mounts each tag and goes through the operations of a POSIX file system, one `case` record for each; a folder of
    /// `calgary.entries` files (default 5000) is among them. Its status is the number of failures, at most 125.
    Posix,
    /// A script of the caller's, run by busybox's `sh`. `. /guest/lib.sh` gives it the functions of `guest/lib.sh`.
    Script(String),
}

impl Scenario {
    /// The script, `None` for [`Scenario::Commands`].
    pub(super) fn script(&self) -> Option<&str> {
        match self {
            Self::Commands => None,
            Self::Demo => Some(include_str!("../../guest/demo.sh")),
            Self::Posix => Some(include_str!("../../guest/posix.sh")),
            Self::Script(script) => Some(script),
        }
    }
}

/// One line `@@ KEY VALUE` from the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The first word.
    pub key: String,
    /// The rest: plain words and `name=value` words.
    pub value: String,
}

impl Record {
    /// Reads a line of the console; `None` if it is not for the host.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.strip_prefix(PREFIX)?;
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        Some(Self { key: key.to_owned(), value: value.trim().to_owned() })
    }

    /// The word at `index`, counted from 0.
    #[must_use]
    pub fn word(&self, index: usize) -> Option<&str> {
        self.value.split(' ').filter(|word| !word.is_empty()).nth(index)
    }

    /// What follows `name=`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.value.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

/// All that a scenario told the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The records in order, without the final `done`.
    pub records: Vec<Record>,
    /// The scenario's exit status, 0 for success.
    pub status: i32,
}

impl Report {
    /// The records with this key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Record> {
        self.records.iter().filter(move |record| record.key == key)
    }

    /// The record with this key whose first word is `subject`.
    #[must_use]
    pub fn about(&self, key: &str, subject: &str) -> Option<&Record> {
        self.records.iter().find(|record| record.key == key && record.word(0) == Some(subject))
    }

    /// The cases of [`Scenario::Posix`] that failed.
    #[must_use]
    pub fn failures(&self) -> Vec<&Record> {
        self.all("case").filter(|record| record.word(1) != Some("ok")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let record = Record::parse("@@ read share mib=64 sha256=ab12 seconds=1.50").unwrap();
        assert_eq!(record.key, "read");
        assert_eq!(record.word(0), Some("share"));
        assert_eq!(record.field("sha256"), Some("ab12"));
        assert_eq!(record.field("sha"), None);
        assert_eq!(Record::parse("@@ ready"), Some(Record { key: "ready".to_owned(), value: String::new() }));
        assert_eq!(Record::parse("[    0.1] @@ no"), None);
    }

    #[test]
    fn failures_are_the_cases_that_are_not_ok() {
        let records = ["@@ case a ok", "@@ case b FAIL it broke", "@@ kernel 6.12"];
        let report = Report { records: records.iter().filter_map(|line| Record::parse(line)).collect(), status: 1 };
        assert_eq!(
            report.failures().iter().map(|record| record.value.as_str()).collect::<Vec<_>>(),
            ["b FAIL it broke"]
        );
        assert!(report.about("case", "a").is_some() && report.about("case", "c").is_none());
    }
}
