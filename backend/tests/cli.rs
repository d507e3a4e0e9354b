//! The command as a user meets it: exit statuses, one clear line for each mistake, a clean end.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn calgaryd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_calgaryd")).args(args).stdin(Stdio::null()).output().unwrap()
}

/// The single line that a wrong command line is answered with.
fn complaint(args: &[&str]) -> String {
    let output = calgaryd(args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    assert!(output.stdout.is_empty());
    text
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_mistake_is_one_line_and_status_2() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| path(folder.path(), name);
    let share = |rest: &str| format!("tag=home,path={},socket={}{rest}", folder.path().display(), at("s"));
    std::fs::write(at("file"), "").unwrap();
    let live = UnixListener::bind(at("live")).unwrap();
    let (iommu, plain) = (at("i"), share(""));

    let in_use = format!("tag=home,path={},socket={}", folder.path().display(), at("live"));
    let not_a_socket = format!("tag=home,path={},socket={}", folder.path().display(), at("file"));
    let no_folder = format!("tag=home,path={},socket={}", at("nowhere"), at("s"));
    let not_a_folder = format!("tag=home,path={},socket={}", at("file"), at("s"));
    let long_tag = format!("tag={},path=/,socket=/s", "t".repeat(32));
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = |address: &str| format!("tag=home,path={},listen={address}", folder.path().display());
    let taken = listen(&format!("tcp:{}", port.local_addr().unwrap()));
    let remote = listen("tcp:0.0.0.0:0");
    let covered = listen(&format!("unix:{}", at("file")));
    let elsewhere = listen("tcp:192.0.2.1:0,allow-remote");
    let unreachable = format!("tag=home,path={}", folder.path().display());
    let listening = listen("unix:l");
    let nowhere = at("nowhere");
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["serve", "--share", &taken], "in use"),
        (vec!["serve", "--share", &remote], "allow-remote"),
        (vec!["serve", "--share", &covered], "not a socket"),
        (vec!["serve", "--share", &elsewhere], "choose an address of this machine"),
        (vec!["serve", "--share", &unreachable], "socket="),
        (vec!["serve"], "nothing to serve"),
        (vec!["serve", "--iommu", &iommu, "--window", "100M"], "32M, 64M, 128M, 256M, 512M, 1G, 2G, 4G"),
        (vec!["serve", "--iommu", &iommu, "--window", "lots"], "256M or 4G"),
        (vec!["serve", "--share", &no_folder], "cannot read folder"),
        (vec!["serve", "--share", &not_a_folder], "cannot read folder"),
        (vec!["serve", "--share", &in_use], "in use"),
        (vec!["serve", "--share", &not_a_socket], "not a socket"),
        (vec!["serve", "--share", &long_tag], "31"),
        (vec!["serve", "--share", &plain, "--share", &plain], "used twice"),
        (vec!["serve", "--share", "path=/"], "--share path=/: tag= is missing"),
        (vec!["serve", "--window", "1G", "--share", &plain], "--window says how the IOMMU is"),
        (vec!["serve", "--boot-bypass", "--share", &plain], "add --iommu SOCKET"),
        (vec!["serve", "--reserve", "0-0xfff", "--share", &plain], "add --iommu SOCKET"),
        (vec!["serve", "--iommu-transport", "vfio-user", "--share", &plain], "add --iommu SOCKET"),
        (vec!["attach", "qemu", "--iommu-at", "00:05.0", "--share", &plain], "add --iommu SOCKET"),
        (vec!["serve", "--log-level", "loud"], "--log-level loud: there is no such level; say off, error"),
        (vec!["serve", "--config", &nowhere], "can read"),
        (vec!["serve", "--colour"], "--colour"),
        (vec!["frobnicate"], "'frobnicate'; see calgaryd --help"),
        (vec!["attach", "crosvm", "--share", &listening], "nothing to attach"),
        (vec!["viot", "--output", "/dev/null"], "--endpoint"),
        (vec!["viot", "--endpoint", "00:05.0", "--output", "/dev/null"], "00:05.0"),
        (vec!["viot", "--endpoint", "six", "--output", "/dev/null"], "write bus:device.function"),
        (vec!["acpi", "--endpoint", "00:06.0", "--address", "0xfffff000", "--output", "/dev/null"], "below 4 GiB"),
        (vec!["demo", "--no-vm", "--kernel", "x"], "--kernel"),
    ];
    for (args, hint) in cases {
        let text = complaint(&args);
        assert!(text.contains(hint), "{args:?}: {text}");
    }
    for (keys, hint) in [
        (",security=mapped", "passthrough, mapped-xattr or none"),
        (",uid-map=0:0", "GUEST:HOST:COUNT"),
        (",squash=0", "UID:GID"),
        (",umask=999", "octal"),
        (",msize=1", "4K to 1G"),
        (",max-fids=0", "at least 1"),
        (",max-descriptors=2000000", "raise the limit of open files"),
        (",security=mapped-xattr,per-user", "leave it out"),
    ] {
        let text = complaint(&["serve", "--share", &share(keys)]);
        assert!(text.contains(hint), "{keys}: {text}");
    }
    let own = share(",endpoint=00:05.0");
    assert!(complaint(&["serve", "--iommu", &iommu, "--share", &own]).contains("IOMMU's own"));
    let alone = share(",iommu=on,endpoint=00:06.0");
    assert!(complaint(&["serve", "--share", &alone]).contains("there is no IOMMU"));
    assert!(!folder.path().join("s").exists() && !folder.path().join("i").exists(), "something was started");
    drop(live);
}

