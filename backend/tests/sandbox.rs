//! Confinement is real, and a confined daemon serves as another one does.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;

use calgary_tests::guest::{GuestOptions, ROOT_FID, Session, ShareOptions};
use calgaryd::config::{ServeConfig, parse_share};
use calgaryd::sandbox::{self, Confinement, SandboxError, Syscalls};
use frontend_spec::TransportKind;

const FOLDER: &str = "CALGARYD_SANDBOX_TEST";

/// Runs one of the tests that need a process of their own.
fn alone(name: &str, folder: &Path) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .status()
        .unwrap()
}

/// `share` is shared, `run` is for sockets, `secret` is neither.
fn scene() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for folder in ["share", "run"] {
        std::fs::create_dir(root.path().join(folder)).unwrap();
    }
    std::fs::write(root.path().join("share/inside"), "shown").unwrap();
    std::fs::write(root.path().join("secret"), "hidden").unwrap();
    root
}

fn here() -> PathBuf {
    std::env::var_os(FOLDER).expect("run by another test").into()
}

/// The same from within, after [`sandbox::enter`]; false where the system has no such sandbox.
fn entered(confinement: Confinement) -> bool {
    let root = here();
    let share = format!("tag=a,path={0}/share,socket={0}/run/s", root.display());
    let config = ServeConfig { iommu: None, shares: vec![parse_share(&share).unwrap()], ..ServeConfig::default() };
    match sandbox::enter(config, confinement) {
        Ok(_) => true,
        Err(cause @ (SandboxError::Namespace { .. } | SandboxError::Landlock(_))) => {
            eprintln!("skipped: {cause}");
            false
        }
        Err(cause) => panic!("{cause}"),
    }
}

/// What a process that was taken over would try.
fn look_around() {
    let root = here();
    assert_eq!(std::fs::read_to_string(root.join("share/inside")).unwrap(), "shown");
    std::fs::write(root.join("share/new"), "made").unwrap();
    std::fs::rename(root.join("share/new"), root.join("share/moved")).unwrap();
    drop(UnixListener::bind(root.join("run/s")).unwrap());
    std::fs::remove_file(root.join("run/s")).unwrap();
    let refused = |path: &Path| match File::open(path) {
        Err(cause) => matches!(cause.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound),
        Ok(_) => false,
    };
    for outside in
        [root.join("secret"), root.join("share/../secret"), "/etc/passwd".into(), "/proc/1/root/etc/passwd".into()]
    {
        assert!(refused(&outside), "{} was opened", outside.display());
    }
    assert!(File::create(root.join("created")).is_err());
    std::os::unix::fs::symlink("/etc/passwd", root.join("share/link")).unwrap();
    assert!(refused(&root.join("share/link")));
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(status.lines().any(|line| line.split_whitespace().eq(["NoNewPrivs:", "1"])), "{status}");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    let effective = u64::from_str_radix(effective, 16).unwrap();
    for (name, number) in [("SYS_ADMIN", 21), ("SYS_PTRACE", 19), ("NET_ADMIN", 12), ("SETUID", 7), ("SYS_CHROOT", 18)]
    {
        assert_eq!(effective >> number & 1, 0, "CAP_{name} is left");
    }
}

