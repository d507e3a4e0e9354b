//! The command with Linux guests under QEMU: the demonstration on every machine, and what `attach` prints, pasted into a
//! shell. Where the guests' parts cannot be had the tests are skipped, except under `CI`.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use calgary_tests::vm::{Bundle, Initramfs, Scenario, aarch64_bundle_for_tests, bundle_for_tests};
use frontend_spec::attach::QemuMachine;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calgaryd");

/// An emulated guest keeps a small machine busy.
static ONE_GUEST: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    ONE_GUEST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the demonstration with `args`; returns its report.
fn demonstrate(args: &[&str]) -> Value {
    let output =
        Command::new(PROGRAM).args(["demo", "--json", "--size", "4"]).args(args).stdin(Stdio::null()).output().unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {report}{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["verified"], &report["faults"]), (&Value::from(true), &Value::from(0)), "{report:#}");
    assert_eq!(report["guest"], "linux");
    // The driver had the IOMMU's domain, so the guest understood the topology.
    assert!(report["iommu_domain"].as_str().unwrap().starts_with("DMA"), "{report:#}");
    assert!(report["maps"].as_u64().unwrap() > 1000, "{report:#}");
    report
}

#[test]
fn a_pc_shares_a_folder_over_either_transport() {
    let _turn = turn();
    let Some(_) = bundle_for_tests() else { return };
    for transport in ["vhost-user", "vfio-user"] {
        demonstrate(&["--transport", transport]);
    }
}

#[test]
fn a_pc_without_pci_learns_of_the_iommu_from_tables_of_ours() {
    let _turn = turn();
    let Some(_) = bundle_for_tests() else { return };
    demonstrate(&["--machine", "microvm"]);
}

#[test]
fn an_aarch64_guest_learns_of_the_iommu_from_its_device_tree() {
    let _turn = turn();
    let Some(_) = aarch64_bundle_for_tests() else { return };
    for machine in ["virt-aarch64", "virt-aarch64-pci"] {
        assert!(demonstrate(&["--machine", machine])["kernel"].as_str().unwrap().contains("arm64"));
    }
}

/// A folder in which a shell finds `calgaryd` and QEMU, which is called `name`.
fn programs(folder: &Path, bundle: &Bundle, name: &str) {
    symlink(PROGRAM, folder.join("calgaryd")).unwrap();
    let qemu = &bundle.qemu;
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap().replace('\'', r"'\''"));
    let variables: String =
        qemu.env.iter().map(|(name, value)| format!("export {}={}\n", name.to_str().unwrap(), quoted(value))).collect();
    let words = std::iter::once(qemu.program.as_os_str()).chain(qemu.leading_args.iter().map(AsRef::as_ref));
    let words: Vec<String> = words.map(quoted).collect();
    let script = format!("#!/bin/sh\n{variables}exec {} \"$@\"\n", words.join(" "));
    let path = folder.join(name);
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

/// Serves a folder with a note, pastes what `attach` prints for `machine` into a shell, and lets the guest read the note.
/// `args` are those that `serve` takes too.
fn pasted(machine: QemuMachine, args: &[&str]) {
    let _turn = turn();
    let bundle = if machine.is_aarch64() { aarch64_bundle_for_tests() } else { bundle_for_tests() };
    let Some(bundle) = bundle else { return };
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(root.path().join("bin")).unwrap();
    std::fs::create_dir(root.path().join("shared")).unwrap();
    std::fs::write(root.path().join("shared/note"), "from the host").unwrap();
    programs(&root.path().join("bin"), &bundle, machine.program());
    let script = ". /guest/lib.sh\nmount_tag home /mnt && say note $(cat /mnt/note) && say translated $(translated \
                  $(device_of home))\n";
    let mut initramfs = Initramfs::new(&bundle).unwrap();
    initramfs.scenario(&Scenario::Script(script.to_owned())).write(&root.path().join("initramfs")).unwrap();

    let iommu = at("i");
    let share = format!("tag=home,path={},socket={},endpoint=00:06.0", at("shared"), at("s"));
    let devices = [&["--iommu", &iommu, "--share", &share][..], args].concat();
    let manager = std::os::unix::net::UnixDatagram::bind(root.path().join("notify")).unwrap();
    let daemon = Command::new(PROGRAM).arg("serve").args(&devices).env("NOTIFY_SOCKET", at("notify")).spawn().unwrap();
    let _daemon = Running(daemon);
    manager.recv(&mut [0; 64]).unwrap();

    let kernel = bundle.kernel.to_str().unwrap();
    // Enough for a window of 4 GiB where RAM begins at 1 GiB; what the guest does not touch costs nothing.
    let memory = if machine.is_aarch64() { "3072" } else { "512" };
    let output = Command::new(PROGRAM)
        .args(["attach", "qemu", "--machine", machine.name()])
        .args(&devices)
        // A /dev/kvm that can be opened is not yet one that can run a guest.
        .args(["--accel", "tcg", "--memory", memory, "--kernel", kernel, "--initrd", "initramfs"])
        .args(["--append", "panic=-1 mitigations=off nokaslr tsc=reliable quiet calgary.tags=home"])
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
            "{machine}: {line} is missing; {commands}\n{console}\n{}",
            String::from_utf8_lossy(&guest.stderr)
        );
    }
    assert!(guest.status.success());
}

#[test]
fn what_attach_prints_for_qemu_runs_in_a_shell() {
    pasted(QemuMachine::Q35, &[]);
    // A window that is larger than RAM.
    pasted(QemuMachine::Q35, &["--transport", "vfio-user", "--window", "4G"]);
}

#[test]
fn what_attach_prints_for_other_machines_of_qemu_runs_in_a_shell() {
    pasted(QemuMachine::Microvm, &[]);
    for machine in [QemuMachine::VirtAarch64, QemuMachine::VirtAarch64Pci] {
        pasted(machine, &["--window", "4G", "--reserve", "0-0x3fffffff"]);
    }
}
