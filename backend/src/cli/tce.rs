//! `calgaryd tce`.

use std::fs::File;
use std::path::{Path, PathBuf};

use iommu_calgary::inspect::{self, Decoded};

use super::{Failure, READABLE, print_line};

/// Look at TCEs: the tables of a running daemon, a raw image of table memory, or single entries.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Dump(Dump),
    Decode(Decode),
}

/// Print what a table maps: ranges, permissions, totals.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Dump {
    /// A raw image of a table, in the chip's byte order (big-endian), of one of the eight sizes 64K to 8M.
    file: Option<PathBuf>,

    /// Print every table of the running daemon with this process id.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
}

/// Explain entries bit by bit.
#[derive(Debug, clap::Args)]
struct Decode {
    /// Entries as 16 hexadecimal digits, in the order of the bytes in memory: 0000000012345003.
    #[arg(required = true, value_name = "TCE", value_parser = parse_entry)]
    entries: Vec<u64>,
}

/// The link of a table's descriptor in /proc begins with this.
const TABLE_LINK: &str = "/memfd:calgary-tce";

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Dump(Dump { file: Some(file), .. }) => dump(file),
        Command::Dump(Dump { pid, .. }) => dump_process(pid.unwrap_or_default()),
        Command::Decode(Decode { entries }) => {
            for entry in entries {
                print_line(Decoded::from_bytes(entry.to_be_bytes()))?;
            }
            Ok(())
        }
    }
}

fn dump(file: &Path) -> Result<(), Failure> {
    let failure = |cause: &dyn std::fmt::Display| Failure::Runtime(format!("{}: {cause}", file.display()));
    let image = File::open(file).map_err(|cause| failure(&format_args!("{cause}; {READABLE}")))?;
    let image = inspect::read_image(&image).map_err(|cause| failure(&cause))?;
    let dump = inspect::dump(&image).map_err(|cause| failure(&cause))?;
    print_line(dump)
}

fn dump_process(pid: u32) -> Result<(), Failure> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let failure = |cause: std::io::Error| {
        let remedy = match cause.kind() {
            std::io::ErrorKind::NotFound => "give the process id of a running daemon",
            _ => "run as its owner or as root",
        };
        Failure::Runtime(format!("cannot look at process {pid}: {cause}; {remedy}"))
    };
    let mut tables = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(failure)? {
        let path = entry.map_err(failure)?.path();
        if std::fs::read_link(&path).is_ok_and(|link| link.to_string_lossy().starts_with(TABLE_LINK)) {
            tables.push(path);
        }
    }
    if tables.is_empty() {
        print_line(format_args!(
            "process {pid} has no TCE table; a table exists while an endpoint is attached to its domain"
        ))?;
    }
    tables.sort();
    for table in tables {
        print_line(format_args!("{}:", table.display()))?;
        dump(&table)?;
    }
    Ok(())
}

fn parse_entry(text: &str) -> Result<u64, String> {
    let digits = text.trim_start_matches("0x");
    if digits.len() > 16 {
        return Err(format!("{text} has more than 16 hexadecimal digits; an entry is 8 bytes"));
    }
    u64::from_str_radix(digits, 16).map_err(|_| format!("{text} is no hexadecimal number; write 0000000012345003"))
}