#[test]
#[ignore = "confines its process"]
fn in_landlock() {
    if entered(Confinement::Landlock) {
        look_around();
        assert_eq!(TcpListener::bind("127.0.0.1:0").unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
}

#[test]
#[ignore = "confines its process"]
fn in_a_namespace() {
    // Namespaces take a process with one thread, or root.
    if entered(Confinement::Namespace) {
        look_around();
        assert_eq!(std::fs::metadata("/etc").unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[test]
#[ignore = "kills its process"]
fn killed() {
    // The filter covers threads that were there before.
    let (go, wait) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        wait.recv().unwrap();
        TcpListener::bind("127.0.0.1:0")
    });
    sandbox::seal(Syscalls::Kill).unwrap();
    go.send(()).unwrap();
    let _ = thread.join();
}

#[test]
#[ignore = "confines its process"]
fn denied() {
    sandbox::seal(Syscalls::Deny).unwrap();
    assert_eq!(TcpListener::bind("127.0.0.1:0").unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(Command::new("/bin/true").status().unwrap_err().kind(), ErrorKind::PermissionDenied);
    // What is served still is.
    assert_eq!(std::fs::read_to_string(here().join("share/inside")).unwrap(), "shown");
    std::thread::spawn(|| {}).join().unwrap();
}

#[test]
fn a_confined_process_reaches_the_share_and_nothing_else() {
    for name in ["in_landlock", "in_a_namespace", "denied"] {
        let root = scene();
        assert!(alone(name, root.path()).success(), "{name}");
        assert!(!root.path().join("created").exists());
    }
}

#[test]
fn an_unforeseen_system_call_kills_the_process_in_any_thread() {
    let root = scene();
    assert_eq!(alone("killed", root.path()).signal(), Some(libc::SIGSYS));
}

/// A daemon whose log is read up to the line that says it serves.
struct Served {
    child: Child,
    /// Held, or the daemon could not write to its log.
    log: BufReader<std::process::ChildStderr>,
}

impl Served {
    /// `None` where the system has no such sandbox.
    fn start(root: &Path, confinement: &str, transport: TransportKind) -> Option<Self> {
        let at = |name: &str| root.join("run").join(name).display().to_string();
        let (folder, socket) = (root.join("share"), at("share"));
        let share =
            format!("tag=home,path={},socket={socket},endpoint=00:06.0,listen=unix:{}", folder.display(), at("9p"));
        let state = format!("tag=calgary,state,socket={},endpoint=00:07.0", at("state"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_calgaryd"))
            .args(["serve", "--iommu", &at("iommu"), "--window", "64M", "--share", &share, "--share", &state])
            .args(["--sandbox", confinement, "--seccomp", "kill", "--transport", &transport.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("system calls outside the list") {
            if log.read_line(&mut said).unwrap() == 0 {
                let status = child.wait().unwrap();
                assert!(status.code() == Some(2) && said.contains("sandbox="), "{status}: {said}");
                eprintln!("skipped: {said}");
                return None;
            }
        }
        Some(Self { child, log })
    }

    fn stop(mut self) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: `kill` takes no pointers; the child is ours and not yet reaped.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.log, &mut rest).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{rest}");
    }
}

impl Drop for Served {
    /// One that outlived a test that failed would hold the test's output open.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One operation of each kind, behind the IOMMU.
fn work(guest: &mut Session) {
    let client = &mut guest.shares[0].client;
    let none = u32::MAX;
    for fid in 1..=2 {
        client.walk(ROOT_FID, fid, &[]).unwrap();
    }
    client.lcreate(1, b"file", 2, 0o644, none).unwrap();
    let data: Vec<u8> = (0..300_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    client.write(1, 0, &data).unwrap();
    client.fsync(1, false).unwrap();
    assert!(client.read(1, 0, 300_000).unwrap() == data);
    client.mkdir(ROOT_FID, b"folder", 0o755, none).unwrap();
    client.symlink(ROOT_FID, b"link", b"file", none).unwrap();
    client.walk(ROOT_FID, 3, &[b"link"]).unwrap();
    assert_eq!(client.readlink(3).unwrap(), b"file");
    client.walk(ROOT_FID, 4, &[b"folder"]).unwrap();
    client.link(4, 1, b"other").unwrap();
    client.renameat(4, b"other", ROOT_FID, b"moved").unwrap();
    client.mknod(4, b"fifo", libc::S_IFIFO | 0o600, (0, 0), none).unwrap();
    client.statfs(ROOT_FID).unwrap();
    client.getattr(1, 0x7ff).unwrap();
    client.lopen(2, 0).unwrap();
    assert!(client.readdir_all(2).unwrap().len() >= 5);
    client.xattrwalk(1, 9, b"").unwrap();
    client.unlinkat(4, b"fifo", 0).unwrap();
    client.unlinkat(ROOT_FID, b"folder", 0x200).unwrap();
    // A file that is unlinked and written on.
    client.unlinkat(ROOT_FID, b"moved", 0).unwrap();
    client.write(1, 300_000, &data).unwrap();
    client.clunk(1).unwrap();
    let state = &mut guest.shares[1].client;
    state.walk(ROOT_FID, 1, &[b"iommu", b"stats"]).unwrap();
    state.lopen(1, 0).unwrap();
    assert!(state.read(1, 0, 4096).unwrap().starts_with(b"attaches "));
}

#[test]
fn a_confined_daemon_serves_a_guest() {
    let (vhost, vfio) = (TransportKind::VhostUser, TransportKind::VfioUser);
    for (confinement, transport) in [("landlock", vhost), ("namespace", vhost), ("auto", vfio), ("none", vhost)] {
        let root = scene();
        let Some(served) = Served::start(root.path(), confinement, transport) else { continue };
        let at = |name: &str| root.path().join("run").join(name);
        let share = |name: &str, endpoint| ShareOptions { socket: at(name), endpoint, translated: true };
        let options = GuestOptions {
            memory_mib: 64,
            iommu_socket: Some(at("iommu")),
            iommu_transport: transport,
            transport,
            shares: vec![share("share", 6 << 3), share("state", 7 << 3)],
            ..GuestOptions::default()
        };
        let mut guest = Session::boot(options).unwrap();
        work(&mut guest);
        drop(guest);
        served.stop();
        assert_eq!(std::fs::read_dir(root.path().join("run")).unwrap().count(), 0, "{confinement}: a socket was left");
    }
}
