//! The command `calgaryd`.

use std::process::ExitCode;

fn main() -> ExitCode {
    calgaryd::cli::main(std::env::args_os())
}
