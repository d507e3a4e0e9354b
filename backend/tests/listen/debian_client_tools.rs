//! diod's own client tools, as Debian packages them, out of the bundle of the guest tests.

use std::process::Command;

use calgary_tests::vm::{Bundle, bundle_for_tests};

use crate::rig::Rig;

/// Runs a tool of the bundle with the bundle's own C library; its standard output.
fn run(bundle: &Bundle, tool: &str, args: &[&str]) -> Vec<u8> {
    let root = &bundle.guest_root;
    let output = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"))
        .arg("--library-path")
        .arg(root.join("usr/lib/x86_64-linux-gnu"))
        .arg(root.join("usr/sbin").join(tool))
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn diod_lists_and_reads_over_both_kinds() {
    let Some(bundle) = bundle_for_tests() else { return };
    let rig = Rig::new();
    let data: Vec<u8> = (0..1_000_000_u32).map(|at| at.to_le_bytes()[(at % 3) as usize]).collect();
    std::fs::write(rig.folder().join("data"), &data).unwrap();
    std::fs::create_dir(rig.folder().join("folder")).unwrap();
    std::fs::write(rig.folder().join("folder/inside"), "").unwrap();
    for address in rig.addresses() {
        // What diod calls a server is the part behind the kind.
        let address = address.to_string();
        let (_, server) = address.split_once(':').unwrap();
        let common = ["--server", server, "--aname", "/"];
        let listed = String::from_utf8(run(&bundle, "diodls", &[&common[..], &["-l"]].concat())).unwrap();
        assert!(listed.contains("data") && listed.contains("1000000") && listed.contains("folder"), "{listed}");
        let inside = String::from_utf8(run(&bundle, "diodls", &[&common[..], &["folder"]].concat())).unwrap();
        assert_eq!(inside.split_whitespace().collect::<Vec<_>>(), ["inside"]);
        let read = run(&bundle, "diodcat", &[&common[..], &["data"]].concat());
        assert!(read == data, "{server}: {} bytes", read.len());
    }
}
