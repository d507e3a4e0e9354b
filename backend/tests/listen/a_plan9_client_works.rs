//! A client in 9P2000 that is not ours: the Python package `python-9p`, whose wire codec is plan9port's.
//!
//! `P9_PYTHON` is a Python that has it (`python3` if it is not set).

use std::process::Command;

use crate::rig::Rig;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/listen/plan9_client.py");

#[test]
fn a_plan9_program_makes_lists_changes_and_removes_files() {
    let python = std::env::var("P9_PYTHON").unwrap_or_else(|_| "python3".into());
    let has_it = Command::new(&python).args(["-c", "import py9p.native"]).output();
    if !has_it.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "skipped: {python} lacks the package python-9p; install it in a virtual environment and set P9_PYTHON"
        );
        return;
    }
    for at in 0..2 {
        let rig = Rig::new();
        // `unix:PATH`, then `tcp:HOST:PORT`.
        let address = rig.addresses()[at].to_string();
        let words: Vec<&str> = if at == 0 { address.splitn(2, ':').collect() } else { address.split(':').collect() };
        let output = Command::new(&python).arg(SCRIPT).args(&words).output().unwrap();
        assert!(output.status.success(), "{address}: {}", String::from_utf8_lossy(&output.stderr));
        let mut names: Vec<_> = std::fs::read_dir(rig.folder().join("folder"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 38);
        assert!(names.contains(&"renamed".to_owned()) && !names.iter().any(|name| name == "file0" || name == "file2"));
        assert_eq!(std::fs::read(rig.folder().join("folder/renamed")).unwrap(), b"hello");
    }
}
