//! The results of the POSIX cases (`guest/posix`): what a file system does, beside what the guest's own tmpfs does.
//!
//! `guest/posix/differences.txt` explains where the two may differ. Its blank-line-separated paragraphs are an explanation
//! (lines that begin with `#`) and the results that it is for, each `LABELS CASE WHAT-HAPPENED` with labels joined by
//! commas. Where a result depends on the folder of the host, every possible one has its line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::vm::{MachineBuilder, Report, Scenario};

/// The label of the run on the guest's own tmpfs.
pub const ORACLE: &str = "tmpfs";

/// Linux's cache modes, which are also the labels of their runs on a share of the daemon.
pub const CACHES: [&str; 3] = ["none", "mmap", "loose"];

/// The explained differences, as they are checked in.
pub const EXPLAINED: &str = include_str!("../guest/posix/differences.txt");

/// One run of the cases: its label, the share, and the cache mode in which that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What its results are called.
    pub label: String,
    /// The share's mount tag.
    pub tag: String,
    /// `cache=`.
    pub cache: &'static str,
}

/// Lets a guest go through the cases on its own tmpfs and then through `runs`; `program` is the program `posix-cases` of this
/// crate. `part` restricts them to those with it in their names.
pub fn prepare(guest: MachineBuilder, program: &Path, runs: &[Run], part: Option<&str>) -> MachineBuilder {
    let runs: Vec<_> = runs.iter().map(|run| format!("{}:{}:cache={}", run.label, run.tag, run.cache)).collect();
    let guest = guest
        .guest_program("posix-cases", program)
        .scenario(Scenario::Script(include_str!("../guest/posix-cases.sh").to_owned()))
        .kernel_arg(format!("calgary.posix={}", runs.join(";")));
    match part {
        Some(part) => guest.kernel_arg(format!("calgary.cases={part}")),
        None => guest,
    }
}

/// What happened in each case, by label and case.
#[derive(Debug, Default)]
pub struct Results(BTreeMap<String, BTreeMap<String, String>>);

impl Results {
    /// The `case` records of a report.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        let mut results = Self::default();
        for record in report.all("case") {
            let mut words = record.value.splitn(3, ' ');
            if let (Some(label), Some(case), Some(said)) = (words.next(), words.next(), words.next()) {
                results.0.entry(label.to_owned()).or_default().insert(case.to_owned(), said.to_owned());
            }
        }
        results
    }

    /// The cases that ran on tmpfs, in order.
    pub fn cases(&self) -> impl Iterator<Item = &str> {
        self.0.get(ORACLE).into_iter().flat_map(|cases| cases.keys().map(String::as_str))
    }

    /// What happened; `None` if the case did not run.
    #[must_use]
    pub fn get(&self, label: &str, case: &str) -> Option<&str> {
        self.0.get(label)?.get(case).map(String::as_str)
    }

    /// Whether the result is that of tmpfs.
    #[must_use]
    pub fn agrees(&self, label: &str, case: &str) -> bool {
        self.get(label, case) == self.get(ORACLE, case)
    }

    /// What `label` did otherwise than tmpfs, against what is explained: a line for each difference without an
    /// explanation, and for each explanation without its difference.
    #[must_use]
    pub fn surprises(&self, label: &str, explained: &Explained) -> Vec<String> {
        let mut surprises = Vec::new();
        for case in self.cases() {
            let oracle = self.get(ORACLE, case).unwrap_or_default();
            let said = self.get(label, case).unwrap_or("did not run");
            let accepted = explained.accepted(label, case);
            if accepted.is_empty() && said != oracle {
                surprises.push(format!("not explained: {label} {case} {said}\n  tmpfs: {oracle}"));
            } else if !accepted.is_empty() && !accepted.contains(said) {
                surprises.push(format!("explained otherwise: {label} {case} {said}\n  tmpfs: {oracle}"));
            }
        }
        let known: BTreeSet<&str> = self.cases().collect();
        surprises.extend(
            explained
                .entries()
                .filter(|entry| entry.label == label && !known.contains(entry.case))
                .map(|entry| format!("explained, but there is no such case: {label} {}", entry.case)),
        );
        surprises
    }
}

