//! The command line.

mod attach;
mod backend_program;
mod bounded_log;
mod config_file;
mod demo;
mod generate;
mod serve;
mod tce;
mod topology;

use std::error::Error;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

/// Wrong usage or an impossible configuration.
const EXIT_USAGE: u8 = 2;

/// At the end of `--help` and in the man page.
const STATUS_SIGNALS_ENVIRONMENT: &str = "\
Exit status: 0 done, and for serve: ended by a signal. 1 something went wrong while running. 2 wrong usage or an \
impossible configuration; one line on standard error says what to change, and nothing was started.

Signals of serve: SIGTERM and SIGINT end it, SIGUSR1 writes the counters to the log.

Environment: CALGARY_CACHE names the folder in which demo keeps what it fetches, CALGARY_MIRROR the Debian archive it \
fetches from. NOTIFY_SOCKET is told when serve is ready and when it stops, as systemd expects of Type=notify.";

/// Serves virtio-iommu and virtio-9p to virtual machines, every DMA translated by IBM Calgary TCE tables.
#[derive(Debug, Parser)]
#[command(name = "calgaryd", version, about, long_about = None, arg_required_else_help = true)]
#[command(after_long_help = STATUS_SIGNALS_ENVIRONMENT)]
struct Cli {
    /// What goes to standard error: off, error, warn, info, debug or trace [default: info for serve, else warn].
    #[arg(long, global = true, value_name = "LEVEL", value_parser = parse_level)]
    log_level: Option<log::LevelFilter>,
    #[command(flatten)]
    backend_program: backend_program::Args,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Viot(topology::ViotArgs),
    Dtb(topology::DtbArgs),
    Acpi(topology::AcpiArgs),
    Attach(attach::Args),
    Demo(demo::Args),
    Tce(tce::Args),
    Generate(generate::Args),
}

/// How a command fails.
enum Failure {
    /// The user asked for something impossible: exit status 2.
    Usage(String),
    /// It went wrong: exit status 1.
    Runtime(String),
}

impl Failure {
    /// Tells the user in one line; returns the exit status.
    fn report(self) -> ExitCode {
        let (message, status) = match self {
            Self::Usage(message) => (message, ExitCode::from(EXIT_USAGE)),
            Self::Runtime(message) => (message, ExitCode::FAILURE),
        };
        complain(&message);
        status
    }
}

/// What to do about a file that cannot be read.
const READABLE: &str = "name a file that calgaryd's user can read";
/// What to do about a file that cannot be written.
const WRITABLE: &str = "name a file in a folder where calgaryd's user can write";

fn parse_level(text: &str) -> Result<log::LevelFilter, String> {
    text.parse().map_err(|_| "there is no such level; say off, error, warn, info, debug or trace".to_owned())
}

/// Writes `text` to standard output. Whoever reads it may have enough before its end.
fn print(text: impl Display) -> Result<(), Failure> {
    let mut out = io::stdout();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Runtime(format!("cannot write to standard output: {cause}")))
        }
        _ => Ok(()),
    }
}

/// As [`print`], and ends the line.
fn print_line(text: impl Display) -> Result<(), Failure> {
    print(format_args!("{text}\n"))
}

/// Writes a line to standard error. If that is not possible, nobody is there to be told.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "calgaryd: {text}");
}

/// Runs the command line `args` and returns its exit status: 0 done, 1 failed, 2 wrong usage or configuration.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if backend_program::asks_for_capabilities(&args) {
        return exit_status(print_line(backend_program::capabilities()));
    }
    let cli = match parse(args) {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    let usual = match cli.command {
        Some(Command::Serve(_)) | None => log::LevelFilter::Info,
        _ => log::LevelFilter::Warn,
    };
    bounded_log::start(cli.log_level.unwrap_or(usual));
    let outcome = match (cli.command, cli.backend_program.is_used()) {
        (Some(_), true) => Err(Failure::Usage(
            "--socket-path, --fd, --shared-dir, --tag and --readonly stand for a command of their own; leave them out, \
             or leave out the command"
                .to_owned(),
        )),
        (None, _) => backend_program::run(&cli.backend_program),
        (Some(Command::Serve(args)), _) => serve::run(&args),
        (Some(Command::Viot(args)), _) => topology::viot(&args),
        (Some(Command::Dtb(args)), _) => topology::dtb(&args),
        (Some(Command::Acpi(args)), _) => topology::acpi(&args),
        (Some(Command::Attach(args)), _) => attach::run(&args),
        (Some(Command::Demo(args)), _) => demo::run(&args),
        (Some(Command::Tce(args)), _) => tce::run(&args),
        (Some(Command::Generate(args)), _) => generate::run(&args, Cli::command()),
    };
    exit_status(outcome)
}

fn exit_status(outcome: Result<(), Failure>) -> ExitCode {
    outcome.map_or_else(Failure::report, |()| ExitCode::SUCCESS)
}

/// Reads the command line, and a configuration file if it names one.
fn parse(args: Vec<OsString>) -> Result<Cli, ExitCode> {
    let cli = Cli::try_parse_from(&args).map_err(|cause| usage(&cause))?;
    let (command, file) = match &cli.command {
        Some(Command::Serve(args)) => (vec!["serve"], args.config_file()),
        Some(Command::Attach(args)) => (vec!["attach", args.vmm()], args.config_file()),
        _ => return Ok(cli),
    };
    let Some(file) = file else { return Ok(cli) };
    let args = config_file::expand(&args, &command, file).map_err(|failure| failure.report())?;
    Cli::try_parse_from(args).map_err(|cause| usage(&cause))
}

/// Help goes out whole; an error becomes one line.
fn usage(cause: &clap::Error) -> ExitCode {
    if !cause.use_stderr() {
        return exit_status(print(cause));
    }
    if cause.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = write!(io::stderr(), "{cause}");
    } else {
        let text = cause.to_string();
        let paragraph = text.split("\n\n").next().unwrap_or_default();
        let text = refused_value(cause).unwrap_or_else(|| paragraph.trim_start_matches("error: ").to_owned());
        let words: Vec<&str> = text.split_whitespace().collect();
        let remedy = match cause.kind() {
            ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument => "; see calgaryd --help",
            _ => "",
        };
        complain(&format!("{}{remedy}", words.join(" ")));
    }
    ExitCode::from(EXIT_USAGE)
}

/// Which option has a value that its own rules refuse, and why: without the option's syntax, which may be longer than
/// both.
fn refused_value(cause: &clap::Error) -> Option<String> {
    let why = cause.source().filter(|_| cause.kind() == ErrorKind::ValueValidation)?;
    let (ContextValue::String(option), ContextValue::String(value)) =
        (cause.get(ContextKind::InvalidArg)?, cause.get(ContextKind::InvalidValue)?)
    else {
        return None;
    };
    Some(format!("{} {value}: {why}", option.split_whitespace().next()?))
}
