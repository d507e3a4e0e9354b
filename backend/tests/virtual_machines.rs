//! The command with Linux guests under QEMU: the demonstration on every machine, and what `attach` prints, pasted into a
//! shell. Where the guests' parts cannot be had the tests are skipped, except under `CI`.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use calgary_tests::vm::{Bundle, Initramfs, Scenario, aarch64_bundle_for_tests, bundle_for_tests};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calgaryd");

/// An emulated guest keeps a small machine busy.
static ONE_GUEST: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    ONE_GUEST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the demonstration on `machine`; returns its report.
fn demonstrate(machine: &str) -> Value {
    let output = Command::new(PROGRAM)
        .args(["demo", "--json", "--size", "4", "--machine", machine])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{machine}: {report}{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["verified"], &report["faults"]), (&Value::from(true), &Value::from(0)), "{report:#}");
    assert_eq!(report["guest"], "linux");
    // The driver had the IOMMU's domain, so the guest understood the topology.
    assert!(report["iommu_domain"].as_str().unwrap().starts_with("DMA"), "{report:#}");
    assert!(report["maps"].as_u64().unwrap() > 1000, "{report:#}");
    report
}

#[test]
fn a_pc_without_pci_learns_of_the_iommu_from_tables_of_ours() {
    let _turn = turn();
    let Some(_) = bundle_for_tests() else { return };
    demonstrate("microvm");
}

#[test]
fn an_aarch64_guest_learns_of_the_iommu_from_its_device_tree() {
    let _turn = turn();
    let Some(_) = aarch64_bundle_for_tests() else { return };
    for machine in ["virt-aarch64", "virt-aarch64-pci"] {
        assert!(demonstrate(machine)["kernel"].as_str().unwrap().contains("arm64"));
    }
}

/// A folder in which a shell finds `calgaryd` and QEMU by their names.
fn programs(folder: &Path, bundle: &Bundle) {
    symlink(PROGRAM, folder.join("calgaryd")).unwrap();
    let qemu = &bundle.qemu;
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap().replace('\'', r"'\''"));
    let variables: String =
        qemu.env.iter().map(|(name, value)| format!("export {}={}\n", name.to_str().unwrap(), quoted(value))).collect();
    let words = std::iter::once(qemu.program.as_os_str()).chain(qemu.leading_args.iter().map(AsRef::as_ref));
    let words: Vec<String> = words.map(quoted).collect();
    let script = format!("#!/bin/sh\n{variables}exec {} \"$@\"\n", words.join(" "));
    let path = folder.join("qemu-system-x86_64");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves a folder with a note, pastes what `attach` prints with `args` into a shell, and lets the guest read the note.
fn pasted(args: &[&str]) {
    let _turn = turn();
    let Some(bundle) = bundle_for_tests() else { return };
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(root.path().join("bin")).unwrap();
    std::fs::create_dir(root.path().join("shared")).unwrap();
    std::fs::write(root.path().join("shared/note"), "from the host").unwrap();
    programs(&root.path().join("bin"), &bundle);
    let script = ". /guest/lib.sh\nmount_tag home /mnt && say note $(cat /mnt/note) && say translated $(translated \
                  $(device_of home))\n";
    let mut initramfs = Initramfs::new(&bundle).unwrap();
    initramfs.scenario(&Scenario::Script(script.to_owned())).write(&root.path().join("initramfs")).unwrap();

    let share = format!("tag=home,path={},socket={},endpoint=00:06.0", at("shared"), at("s"));
    let devices = ["--iommu", &at("i"), "--share", &share];
    let manager = std::os::unix::net::UnixDatagram::bind(root.path().join("notify")).unwrap();
    let daemon = Command::new(PROGRAM).arg("serve").args(devices).env("NOTIFY_SOCKET", at("notify")).spawn().unwrap();
    let _daemon = Running(daemon);
    manager.recv(&mut [0; 64]).unwrap();

    let kernel = bundle.kernel.to_str().unwrap();
    let output = Command::new(PROGRAM)
        .args(["attach", "qemu"])
        .args(devices)
        .args(["--memory", "512", "--kernel", kernel, "--initrd", "initramfs"])
        .args(["--append", "panic=-1 mitigations=off nokaslr tsc=reliable quiet calgary.tags=home"])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let commands = String::from_utf8(output.stdout).unwrap();
    let path = format!("{}:{}", at("bin"), std::env::var("PATH").unwrap());
    let guest = Command::new("sh")
        .args(["-c", &commands])
        .current_dir(root.path())
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&guest.stdout);
    for line in ["@@ note from the host", "@@ translated yes", "@@ done 0"] {
        assert!(
            console.contains(line),
            "{line} is missing; {commands}\n{console}\n{}",
            String::from_utf8_lossy(&guest.stderr)
        );
    }
    assert!(guest.status.success());
}

#[test]
fn what_attach_prints_for_qemu_runs_in_a_shell() {
    // A /dev/kvm that can be opened is not yet one that can run a guest.
    pasted(&["--accel", "tcg"]);
}
