//! The command line.

mod attach;
mod demo;
mod serve;
mod tce;
mod viot;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

/// Wrong usage or an impossible configuration.
const EXIT_USAGE: u8 = 2;

/// Serves virtio-iommu and virtio-9p to virtual machines, every DMA translated by IBM Calgary TCE tables.
#[derive(Debug, Parser)]
#[command(name = "calgaryd", version, about, long_about = None, arg_required_else_help = true)]
struct Cli {
    /// What goes to standard error: off, error, warn, info, debug or trace [default: info for serve, else warn].
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<log::LevelFilter>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Viot(viot::Args),
    Attach(attach::Args),
    Demo(demo::Args),
    Tce(tce::Args),
}

/// How a command fails.
enum Failure {
    /// The user asked for something impossible: exit status 2.
    Usage(String),
    /// It went wrong: exit status 1.
    Runtime(String),
}

/// Runs the command line `args` and returns its exit status: 0 done, 1 failed, 2 wrong usage or configuration.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(cause) => return usage(&cause),
    };
    let usual = match cli.command {
        Command::Serve(_) => log::LevelFilter::Info,
        _ => log::LevelFilter::Warn,
    };
    env_logger::Builder::new().filter_level(cli.log_level.unwrap_or(usual)).format_target(false).init();
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Viot(args) => viot::run(&args),
        Command::Attach(args) => attach::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Tce(args) => tce::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("calgaryd: {message}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Runtime(message)) => {
            eprintln!("calgaryd: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Help goes out whole; an error becomes one line.
fn usage(cause: &clap::Error) -> ExitCode {
    if !cause.use_stderr() {
        print!("{cause}");
        return ExitCode::SUCCESS;
    }
    if cause.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        eprint!("{cause}");
    } else {
        let text = cause.to_string();
        let paragraph = text.split("\n\n").next().unwrap_or_default();
        let words: Vec<&str> = paragraph.trim_start_matches("error: ").split_whitespace().collect();
        eprintln!("calgaryd: {}", words.join(" "));
    }
    ExitCode::from(EXIT_USAGE)
}
