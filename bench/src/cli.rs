//! The command line.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use tempfile::TempDir;

use crate::failure::Failure;
use crate::iommu::{IommuPlan, Scene};
use crate::measure::Cores;
use crate::peers::{DAEMON_COMMAND, Programs};
use crate::progress::Steps;
use crate::report;

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
    /// MAP and UNMAP of one page per request: nanoseconds by requests per kick and by live mappings, beside QEMU's
    /// virtio-iommu and beside the bare round trips between the two processors.
    Iommu(Options),
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

    /// Leave the peers out: nothing is fetched.
    #[arg(long)]
    no_peers: bool,

    /// Samples of each figure.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=101))]
    rounds: u16,

    /// Further arguments for `calgaryd serve`; may repeat.
    #[arg(long = "daemon-arg", value_name = "ARG", allow_hyphen_values = true)]
    daemon_args: Vec<String>,
}

/// Runs the command line `args` and returns its exit status: 0 done, 1 failed, 2 wrong usage.
pub(crate) fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    // The daemon under test is this program, so that measuring needs no other one built.
    if args.get(1).is_some_and(|command| command == DAEMON_COMMAND) {
        return calgaryd::cli::main(args.into_iter().skip(1));
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(cause) => cause.exit(),
    };
    let outcome = match cli.command {
        Command::Iommu(options) => iommu(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("calgary-bench: {failure}");
            ExitCode::FAILURE
        }
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
        print!("{}", report::iommu_table(&report));
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
        let programs = if options.no_peers { None } else { Some(Programs::obtain(&steps)?) };
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
