//! The POSIX cases in one guest: on its own tmpfs, on a share of the daemon in each cache mode, and on QEMU's own 9P server.
//!
//! `posix` prints `POSIX.md`; `posix PART-OF-A-NAME` goes through the cases with that in their names. For root: owners and
//! devices are part of the cases.

use std::error::Error;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use calgary_tests::posix::{self, CACHES, EXPLAINED, Explained, ORACLE, Results, Run};
use calgary_tests::vm::{Bundle, Machine, OwnShare, PrintProgress, Record};
use calgaryd::attachment;
use calgaryd::config::{IommuConfig, ServeConfig, ShareConfig};
use calgaryd::daemon::{Daemon, Signals};
use calgaryd::transport::TransportKind;
use iommu_calgary::TableSize;

/// A bound for one case, not an expectation.
const PATIENCE: Duration = Duration::from_secs(300);

/// QEMU's ways to keep owners and modes: tag, `security_model`, PCI slot.
const QEMU: [(&str, &str, u8); 2] = [("qemu", "passthrough", 7), ("qemu-mapped", "mapped-xattr", 8)];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("posix: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let part = std::env::args().nth(1);
    let bundle = Bundle::obtain(&PrintProgress)?;
    let root = tempfile::tempdir()?;
    let folder = |name: &str| {
        let path = root.path().join(name);
        std::fs::create_dir(&path).map(|()| path)
    };
    let iommu = IommuConfig {
        socket: root.path().join("iommu"),
        transport: TransportKind::VhostUser,
        at: "00:05.0".parse()?,
        window: TableSize::MiB256,
        boot_bypass: false,
        reserved: Vec::new(),
    };
    let share = ShareConfig::new("ours".parse()?, folder("ours")?, root.path().join("socket"));
    let shares = vec![share.at("00:06.0".parse()?, true)];
    let config = ServeConfig { iommu: Some(iommu), shares, ..ServeConfig::default() };
    let _daemon = Daemon::start(&config, Signals::Leave)?;

    let mut runs: Vec<Run> =
        CACHES.iter().map(|cache| Run { label: (*cache).to_owned(), tag: "ours".to_owned(), cache }).collect();
    let mut guest = Machine::builder(&bundle).attachment(attachment::qemu(&config, 512)?).patience(PATIENCE);
    for (tag, model, at) in QEMU {
        guest = guest.own_share(&OwnShare { tag, folder: &folder(tag)?, security: model, slot: at, iommu: false });
        runs.extend(CACHES.map(|cache| Run { label: format!("{tag}-{cache}"), tag: tag.to_owned(), cache }));
    }
    // An example is built into a folder below that of the programs.
    let program = std::env::current_exe()?.with_file_name("../posix-cases");
    let guest = posix::prepare(guest, &program, &runs, part.as_deref()).spawn()?;
    let report = guest.follow(&mut |record: &Record| {
        if record.key != "case" {
            eprintln!("{} {}", record.key, record.value);
        }
    })?;
    guest.wait_exit(PATIENCE)?;
    let labels: Vec<&str> = runs.iter().map(|run| run.label.as_str()).collect();
    print!("{}", page(&Results::of(&report), &labels, &Explained::parse(EXPLAINED)?));
    Ok(())
}

/// The page, with the cases in order.
fn page(results: &Results, labels: &[&str], explained: &Explained<'_>) -> String {
    let mut text = INTRODUCTION.to_owned();
    let agreeing = |label: &str| results.cases().filter(|case| results.agrees(label, case)).count();
    text += "| file system | cases | as tmpfs | otherwise |\n|---|---|---|---|\n";
    let total = results.cases().count();
    for label in labels {
        let _ = writeln!(text, "| {} | {total} | {} | {} |", title(label), agreeing(label), total - agreeing(label));
    }
    text += "\n## Cases in which some file system differs\n\n`=` as tmpfs, `≠` otherwise, a number: otherwise, for the reason with \
             that number.\n\n| case |";
    for label in labels {
        let _ = write!(text, " {} |", title(label));
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(labels.len()));
    let differing: Vec<&str> =
        results.cases().filter(|case| labels.iter().any(|label| !results.agrees(label, case))).collect();
    for case in &differing {
        let _ = write!(text, "| {case} |");
        for label in labels {
            // What another server does so too has the same reason: Linux's cache mode is the end of each label.
            let cache = label.rsplit('-').next().unwrap_or(label);
            let reason = results.get(label, case).and_then(|said| explained.reason(cache, case, said));
            match reason {
                _ if results.agrees(label, case) => text += " = |",
                Some(reason) => _ = write!(text, " {} |", reason + 1),
                None => text += " ≠ |",
            }
        }
        text.push('\n');
    }
    text += "\n## Reasons\n\n";
    for (number, reason) in explained.reasons().iter().enumerate() {
        let _ = writeln!(text, "{}. {reason}", number + 1);
    }
    text += "\n## What happened there\n\n```text\n";
    for case in &differing {
        let _ = writeln!(text, "{case}\n  {ORACLE:<18} {}", results.get(ORACLE, case).unwrap_or_default());
        for label in labels.iter().filter(|label| !results.agrees(label, case)) {
            let _ = writeln!(text, "  {label:<18} {}", results.get(label, case).unwrap_or("did not run"));
        }
    }
    text + "```\n\n## All cases\n\n" + &results.cases().collect::<Vec<_>>().join(", ") + "\n"
}

fn title(label: &str) -> String {
    match label.split_once("qemu-mapped-") {
        Some((_, cache)) => format!("QEMU mapped-xattr, {cache}"),
        None => match label.split_once("qemu-") {
            Some((_, cache)) => format!("QEMU passthrough, {cache}"),
            None => format!("calgaryd, {label}"),
        },
    }
}

const INTRODUCTION: &str = "\
# POSIX cases in a Linux guest

The program `guest/posix` goes through these cases as root, each in a new folder and process, and says what happened. It runs
on the guest's own tmpfs, and on 9P shares mounted with `access=client,posixacl` and each cache mode: of calgaryd behind its
IOMMU, and of QEMU's virtio-9p. The test `linux_guest::posix_cases_as_on_tmpfs` holds calgaryd to these results: an unexplained
difference fails, and so does an explained one that is gone. This page is what `cargo run -p calgary-tests --example posix`
prints (after `cargo build -p calgary-tests --bins`).

";
