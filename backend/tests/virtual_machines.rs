//! The command with Linux guests under QEMU: the demonstration on every machine, and what `attach` prints, pasted into a
//! shell. Where the guests' parts cannot be had the tests are skipped, except under `CI`.

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use calgary_tests::vm::{Bundle, Initramfs, Scenario, aarch64_bundle_for_tests, bundle_for_tests, tsc_kilohertz};
use frontend_spec::attach::QemuMachine;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calgaryd");

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
    let Some(_) = bundle_for_tests() else { return };
    for transport in ["vhost-user", "vfio-user"] {
        demonstrate(&["--transport", transport]);
    }
}

#[test]
fn a_pc_without_pci_learns_of_the_iommu_from_tables_of_ours() {
    let Some(_) = bundle_for_tests() else { return };
    demonstrate(&["--machine", "microvm"]);
}

#[test]
fn an_aarch64_guest_learns_of_the_iommu_from_its_device_tree() {
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

/// A bound, not an expectation.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs `commands` in a shell with `path` to find programs; returns what they printed. They end with their time.
fn run_in_shell(folder: &Path, path: &str, commands: &str) -> String {
    let printed = folder.join("printed");
    let file = || File::options().create(true).append(true).open(&printed).unwrap();
    let mut shell = Command::new("sh")
        .args(["-c", commands])
        .current_dir(folder)
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(file())
        .stderr(file())
        // With a group of their own, what the shell starts can be ended too.
        .process_group(0)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match shell.try_wait().unwrap() {
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            status => break status,
        }
    };
    if status.is_none() {
        let group = libc::pid_t::try_from(shell.id()).unwrap();
        // SAFETY: `kill` takes no pointers; the group's leader is our child and not yet reaped.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        let _ = shell.wait();
    }
    let printed = String::from_utf8_lossy(&std::fs::read(printed).unwrap()).into_owned();
    let outcome = status.map_or_else(|| format!("not done within {PATIENCE:?}"), |status| status.to_string());
    assert!(status.is_some_and(|status| status.success()), "{outcome}: {commands}\n{printed}");
    printed
}

/// A daemon that ends with the test, and where it says how it is.
struct Served(Child, UnixDatagram);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Served {
    /// Serves the folder `shared` of `root`. `None` where the system lacks the sandbox that `confinement` asks for.
    fn start(root: &Path, devices: &[&str], confinement: &[&str]) -> Option<Self> {
        let manager = root.join("notify");
        let told = UnixDatagram::bind(&manager).unwrap();
        told.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("serve").args(devices).args(confinement).env("NOTIFY_SOCKET", &manager);
        let mut served = Self(command.spawn().unwrap(), told);
        while served.1.recv(&mut [0; 64]).is_err() {
            if let Some(status) = served.0.try_wait().unwrap() {
                assert!(status.code() == Some(2) && !confinement.is_empty(), "{status}");
                eprintln!("skipped: no sandbox {confinement:?}");
                return None;
            }
        }
        Some(served)
    }

    /// It has lived until now, and ends in good order.
    fn stop(mut self) {
        let pid = libc::pid_t::try_from(self.0.id()).unwrap();
        // SAFETY: `kill` takes no pointers; the child is ours and not yet reaped.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

/// What a guest does that gets a note from the host.
const READ_A_NOTE: &str = ". /guest/lib.sh\nmount_tag home /mnt && say note $(cat /mnt/note) && say translated \
                           $(translated $(device_of home))\n";

/// Serves a folder with a note, pastes what `attach` prints for `machine` into a shell, and returns what the guest's console
/// showed while it went through `scenario`. `args` are for `serve` and `attach`, `confinement` is for `serve` alone.
fn pasted(machine: QemuMachine, args: &[&str], confinement: &[&str], scenario: &Scenario) -> Option<String> {
    let bundle = if machine.is_aarch64() { aarch64_bundle_for_tests() } else { bundle_for_tests() }?;
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(root.path().join("bin")).unwrap();
    std::fs::create_dir(root.path().join("shared")).unwrap();
    std::fs::write(root.path().join("shared/note"), "from the host").unwrap();
    programs(&root.path().join("bin"), &bundle, machine.program());
    let mut initramfs = Initramfs::new(&bundle).unwrap();
    initramfs.scenario(scenario).write(&root.path().join("initramfs")).unwrap();

    let iommu = at("i");
    let share = format!("tag=home,path={},socket={},endpoint=00:06.0", at("shared"), at("s"));
    let devices = [&["--iommu", &iommu, "--share", &share][..], args].concat();
    let served = Served::start(root.path(), &devices, confinement)?;
    let kernel = bundle.kernel.to_str().unwrap();
    // Enough for a window of 4 GiB where RAM begins at 1 GiB; what the guest does not touch costs nothing.
    let memory = if machine.is_aarch64() { "3072" } else { "512" };
    let mut append =
        "panic=-1 mitigations=off nokaslr tsc=reliable quiet calgary.tags=home calgary.entries=100".to_owned();
    if machine == QemuMachine::Microvm {
        // There is no other clock, and a busy host spoils the calibration against the interval timer.
        append += &format!(" tsc_early_khz={}", tsc_kilohertz());
    }
    let output = Command::new(PROGRAM)
        .args(["attach", "qemu", "--machine", machine.name()])
        .args(&devices)
        // A /dev/kvm that can be opened is not yet one that can run a guest.
        .args(["--accel", "tcg", "--memory", memory, "--kernel", kernel, "--initrd", "initramfs"])
        .args(["--append", &append])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let commands = String::from_utf8(output.stdout).unwrap();
    let path = format!("{}:{}", at("bin"), std::env::var("PATH").unwrap());
    let console = run_in_shell(root.path(), &path, &commands);
    assert!(console.contains("@@ done 0"), "{machine}: {commands}\n{console}");
    served.stop();
    Some(console)
}

/// What `attach` prints for `machine` lets a guest read a note through the IOMMU.
fn pasted_reads_a_note(machine: QemuMachine, args: &[&str]) {
    let Some(console) = pasted(machine, args, &[], &Scenario::Script(READ_A_NOTE.to_owned())) else { return };
    for line in ["@@ note from the host", "@@ translated yes"] {
        assert!(console.contains(line), "{machine}: {line} is missing; {console}");
    }
}

#[test]
fn what_attach_prints_for_qemu_runs_in_a_shell() {
    pasted_reads_a_note(QemuMachine::Q35, &[]);
    // A window that is larger than RAM.
    pasted_reads_a_note(QemuMachine::Q35, &["--transport", "vfio-user", "--window", "4G"]);
}

#[test]
fn what_attach_prints_for_other_machines_of_qemu_runs_in_a_shell() {
    pasted_reads_a_note(QemuMachine::Microvm, &[]);
    for machine in [QemuMachine::VirtAarch64, QemuMachine::VirtAarch64Pci] {
        pasted_reads_a_note(machine, &["--window", "4G", "--reserve", "0-0x3fffffff"]);
    }
}

#[test]
fn a_confined_daemon_serves_every_operation_of_linux() {
    // A system call that was not foreseen would kill it.
    let confinement = ["--sandbox", "namespace", "--seccomp", "kill"];
    let console = pasted(QemuMachine::Q35, &["--transport", "vfio-user"], &confinement, &Scenario::Posix);
    if let Some(console) = console {
        assert!(console.matches(" ok").count() >= 20, "cases are missing; {console}");
    }
}
