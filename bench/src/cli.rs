//! The command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use tempfile::TempDir;

use crate::failure::Failure;
use crate::files::{FilesPlan, Roster};
use crate::iommu::IommuPlan;
use crate::linux_guest::GUEST_COMMAND;
use crate::measure::Cores;
use crate::peers::{DAEMON_COMMAND, Programs};
use crate::progress::Steps;
use crate::report::{self, Comparison, Environment, Look};
use crate::scene::Scene;

/// Measures calgaryd beside its peers, on two processors and without a virtual machine.
///
/// The servers run on one processor, the client on another one, turn about; each figure is the median of several samples
/// with the least and the greatest. Every reply is checked. The peers (QEMU, virtiofsd, diod) come as Debian packages,
/// about 150 MB, into the user's cache folder ($CALGARY_CACHE, or calgaryd under $XDG_CACHE_HOME or ~/.cache). No root
/// and no KVM are needed.
#[derive(Debug, Parser)]
#[command(name = "calgary-bench", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything, beside every peer: one table of ratios, optionally one JSON object or a page with plots.
    Compare(CompareOptions),

    /// MAP and UNMAP of one page per request: nanoseconds by requests per kick and by live mappings, beside QEMU's
    /// virtio-iommu and beside the bare round trips between the two processors.
    Iommu(Options),

    /// File operations: calgaryd without IOMMU, with mappings kept and strict, beside QEMU's virtio-9p, virtiofsd, diod,
    /// crosvm's server (the crate p9) and plain system calls.
    Files(Options),

    /// What isolation costs: the same file operations with no IOMMU, with mappings kept, lazy and strict, on calgaryd and on
    /// QEMU's virtio-9p behind its own virtio-iommu: throughput and processor time per operation.
    PriceOfSafety(SafetyOptions),
}

/// What a comparison takes besides.
#[derive(Clone, Debug, Args)]
struct CompareOptions {
    #[command(flatten)]
    common: Options,

    /// Write a page (index.html, its plots as SVG, report.json) into this folder, made if it is not there.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

/// What the price of safety takes besides.
#[derive(Clone, Debug, Args)]
struct SafetyOptions {
    #[command(flatten)]
    common: Options,

    /// One more calgaryd, strict, with a mechanism switched off by an argument of `calgaryd serve`: its name in the table,
    /// then the argument; may repeat.
    #[arg(long = "variant", value_name = "NAME=ARG", value_parser = parse_variant)]
    variants: Vec<(String, String)>,

    /// Measure with a Linux guest under emulation instead of the user-space guest, driving the IOMMU in this way; may repeat.
    /// With --quick without the daemons that have a mechanism switched off.
    /// Its files belong to root there, so QEMU's server needs this run as root.
    #[arg(long = "linux-guest", value_name = "MODE", value_enum)]
    linux_guest: Vec<crate::linux_guest::Mode>,

    /// A further argument of the Linux guests' kernel, on every server alike; may repeat.
    #[arg(long = "kernel-arg", value_name = "ARG", requires = "linux_guest")]
    kernel_args: Vec<String>,

    /// A further argument of the QEMU that runs the Linux guests, on every server alike; may repeat.
    #[arg(long = "qemu-arg", value_name = "ARG", requires = "linux_guest", allow_hyphen_values = true)]
    qemu_args: Vec<String>,
}

fn parse_variant(text: &str) -> Result<(String, String), String> {
    let (name, argument) = text.split_once('=').ok_or("give a name, then =, then an argument")?;
    Ok((name.to_owned(), argument.to_owned()))
}

/// What all runs have in common.
#[derive(Clone, Debug, Args)]
struct Options {
    /// A subset, in under a minute once the peers are there.
    #[arg(long)]
    quick: bool,

    /// Print one JSON object instead of tables. Times are nanoseconds per operation.
    #[arg(long)]
    json: bool,

    /// Write tables in Markdown.
    #[arg(long, conflicts_with = "json")]
    markdown: bool,

    /// Leave the peers out: nothing is fetched.
    #[arg(long)]
    no_peers: bool,

    /// Samples of each figure.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=101))]
    rounds: u16,

