//! The run: every server does a row of work, turn about.

use std::time::Duration;

use serde::Serialize;

use super::contender::Contender;
use super::subject::{Subject, Times};
use super::tree::Tree;
use super::work::{LARGE, SMALL, Work};
use super::{roster, roster::Roster};
use crate::failure::Failure;
use crate::measure::{Figure, Idle, Sample, Series, idle, percentile};
use crate::peers::Absent;
use crate::scene::Scene;

/// Work is repeated until it takes this long, to see how often a sample needs it.
const TRIAL: Duration = Duration::from_millis(4);
/// The parts of all latencies that [`FilePoint::latency`] tells.
pub(crate) const PERCENTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 1.0];

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct FilesPlan {
    /// The work, and how many requests are out at a time.
    pub(crate) rows: Vec<(Work, u16)>,
    /// Samples of each row and server.
    pub(crate) rounds: usize,
    /// Length of a sample.
    pub(crate) sample: Duration,
}

impl FilesPlan {
    /// Every row, or those that differ most from each other.
    pub(crate) fn new(quick: bool, rounds: usize) -> Self {
        let mut rows = vec![
            (Work::Getattr, 1),
            (Work::Getattr, 32),
            (Work::Walk, 1),
            (Work::OpenRead, 1),
            (Work::Create, 1),
            (Work::Readdir(100), 1),
            (Work::Read(SMALL), 1),
            (Work::Read(SMALL), 32),
            (Work::Read(64 << 10), 1),
            (Work::Read(LARGE), 1),
            (Work::Write(SMALL), 1),
            (Work::Write(LARGE), 1),
        ];
        if !quick {
            let depths = [4, 16].into_iter();
            rows.extend(depths.flat_map(|depth| [(Work::Getattr, depth), (Work::Read(SMALL), depth)]));
            rows.extend([4, 16, 32].map(|depth| (Work::Write(SMALL), depth)));
            rows.extend([16, 256].map(|kib| (Work::Read(kib << 10), 1)));
            rows.extend([16, 64, 256].map(|kib| (Work::Write(kib << 10), 1)));
            rows.extend(
                [4, 16, 32].iter().flat_map(|depth| [(Work::Read(LARGE), *depth), (Work::Write(LARGE), *depth)]),
            );
            rows.extend([(Work::Readdir(5000), 1), (Work::Fsync, 1)]);
        }
        let sample = Duration::from_millis(if quick { 25 } else { 40 });
        Self { rows, rounds, sample }
    }

    /// The rows that tell what isolation costs.
    pub(crate) fn safety(quick: bool, rounds: usize) -> Self {
        let mut plan = Self::new(true, rounds);
        if !quick {
            plan.sample = Duration::from_millis(40);
        }
        plan
    }

    /// Numbers of entries of the directories that the rows list.
    fn directories(&self) -> Vec<u32> {
        let entries =
            self.rows.iter().filter_map(|(work, _)| if let Work::Readdir(n) = work { Some(*n) } else { None });
        entries.collect()
    }
}

/// One server at one row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FilePoint {
    /// The server.
    pub(crate) peer: &'static str,
    /// The work.
    pub(crate) work: Work,
    /// Its name.
    pub(crate) name: String,
    /// Requests out at a time.
    pub(crate) depth: u16,
    /// Bytes of file data of an operation.
    pub(crate) bytes: u64,
    /// Nanoseconds per operation.
    pub(crate) wall: Figure,
    /// Nanoseconds of server processor time per operation.
    pub(crate) cpu: Figure,
    /// Nanoseconds that 50, 90, 99, 99.9 and 100 % of the operations stay below; of processes at depth 1 only.
    pub(crate) latency: Option<[f64; PERCENTILES.len()]>,
}

/// The results.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FilesReport {
    /// The servers, in the order of columns.
    pub(crate) peers: Vec<&'static str>,
    /// All points, by row, then server.
    pub(crate) points: Vec<FilePoint>,
    /// What each server takes with its session open and nothing to do.
    pub(crate) idle: Vec<Idle>,
    /// Peers without figures, or without all of them.
    pub(crate) absent: Vec<Absent>,
}

impl FilesReport {
    /// The point of `peer` at a row.
    pub(crate) fn find(&self, peer: &str, work: Work, depth: u16) -> Option<&FilePoint> {
        self.points.iter().find(|point| point.peer == peer && point.work == work && point.depth == depth)
    }

    /// The rows, in the order they were measured.
    pub(crate) fn rows(&self) -> Vec<(Work, u16)> {
        let mut rows: Vec<(Work, u16)> = Vec::new();
        for point in &self.points {
            if !rows.contains(&(point.work, point.depth)) {
                rows.push((point.work, point.depth));
            }
        }
        rows
    }
}

