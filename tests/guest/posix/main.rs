//! Goes through what a POSIX file system must do, in a folder of any file system, and says what happened in one line for
//! each case. No expectation is built in: the lines of two file systems are compared by whoever runs this on both.
//!
//! `posix-cases LABEL FOLDER [PART-OF-A-NAME]` prints `@@ case LABEL NAME WHAT-HAPPENED`. It is for a guest of one's own and
//! for root: cases change users, make device nodes and raise limits. Each runs in a new folder and in a process of its
//! own, which is killed when it does not end.

mod cases;
mod files;
mod people;
mod said;

use std::path::Path;
use std::process::ExitCode;

use rustix::fs::Mode;
use rustix::process::{chdir, umask};

use cases::{ALL, Case};
use said::Said;

/// Seconds after which a case is killed. A bound, not an expectation.
const LIMIT: u32 = 60;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (label, folder, part) = match args.as_slice() {
        [label, folder] => (label, folder, ""),
        [label, folder, part] => (label, folder, part.as_str()),
        _ => {
            eprintln!("posix-cases: give a label, a folder, and optionally a part of the names of the cases wanted");
            return ExitCode::from(2);
        }
    };
    for (group, cases) in ALL {
        for (name, case) in *cases {
            let name = format!("{group}/{name}");
            if name.contains(part) {
                println!("@@ case {label} {name} {}", run(&Path::new(folder).join(name.replace('/', "-")), *case));
            }
        }
    }
    ExitCode::SUCCESS
}

/// Runs one case in a new folder, and removes the folder.
fn run(folder: &Path, case: Case) -> String {
    if let Err(error) = std::fs::create_dir(folder) {
        return format!("no-folder={error}");
    }
    let body = |said: &mut Said| {
        people::kill_after(LIMIT);
        umask(Mode::from_raw_mode(0o022));
        chdir(folder)?;
        case(said)
    };
    let mut line = people::child(body).wait();
    if let Err(error) = std::fs::remove_dir_all(folder) {
        line += &format!(" left-over={}", error.raw_os_error().map_or("?".into(), said::name));
    }
    line
}