    /// Further arguments for `calgaryd serve`; may repeat. With --transport=vfio-user the client speaks it too.
    #[arg(long = "daemon-arg", value_name = "ARG", allow_hyphen_values = true)]
    daemon_args: Vec<String>,
}

impl Options {
    fn look(&self) -> Look {
        if self.markdown { Look::Markdown } else { Look::Plain }
    }
}

/// Runs the command line `args` and returns its exit status: 0 done, 1 failed, 2 wrong usage.
pub(crate) fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    // The daemon under test is this program, so that measuring needs no other one built.
    if args.get(1).is_some_and(|command| command == DAEMON_COMMAND) {
        return calgaryd::cli::main(args.into_iter().skip(1));
    }
    // So is the load in a Linux guest.
    if args.get(1).is_some_and(|command| command == GUEST_COMMAND) {
        let rest: Vec<String> = args.iter().skip(2).map(|arg| arg.to_string_lossy().into_owned()).collect();
        return crate::linux_guest::guest_main(&rest);
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(cause) => cause.exit(),
    };
    let outcome = match cli.command {
        Command::Compare(options) => compare(&options),
        Command::Iommu(options) => iommu(&options),
        Command::Files(options) => files(&options),
        Command::PriceOfSafety(options) => price_of_safety(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("calgary-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &CompareOptions) -> Result<(), Failure> {
    let common = &options.common;
    let stage = Stage::set(common)?;
    let (scene, rounds) = (stage.scene(common), usize::from(common.rounds));
    let mut environment = Environment::at_start(stage.cores, stage.programs.as_ref());
    let iommu = crate::iommu::run(&scene, &IommuPlan::new(common.quick, rounds))?;
    let files = crate::files::run(&scene, &FilesPlan::new(common.quick, rounds), &Roster::comparison())?;
    environment.finish();
    stage.steps.finish();
    let report = Comparison { environment, iommu, files };
    if common.json {
        print_json(&report)?;
    } else {
        println!("{}\n\n{}", report.environment, report::ratio_table(&report, common.look()));
    }
    if let Some(folder) = &options.report {
        let page = report::write_page(&report, folder)?;
        eprintln!("the page is {}", page.display());
    }
    Ok(())
}

fn price_of_safety(options: &SafetyOptions) -> Result<(), Failure> {
    let common = &options.common;
    let stage = Stage::set(common)?;
    if !options.linux_guest.is_empty() {
        let mut variants = options.variants.clone();
        if !common.quick {
            variants.extend(crate::linux_guest::mechanisms());
        }
        let scene = stage.scene(common);
        let arguments = crate::linux_guest::Arguments { kernel: &options.kernel_args, qemu: &options.qemu_args };
        let modes = &options.linux_guest;
        let report = crate::linux_guest::run(&scene, modes, common.rounds.into(), &variants, arguments)?;
        stage.steps.finish();
        return if common.json {
            print_json(&report)
        } else {
            print!("{}", crate::linux_guest::text(&report, common.look()));
            Ok(())
        };
    }
    let plan = FilesPlan::safety(common.quick, usize::from(common.rounds));
    let report = crate::files::run(&stage.scene(common), &plan, &Roster::safety(&options.variants))?;
    stage.steps.finish();
    if common.json {
        print_json(&report)
    } else {
        print!("{}", report::safety_text(&report, common.look()));
        Ok(())
    }
}

fn iommu(options: &Options) -> Result<(), Failure> {
    let stage = Stage::set(options)?;
    let plan = IommuPlan::new(options.quick, usize::from(options.rounds));
    let report = crate::iommu::run(&stage.scene(options), &plan)?;
    stage.steps.finish();
    if options.json {
        print_json(&report)
    } else {
        print!("{}", report::iommu_table(&report, options.look()));
        Ok(())
    }
}

fn files(options: &Options) -> Result<(), Failure> {
    let stage = Stage::set(options)?;
    let plan = FilesPlan::new(options.quick, usize::from(options.rounds));
    let report = crate::files::run(&stage.scene(options), &plan, &Roster::comparison())?;
    stage.steps.finish();
    if options.json {
        print_json(&report)
    } else {
        print!("{}", report::files_table(&report, options.look()));
        Ok(())
    }
}

fn print_json(report: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(report).map_err(|cause| Failure::system("write JSON", cause))?;
    println!("{text}");
    Ok(())
}

/// What a run needs, gone when dropped.
struct Stage {
    cores: Cores,
    work: TempDir,
    share: TempDir,
    programs: Option<Programs>,
    steps: Steps,
}

impl Stage {
    fn set(options: &Options) -> Result<Self, Failure> {
        let steps = Steps::new();
        let fetched = (!options.no_peers).then(|| Programs::obtain(&steps)).transpose();
        let programs = fetched.unwrap_or_else(|cause| {
            steps.warn(&format!("every peer is left out, as by --no-peers: {cause}"));
            None
        });
        let cores = Cores::choose()?;
        let work = tempfile::tempdir().map_err(|cause| Failure::system("make a temporary folder", cause))?;
        // Shared memory is the tmpfs that every Linux has.
        let share =
            tempfile::tempdir_in("/dev/shm").map_err(|cause| Failure::system("make a folder in /dev/shm", cause))?;
        cores.enter_client()?;
        Ok(Self { cores, work, share, programs, steps })
    }

    fn scene<'a>(&'a self, options: &'a Options) -> Scene<'a> {
        let folder: &Path = self.share.path();
        Scene {
            cores: self.cores,
            work: self.work.path(),
            folder,
            programs: self.programs.as_ref(),
            daemon_args: &options.daemon_args,
            steps: &self.steps,
        }
    }
}