/// One result with an explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The file system.
    pub label: &'a str,
    /// The case.
    pub case: &'a str,
    /// What happens there.
    pub said: &'a str,
    /// The number of the explanation, counted from 0.
    pub reason: usize,
}

/// Differences from tmpfs with their explanations.
#[derive(Debug, Default)]
pub struct Explained<'a> {
    reasons: Vec<String>,
    entries: Vec<Entry<'a>>,
}

impl<'a> Explained<'a> {
    /// Reads the text of `differences.txt`.
    ///
    /// # Errors
    /// The line that is not of that form, or stands without an explanation.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        let mut explained = Self::default();
        for paragraph in text.split("\n\n") {
            let comment = paragraph.lines().filter_map(|line| line.strip_prefix('#')).map(str::trim);
            let reason = comment.collect::<Vec<_>>().join(" ");
            let mut lines = paragraph.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).peekable();
            if lines.peek().is_none() {
                continue;
            }
            for line in lines {
                let mut words = line.splitn(3, ' ');
                let (Some(labels), Some(case), Some(said), false) =
                    (words.next(), words.next(), words.next(), reason.is_empty())
                else {
                    return Err(format!("{line:?} is not an explained LABELS CASE WHAT-HAPPENED"));
                };
                let reason = explained.reasons.len();
                explained.entries.extend(labels.split(',').map(|label| Entry { label, case, said, reason }));
            }
            explained.reasons.push(reason);
        }
        Ok(explained)
    }

    /// The explanations, in order.
    #[must_use]
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }

    /// Every result that is explained.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> {
        self.entries.iter().copied()
    }

    /// The number of the explanation of this result, counted from 0.
    #[must_use]
    pub fn reason(&self, label: &str, case: &str, said: &str) -> Option<usize> {
        let found = self.entries().find(|entry| (entry.label, entry.case, entry.said) == (label, case, said));
        found.map(|entry| entry.reason)
    }

    /// What may happen in this case; empty if it must be what happens on tmpfs.
    fn accepted(&self, label: &str, case: &str) -> BTreeSet<&str> {
        self.entries().filter(|entry| (entry.label, entry.case) == (label, case)).map(|entry| entry.said).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::Record;

    fn results(lines: &[&str]) -> Results {
        let records = lines.iter().filter_map(|line| Record::parse(&format!("@@ case {line}"))).collect();
        Results::of(&Report { records, status: 0 })
    }

    const TEXT: &str = "# a file\n# without entries\n\n# because of\n# the protocol\nnone,mmap a/b x=EPERM\n";

    #[test]
    fn explanations_are_read() {
        let explained = Explained::parse(TEXT).unwrap();
        assert_eq!(explained.reasons(), ["because of the protocol"]);
        let labels: Vec<_> = explained.entries().map(|entry| (entry.label, entry.case, entry.said)).collect();
        assert_eq!(labels, [("none", "a/b", "x=EPERM"), ("mmap", "a/b", "x=EPERM")]);
        assert!(Explained::parse("none a/b x=EPERM\n").is_err(), "no explanation");
        assert!(Explained::parse("# because\nnone a/b\n").is_err(), "no result");
        assert!(Explained::parse(EXPLAINED).is_ok());
    }

    #[test]
    fn only_what_is_explained_may_differ() {
        let explained = Explained::parse(TEXT).unwrap();
        let surprises = |said: &[&str]| results(said).surprises("none", &explained).len();
        assert_eq!(surprises(&["tmpfs a/b x=ok", "none a/b x=EPERM"]), 0);
        assert_eq!(surprises(&["tmpfs a/b x=ok", "none a/b x=ok"]), 1, "the difference has gone");
        assert_eq!(surprises(&["tmpfs a/b x=ok", "none a/b x=EIO"]), 1, "another difference");
        assert_eq!(surprises(&["tmpfs a/b x=ok", "tmpfs c y=1", "none a/b x=EPERM"]), 1, "a case did not run");
        assert_eq!(surprises(&["tmpfs c y=1", "none c y=1"]), 1, "the explained case has gone");
    }
}
