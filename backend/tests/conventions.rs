//! What management tools, service managers and packages expect of a vhost-user backend program.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calgaryd");
/// A bound, not an expectation.
const PATIENCE: Duration = Duration::from_secs(60);

fn calgaryd(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).stdin(Stdio::null()).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A daemon that tells this test when it is ready.
struct Served {
    child: Child,
    manager: UnixDatagram,
}

impl Served {
    /// Starts `command` with a notification socket in `folder`, and waits until it is ready.
    fn start(mut command: Command, folder: &Path) -> Self {
        let path = folder.join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = command.env("NOTIFY_SOCKET", &path).spawn().unwrap();
        let served = Self { child, manager };
        assert_eq!(served.next_state(), "READY=1");
        served
    }

    fn next_state(&self) -> String {
        let mut bytes = [0; 256];
        let count = self.manager.recv(&mut bytes).expect("the daemon said nothing to its service manager");
        String::from_utf8_lossy(&bytes[..count]).trim().to_owned()
    }

    fn end(mut self) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: `kill` takes no pointers; the child is ours and not yet reaped.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        assert_eq!(self.next_state(), "STOPPING=1");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Served {
    /// One that outlived a test that failed would hold the test's output open.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A GET_FEATURES is answered on `socket`: request 1, version 1, no payload.
fn answers(socket: &Path) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let header: Vec<u8> = [1_u32, 1, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    std::io::Write::write_all(&mut stream, &header).unwrap();
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..4], 1_u32.to_le_bytes());
}

/// The program with `args`, started with `listener` as descriptor 3; with `name` as systemd does it.
fn with_socket(listener: &UnixListener, name: Option<&str>, args: &[&str]) -> Command {
    let variables = name.map_or_else(String::new, |name| format!("LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES={name}"));
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{variables} exec \"$0\" \"$@\" 3<&0 </dev/null"), PROGRAM]).args(args);
    command.stdin(OwnedFd::from(listener.try_clone().unwrap()));
    command
}

#[test]
fn capabilities_are_printed_whatever_else_is_asked() {
    for args in
        [&["--print-capabilities"][..], &["--nonsense", "--print-capabilities"], &["serve", "--print-capabilities"]]
    {
        let answer = json(&calgaryd(args));
        assert_eq!((&answer["type"], &answer["features"]), (&Value::from("9p"), &Value::Array(Vec::new())));
    }
}

#[test]
fn the_description_names_type_and_binary() {
    let answer = json(&calgaryd(&["generate", "description", "--binary", "/opt/bin/calgaryd"]));
    assert_eq!((&answer["type"], &answer["binary"]), (&Value::from("9p"), &Value::from("/opt/bin/calgaryd")));
    assert!(answer["description"].is_string());
    assert_eq!(calgaryd(&["generate", "description", "--binary", "calgaryd"]).status.code(), Some(2));
}

#[test]
fn one_folder_is_served_on_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let mut command = Command::new(PROGRAM);
    command.arg(format!("--socket-path={}", socket.display())).arg(format!("--shared-dir={}", folder.path().display()));
    let served = Served::start(command, folder.path());
    answers(&socket);
    served.end();
    assert!(!socket.exists());
}

#[test]
fn one_folder_is_served_on_an_inherited_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let shared = format!("--shared-dir={}", folder.path().display());
    let served = Served::start(with_socket(&listener, None, &["--fd=3", &shared]), folder.path());
    answers(&socket);
    // The next VMM is served on the same socket.
    answers(&socket);
    served.end();
    assert!(socket.exists(), "the socket belongs to whoever made it");
}

#[test]
fn systemd_passes_sockets_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let share = format!("tag=home,path={},socket=systemd:home", folder.path().display());
    let with_name = |name: &str| with_socket(&listener, Some(name), &["serve", "--share", &share]);
    let served = Served::start(with_name("home"), folder.path());
    answers(&socket);
    served.end();
    let output = with_name("other").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains("FileDescriptorName=home") && text.contains("other"), "{text}");
}

#[test]
fn options_of_one_folder_and_a_command_do_not_mix() {
    for args in [
        &["--fd=3", "--socket-path=/s", "--shared-dir=/"][..],
        &["--socket-path=/s"],
        &["--shared-dir=/"],
        &["--shared-dir=/", "--socket-path=/s", "serve"],
    ] {
        let output = calgaryd(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{args:?}: {text}");
    }
}

#[test]
fn manual_pages_and_completions_come_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let output = calgaryd(&["generate", "man", folder.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(page("calgaryd.1").contains("Exit status"));
    assert!(page("calgaryd-serve.1").contains("boot\\-bypass"));
    for command in ["viot", "attach", "demo", "tce", "generate"] {
        assert!(page(&format!("calgaryd-{command}.1")).starts_with(".ie"), "{command}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = String::from_utf8(calgaryd(&["generate", "completions", shell]).stdout).unwrap();
        assert!(script.contains("boot-bypass"), "{shell}");
    }
}

#[test]
fn a_configuration_file_equals_the_options() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calgaryd.toml");
    let text = "iommu = \"/run/i.sock\"\nwindow = \"512M\"\n[[share]]\ntag = \"home\"\npath = \"/\"\n\
                socket = \"/run/s.sock\"\nendpoint = \"00:06.0\"\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let said = |args: &[&str]| {
        let output = calgaryd(&[&["attach", "qemu"], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let share = "tag=home,path=/,socket=/run/s.sock,endpoint=00:06.0";
    let by_options = said(&["--iommu", "/run/i.sock", "--window", "512M", "--share", share]);
    assert_eq!(said(&["--config", file]), by_options);
    // The window of the file would not fit; the command line's counts.
    assert_eq!(calgaryd(&["attach", "qemu", "--config", file, "--memory", "256"]).status.code(), Some(2));
    assert!(said(&["--config", file, "--memory", "256", "--window=64M"]).contains("size=256M"));
    // What the file says of an IOMMU is enough for options about it.
    let transport = said(&["--config", file, "--iommu-transport", "vfio-user"]);
    assert!(transport.contains("vfio-user-pci"), "{transport}");

    let shown = String::from_utf8(calgaryd(&["serve", "--config", "/nowhere.toml"]).stderr).unwrap();
    assert!(shown.contains("cannot read the configuration /nowhere.toml") && shown.lines().count() == 1, "{shown}");
}

#[test]
fn the_service_unit_starts_what_the_program_understands() {
    let unit = include_str!("../../packaging/calgaryd@.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/calgaryd ")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("guest.toml");
    std::fs::write(&file, "[[share]]\ntag = \"home\"\npath = \"/\"\nsocket = \"systemd:home\"\n").unwrap();
    let args = line.replace("/etc/calgaryd/%i.toml", file.to_str().unwrap());
    let args: Vec<&str> = args.split(' ').collect();
    let socket = include_str!("../../packaging/calgaryd-example-home.socket");
    let name = socket.lines().find_map(|line| line.strip_prefix("FileDescriptorName=")).unwrap();
    let listener = UnixListener::bind(folder.path().join("s")).unwrap();
    // Type=notify waits for READY=1, and a clean stop is status 0.
    assert!(unit.contains("Type=notify"));
    Served::start(with_socket(&listener, Some(name), &args), folder.path()).end();
}