/// Measures `plan` on the servers of `roster`.
pub(crate) fn run(scene: &Scene<'_>, plan: &FilesPlan, roster: &Roster) -> Result<FilesReport, Failure> {
    let directories = plan.directories();
    scene.steps.say("files: filling the shared folder");
    let tree = Tree::make(scene.folder, &directories)?;
    let (mut contenders, mut absent) = roster::assemble(scene, roster, &tree, &directories)?;
    let peers = contenders.iter().map(|contender| contender.subject.name()).collect();
    let mut points = Vec::new();
    for (index, (work, depth)) in plan.rows.iter().enumerate() {
        scene.steps.count(&format!("files: {work}, depth {depth}"), index, plan.rows.len());
        points.extend(row(scene, &mut contenders, &mut absent, plan, *work, *depth)?);
    }
    scene.steps.say("files: watching the servers idle");
    let processes = contenders.iter().filter(|contender| contender.is_there() && contender.subject.is_process());
    let clocks: Vec<_> = processes.map(|contender| (contender.subject.name(), || contender.subject.cpu())).collect();
    let idle = idle(&clocks)?;
    Ok(FilesReport { peers, points, idle, absent })
}

/// One contender in a row of work.
struct Entrant<'a> {
    contender: &'a mut Contender,
    /// Operations of a sample.
    operations: u64,
    series: Series,
    each: Vec<f64>,
}

impl Entrant<'_> {
    fn sample(&mut self, work: Work, depth: u16) -> Result<(), Failure> {
        let (subject, operations) = (&mut self.contender.subject, self.operations);
        let mut times = Times::default();
        let before = subject.cpu()?;
        subject.run(work, depth, operations, &mut times)?;
        let cpu = subject.cpu()?.saturating_sub(before);
        self.series.push(Sample { operations, wall: times.wall, cpu });
        self.each.append(&mut times.each);
        Ok(())
    }

    fn point(mut self, work: Work, depth: u16) -> FilePoint {
        self.each.sort_by(f64::total_cmp);
        let latency = (!self.each.is_empty()).then(|| PERCENTILES.map(|part| percentile(&self.each, part)));
        FilePoint {
            peer: self.contender.subject.name(),
            work,
            name: work.to_string(),
            depth,
            bytes: work.bytes(),
            wall: self.series.wall(),
            cpu: self.series.cpu(),
            latency,
        }
    }
}

fn row(
    scene: &Scene<'_>,
    contenders: &mut [Contender],
    absent: &mut Vec<Absent>,
    plan: &FilesPlan,
    work: Work,
    depth: u16,
) -> Result<Vec<FilePoint>, Failure> {
    let mut entrants = Vec::new();
    for contender in contenders.iter_mut().filter(|one| one.is_there() && one.subject.can(work, depth)) {
        let operations = trial(contender.subject.as_mut(), plan.sample, work, depth);
        if let Some(operations) = contender.excuse(scene, operations, absent)? {
            entrants.push(Entrant { contender, operations, series: Series::default(), each: Vec::new() });
        }
    }
    for _ in 0..plan.rounds {
        for entrant in entrants.iter_mut().filter(|entrant| entrant.contender.is_there()) {
            let outcome = entrant.sample(work, depth);
            entrant.contender.excuse(scene, outcome, absent)?;
        }
    }
    entrants.retain(|entrant| entrant.contender.is_there());
    Ok(entrants.into_iter().map(|entrant| entrant.point(work, depth)).collect())
}

/// How many operations a sample of `length` has; warms caches on the way.
///
/// The fastest run counts: the first ones wake the server, and one that was kept from its processor for some milliseconds
/// would make samples so short that they show little else than how a server wakes up.
fn trial(subject: &mut dyn Subject, length: Duration, work: Work, depth: u16) -> Result<u64, Failure> {
    let mut operations = u64::from(depth) * 2;
    let mut each = f64::INFINITY;
    loop {
        // Twice, as the first of all may be the one that is held up.
        for _ in 0..2 {
            let mut times = Times::default();
            subject.run(work, depth, operations, &mut times)?;
            each = each.min(times.wall.as_secs_f64() / operations as f64);
        }
        if each * operations as f64 >= TRIAL.as_secs_f64() {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float beyond u64 saturates")]
            let fitting = (length.as_secs_f64() / each) as u64;
            return Ok(fitting.max(u64::from(depth) * 4));
        }
        operations *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes 2 µs for an operation, and 30 µs to wake up before the first one of a run.
    struct Steady {
        runs: usize,
        /// The run that is held up, and for how long.
        held_up: (usize, Duration),
    }

    impl Subject for Steady {
        fn name(&self) -> &'static str {
            "steady"
        }

        fn can(&self, _: Work, _: u16) -> bool {
            true
        }

        fn run(&mut self, _: Work, _: u16, operations: u64, times: &mut Times) -> Result<(), Failure> {
            let (run, pause) = self.held_up;
            let pause = if self.runs == run { pause } else { Duration::ZERO };
            self.runs += 1;
            times.wall += Duration::from_micros(30 + 2 * operations) + pause;
            Ok(())
        }

        fn cpu(&self) -> Result<Duration, Failure> {
            Ok(Duration::ZERO)
        }
    }

    #[test]
    fn samples_are_long_enough_whenever_the_trial_is_held_up() {
        for run in 0..24 {
            let mut subject = Steady { runs: 0, held_up: (run, Duration::from_millis(6)) };
            let operations = trial(&mut subject, Duration::from_millis(25), Work::Getattr, 1).unwrap();
            assert!((11_000..=12_500).contains(&operations), "{operations} operations with run {run} held up");
        }
    }
}
