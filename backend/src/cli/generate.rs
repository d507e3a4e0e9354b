//! `calgaryd generate`: the files that a package installs beside the program.

use std::path::{Path, PathBuf};

use clap_complete::Shell;

use super::{Failure, backend_program, print, print_line};

/// Write the files that a package installs beside the program.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Man(Man),
    Completions(Completions),
    Description(Description),
}

/// Write the manual pages, calgaryd.1 and one for each command, into a folder.
#[derive(Debug, clap::Args)]
struct Man {
    /// Folder to write into, such as /usr/share/man/man1.
    folder: PathBuf,
}

/// Print completions for a shell.
#[derive(Debug, clap::Args)]
struct Completions {
    /// The shell.
    shell: Shell,
}

/// Print the description by which management tools find a vhost-user backend program, for
/// /usr/share/qemu/vhost-user/50-calgaryd.json.
#[derive(Debug, clap::Args)]
struct Description {
    /// Where the program will be installed; an absolute path.
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/calgaryd")]
    binary: PathBuf,
}

/// Writes what was asked for, from the command line `program`.
pub(super) fn run(args: &Args, mut program: clap::Command) -> Result<(), Failure> {
    match &args.what {
        What::Man(Man { folder }) => manual_pages(folder, program),
        What::Completions(Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut program, "calgaryd", &mut script);
            print(String::from_utf8_lossy(&script))
        }
        What::Description(Description { binary }) => {
            if !binary.is_absolute() {
                let message = format!("{} is not an absolute path; say where the program will be", binary.display());
                return Err(Failure::Usage(message));
            }
            print_line(backend_program::description(binary))
        }
    }
}

fn manual_pages(folder: &Path, program: clap::Command) -> Result<(), Failure> {
    let failure = |cause| {
        Failure::Runtime(format!(
            "cannot write into {}: {cause}; name a folder where calgaryd's user can write",
            folder.display()
        ))
    };
    std::fs::create_dir_all(folder).map_err(failure)?;
    clap_mangen::generate_to(program.disable_help_subcommand(true), folder).map_err(failure)
}