#[test]
fn a_file_that_cannot_be_had_is_one_line_with_a_remedy_and_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let (nowhere, inside) = (path(folder.path(), "nowhere"), path(folder.path(), "nowhere/file"));
    std::fs::write(path(folder.path(), "file"), "").unwrap();
    let below = path(folder.path(), "file/below");
    for (args, hint) in [
        (&["viot", "--endpoint", "00:06.0", "--output", &inside][..], "can write"),
        (&["dtb", "--endpoint", "00:06.0", "--input", &nowhere, "--output", &inside], "can read"),
        (&["tce", "dump", &nowhere], "can read"),
        (&["generate", "man", &below], "can write"),
    ] {
        let output = calgaryd(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{args:?}: {text}");
        assert!(text.contains(hint), "{args:?}: {text}");
    }
}

#[test]
fn a_socket_that_cannot_be_bound_leaves_none_behind() {
    let folder = tempfile::tempdir().unwrap();
    let share = format!("tag=home,path=/,socket={}", path(folder.path(), "missing/s"));
    let text = complaint(&["serve", "--iommu", &path(folder.path(), "i"), "--share", &share]);
    assert!(text.contains("cannot bind") && text.contains("make its folder first"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A running daemon whose log is read line by line.
struct Daemon {
    child: Child,
    log: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Daemon {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_calgaryd"))
            .arg("serve")
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log }
    }

    fn wait_for(&mut self, pattern: &str) -> String {
        self.log.by_ref().map(Result::unwrap).find(|line| line.contains(pattern)).expect("the log ended")
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: `kill` takes no pointers; the child is ours and not yet reaped.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }
}

impl Drop for Daemon {
    /// One that outlived a test that failed would hold the test's output open.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn serve_ends_cleanly_on_sigterm_and_counts_on_sigusr1() {
    let folder = tempfile::tempdir().unwrap();
    let (iommu, socket) = (path(folder.path(), "i"), path(folder.path(), "s"));
    let share = format!("tag=home,path=/,socket={socket},endpoint=00:06.0,readonly");
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut daemon = Daemon::start(&["--iommu", &iommu, "--share", &share]);
        daemon.wait_for("share home");
        assert!(Path::new(&iommu).exists() && Path::new(&socket).exists());
        daemon.signal(libc::SIGUSR1);
        daemon.wait_for("live mappings 0");
        daemon.signal(signal);
        assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
        assert!(!Path::new(&iommu).exists() && !Path::new(&socket).exists(), "a socket was left");
    }
}

#[test]
fn serve_listens_without_a_vmm_and_ends_its_clients() {
    let folder = tempfile::tempdir().unwrap();
    let socket = path(folder.path(), "s");
    let share = format!("tag=home,path=/,readonly,listen=unix:{socket},listen=tcp:127.0.0.1:0");
    let mut daemon = Daemon::start(&["--share", &share]);
    daemon.wait_for("share home: 9P on unix:");
    let line = daemon.wait_for("share home: 9P on tcp:");
    daemon.wait_for("no authentication");
    let mut near = UnixStream::connect(&socket).unwrap();
    let mut far = TcpStream::connect(line.rsplit("tcp:").next().unwrap().trim()).unwrap();
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
    assert!(!Path::new(&socket).exists(), "a socket was left");
    assert!(matches!(near.read(&mut [0; 1]), Ok(0) | Err(_)) && matches!(far.read(&mut [0; 1]), Ok(0) | Err(_)));
}

#[test]
fn viot_writes_the_table_and_attach_the_line_that_uses_it() {
    let folder = tempfile::tempdir().unwrap();
    let viot = path(folder.path(), "viot.bin");
    let output = calgaryd(&["viot", "--iommu-at", "00:05.0", "--endpoint", "00:06.0", "--output", &viot]);
    assert!(output.status.success());
    let table = std::fs::read(&viot).unwrap();
    assert_eq!((table.len(), &table[..4]), (88, &b"VIOT"[..]));
    assert_eq!(table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum");

    let share = "tag=home,path=/,socket=/run/s.sock,endpoint=00:06.0";
    let output = calgaryd(&["attach", "qemu", "--iommu", "/run/i.sock", "--share", share, "--viot", &viot]);
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in ["share=on", "virtio-id=23", "virtio-id=9", "addr=06.0,iommu_platform=on", &viot, "path=/run/s.sock"] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
    // A window beyond the guest's RAM would make QEMU abort.
    let text =
        complaint(&["attach", "qemu", "--iommu", "/run/i.sock", "--share", share, "--window", "1G", "--memory", "512"]);
    assert!(text.contains("1G"), "{text}");
}

#[test]
fn other_vmms_get_what_they_can_have_and_a_reason_for_the_rest() {
    let share = |rest: &str| format!("tag=home,path=/,socket=/run/s.sock{rest}");
    let (plain, vfio) = (share(""), share(",transport=vfio-user"));
    let said = |args: &[&str]| {
        let output = calgaryd(&[&["attach"], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let line = said(&["crosvm", "--share", &plain, "--kernel", "/boot/my kernel"]);
    assert!(line.starts_with("crosvm run") && line.trim_end().ends_with("'/boot/my kernel'"), "{line}");
    assert!(line.contains("type=9p,socket=/run/s.sock,max-queue-size=128"), "{line}");
    let line = said(&["cloud-hypervisor", "--share", &vfio]);
    assert!(line.contains("shared=on") && line.contains("--user-device socket=/run/s.sock"), "{line}");
    let domain = said(&["libvirt", "--share", &plain]);
    assert!(domain.starts_with("<domain") && domain.contains("path=/run/s.sock"), "{domain}");

    let behind = share(",endpoint=00:06.0");
    for (args, hint) in [
        (["crosvm", "--share", &vfio], "transport=vhost-user"),
        (["cloud-hypervisor", "--share", &plain], "transport=vfio-user"),
    ] {
        let text = complaint(&[&["attach"], &args[..]].concat());
        assert!(text.contains(hint), "{text}");
    }
    for vmm in ["crosvm", "cloud-hypervisor"] {
        let text = complaint(&["attach", vmm, "--iommu", "/run/i.sock", "--share", &behind]);
        assert!(text.contains("iommu=off"), "{text}");
    }
    assert!(complaint(&["attach", "qemu", "--share", "tag=a,path=/,socket=fd:3"]).contains("path"));
}

#[test]
fn tce_explains_images_and_entries() {
    let folder = tempfile::tempdir().unwrap();
    let mut image = vec![0; 64 << 10];
    image[16..24].copy_from_slice(&0x1234_5003_u64.to_be_bytes());
    image[24..32].copy_from_slice(&0x1234_6003_u64.to_be_bytes());
    let file = path(folder.path(), "table");
    std::fs::write(&file, &image).unwrap();
    let output = calgaryd(&["tce", "dump", &file]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(text.contains("0x00002000..=0x00003fff  ->  0x000012345000  RW"), "{text}");

    let text = String::from_utf8(calgaryd(&["tce", "decode", "0000000012345003"]).stdout).unwrap();
    assert!(text.contains("0x000012345000") || text.contains("0x12345"), "{text}");
    std::fs::write(&file, b"short").unwrap();
    assert_eq!(calgaryd(&["tce", "dump", &file]).status.code(), Some(1));
    assert!(complaint(&["tce", "decode", "no"]).contains("hexadecimal"));
    assert!(complaint(&["tce", "dump"]).contains("--pid"));
}

#[test]
fn help_is_complete_and_goes_to_standard_output() {
    for args in
        [&["--help"][..], &["serve", "--help"], &["viot", "--help"], &["attach", "qemu", "--help"], &["demo", "--help"]]
    {
        let output = calgaryd(args);
        assert!(output.status.success());
        assert!(output.stderr.is_empty());
        assert!(String::from_utf8(output.stdout).unwrap().len() > 200, "{args:?}");
    }
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let generate = ["generate", "completions", "bash"];
    for args in [&["--help"][..], &["serve", "--help"], &generate, &["--print-capabilities"], &["tce", "decode", "3"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_calgaryd")).args(args).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]), "{args:?}");
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_calgaryd")).args(generate).stdout(full).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("standard output") && said.lines().count() == 1, "{said}");
}

#[test]
fn the_demo_without_a_vm_verifies_and_says_so_in_json() {
    let output = calgaryd(&["demo", "--no-vm", "--json", "--size", "8"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["guest"], "user-space");
    assert_eq!(report["verified"], true);
    assert_eq!(report["bytes_read"], 16 << 20);
    assert_eq!(report["bytes_written"], 16 << 20);
    assert_eq!(report["faults"], 0);
    assert!(report["maps"].as_u64().unwrap() > 4096);
    assert_eq!(
        report["maps"].as_u64().unwrap() - report["unmaps"].as_u64().unwrap(),
        report["live_mappings"].as_u64().unwrap()
    );
    for figure in ["mbps_iommu", "mbps_direct", "price_of_safety"] {
        assert!(report[figure].as_f64().unwrap() > 0.0, "{figure}");
    }
}
