//! A running virtual machine.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use frontend_spec::attach::{QemuAttachment, QemuMachine};
use serde_json::Value;
use tempfile::TempDir;

use super::bundle::Bundle;
use super::config::{MachineBuilder, MachineFiles};
use super::console::{Console, Next};
use super::failure::{Evidence, MachineError, Output};
use super::process::Process;
use super::qmp::{Qmp, QmpFailure};
use super::scenario::{PREFIX, Record, Report};

/// The longest line that a Linux terminal takes in (N_TTY_BUF_SIZE), less room for the command's number.
const LONGEST_COMMAND: usize = 4000;

/// How often a socket that QEMU has not made yet is tried.
const RETRY: Duration = Duration::from_millis(20);

/// A running virtual machine. Dropping it kills QEMU.
///
/// Lines of the console are read once, in order, by whichever method waits for them, so the methods that wait are for
/// one thread at a time.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    console: Arc<Console>,
    stdin: Mutex<ChildStdin>,
    qmp: Mutex<Qmp>,
    commands: Mutex<u64>,
    patience: Duration,
    folder: TempDir,
}

fn io_error(doing: &'static str) -> impl FnOnce(io::Error) -> MachineError {
    move |source| MachineError::Io { doing, source }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held can lose an answer, which the next wait then reports as a timeout.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    /// A machine of `bundle`'s parts.
    pub fn builder(bundle: &Bundle) -> MachineBuilder {
        MachineBuilder::new(bundle)
    }

    pub(super) fn start(builder: MachineBuilder) -> Result<Self, MachineError> {
        builder.check()?;
        let folder = tempfile::Builder::new().prefix("calgary-vm-").tempdir();
        let folder = folder.map_err(io_error("create the machine's folder"))?;
        let path = |name: &str| folder.path().join(name);
        let mut files = MachineFiles { initramfs: path("initramfs"), qmp: path("qmp.sock"), topology: None };
        builder.initramfs()?.write(&files.initramfs).map_err(io_error("write the initramfs"))?;
        let configuration = |cause: &dyn std::fmt::Display| MachineError::Configuration(cause.to_string());
        if let Some(attachment) = &builder.attachment {
            let tree = path("tree");
            if builder.machine().is_aarch64() {
                let dumped = builder.bundle.qemu.command().args(builder.dump_tree_args(&tree)).output();
                dumped.map_err(io_error("have QEMU write its device tree"))?;
            }
            let content = topology(attachment, builder.cpu_count(), &tree).map_err(|cause| configuration(&cause))?;
            if let Some(content) = content {
                let path = path("topology");
                fs::write(&path, content).map_err(io_error("write the topology"))?;
                files.topology = Some(path);
            }
        }

        let stderr = File::create(path("stderr")).map_err(io_error("create QEMU's error log"))?;
        let mut command = builder.bundle.qemu.command();
        command.args(builder.command_line(&files).map_err(|cause| configuration(&cause))?).stderr(stderr);
        log::debug!("{command:?}");
        let console = Arc::new(Console::default());
        let (process, stdin) = Process::spawn(command, Arc::clone(&console)).map_err(io_error("start QEMU"))?;
        let patience = builder.patience;
        let qmp = match connect(&files.qmp, &console, patience) {
            Ok(qmp) => qmp,
            Err(failure) => {
                let gone = matches!(&failure, QmpFailure::Io(error) if error.kind() != io::ErrorKind::TimedOut);
                // Told by the connection before the status is there.
                let exit = if gone { console.wait_exit(Instant::now() + patience) } else { None };
                let qemu = fs::read_to_string(path("stderr")).unwrap_or_default();
                let evidence = Box::new(Evidence { exit, qemu, console: console.text() });
                let what = "QEMU's first answer on QMP".to_owned();
                return Err(match failure {
                    QmpFailure::Io(_) if gone => MachineError::Exited { what, evidence },
                    QmpFailure::Io(_) => MachineError::Timeout { what, patience, evidence },
                    QmpFailure::Refused(problem) => {
                        MachineError::Qmp { command: "qmp_capabilities".to_owned(), problem, evidence }
                    }
                });
            }
        };
        let (stdin, qmp, commands) = (Mutex::new(stdin), Mutex::new(qmp), Mutex::new(0));
        Ok(Self { process, console, stdin, qmp, commands, patience, folder })
    }

    /// QEMU's process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid().as_raw_nonzero().get()
    }

    /// All that the guest has written to its console.
    #[must_use]
    pub fn console(&self) -> String {
        self.console.text()
    }

    /// What is known about the machine now; for the caller's own error messages.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        let qemu = fs::read(self.folder.path().join("stderr")).unwrap_or_default();
        Evidence {
            exit: self.console.exit(),
            qemu: String::from_utf8_lossy(&qemu).into_owned(),
            console: self.console.text(),
        }
    }

    fn timeout(&self, what: String, patience: Duration) -> MachineError {
        MachineError::Timeout { what, patience, evidence: Box::new(self.evidence()) }
    }

    /// Reads lines until `found` gives a result.
    fn read_until<T>(
        &self,
        what: &str,
        patience: Duration,
        mut found: impl FnMut(String) -> Option<T>,
    ) -> Result<T, MachineError> {
        let deadline = Instant::now() + patience;
        loop {
            match self.console.next_line(deadline) {
                Next::Line(line) => {
                    if let Some(result) = found(line) {
                        return Ok(result);
                    }
                }
                Next::Exited(_) => {
                    return Err(MachineError::Exited { what: what.to_owned(), evidence: Box::new(self.evidence()) });
                }
                Next::Timeout => return Err(self.timeout(what.to_owned(), patience)),
            }
        }
    }

    /// Reads lines until one contains `pattern`, and returns it.
    ///
    /// # Errors
    /// [`MachineError::Timeout`] after `patience`, [`MachineError::Exited`].
    pub fn wait_for(&self, pattern: &str, patience: Duration) -> Result<String, MachineError> {
        self.read_until(&format!("a line with {pattern:?}"), patience, |line| line.contains(pattern).then_some(line))
    }

    /// Waits until the guest takes commands.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn wait_ready(&self) -> Result<(), MachineError> {
        let ready = format!("{PREFIX}ready");
        self.read_until("the guest to take commands", self.patience, |line| (line == ready).then_some(()))
    }

    /// Reads the scenario's records until it is done and hands each to `watch` as it comes. The machine's patience
    /// bounds the wait for each record, not for the whole.
    ///
    /// # Errors
    /// [`MachineError::Timeout`], [`MachineError::Exited`]. A scenario that fails is a report with a status.
    pub fn follow(&self, watch: &mut dyn FnMut(&Record)) -> Result<Report, MachineError> {
        let mut records = Vec::new();
        loop {
            let record = self.read_until("the scenario's next record", self.patience, |line| Record::parse(&line))?;
            if record.key == "done" {
                return Ok(Report { records, status: record.value.parse().unwrap_or(-1) });
            }
            watch(&record);
            records.push(record);
        }
    }

    /// The scenario's records once it is done; see [`Self::follow`].
    ///
    /// # Errors
    /// As [`Self::follow`].
    pub fn report(&self) -> Result<Report, MachineError> {
        self.follow(&mut |_| {})
    }

    /// Types a line on the guest's console.
    ///
    /// # Errors
    /// [`MachineError::Io`] if QEMU has exited.
    pub fn send_line(&self, line: &str) -> Result<(), MachineError> {
        lock(&self.stdin).write_all(format!("{line}\n").as_bytes()).map_err(io_error("write to the guest's console"))
    }

    /// Runs one line of shell in the guest, which must be [ready](Self::wait_ready). Variables, the working folder and
    /// open descriptors last from one command to the next; `exit` starts a new shell.
    ///
    /// # Errors
    /// [`MachineError::Timeout`], [`MachineError::Exited`], [`MachineError::Configuration`] for a command that is not
    /// one line of at most 4,000 bytes. A command that fails is an [`Output`].
    pub fn run(&self, command: &str) -> Result<Output, MachineError> {
        self.run_within(command, self.patience)
    }

    /// [`Self::run`] with another bound than the machine's.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_within(&self, command: &str, patience: Duration) -> Result<Output, MachineError> {
        if command.len() > LONGEST_COMMAND || command.contains(['\n', '\r', '\0']) {
            return Err(MachineError::Configuration(format!("{command:?} is not one line of {LONGEST_COMMAND} bytes")));
        }
        let mut number = lock(&self.commands);
        *number += 1;
        self.send_line(&format!("{number} {command}"))?;
        let start = format!("{PREFIX}run {number}");
        let end = format!("{PREFIX}ret {number} ");
        let what = format!("the end of the guest's command {command:?}");
        let mut text: Option<String> = None;
        self.read_until(&what, patience, |line| {
            match &mut text {
                // Lines before belong to an earlier command that nobody waited for any more.
                None if line == start => text = Some(String::new()),
                None => {}
                Some(text) => {
                    if let Some(status) = line.strip_prefix(&end) {
                        // The guest ends the output with an empty line, because a last line may lack its end.
                        let text = text.strip_suffix('\n').unwrap_or(text);
                        let text = text.strip_suffix('\n').unwrap_or(text).to_owned();
                        return Some(Output { status: status.trim().parse().unwrap_or(-1), text });
                    }
                    text.push_str(&line);
                    text.push('\n');
                }
            }
            None
        })
    }

    /// Runs a command that must succeed, and returns what it printed.
    ///
    /// # Errors
    /// As [`Self::run`], and [`MachineError::Command`] if its status is not 0.
    pub fn check(&self, command: &str) -> Result<String, MachineError> {
        let output = self.run(command)?;
        if output.status == 0 {
            return Ok(output.text);
        }
        Err(MachineError::Command { command: command.to_owned(), output, evidence: Box::new(self.evidence()) })
    }

    /// The kernel's messages.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn dmesg(&self) -> Result<String, MachineError> {
        self.check("dmesg")
    }

    /// The kernel's messages about DMA that the virtio-iommu device refused.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn iommu_faults(&self) -> Result<Vec<String>, MachineError> {
        Ok(self.check(". /guest/lib.sh; faults")?.lines().map(str::to_owned).collect())
    }

    /// Executes a QMP command; `arguments` is an object or null.
    ///
    /// # Errors
    /// [`MachineError::Qmp`].
    pub fn qmp(&self, command: &str, arguments: &Value) -> Result<Value, MachineError> {
        lock(&self.qmp).execute(command, arguments).map_err(|failure| MachineError::Qmp {
            command: command.to_owned(),
            problem: match failure {
                QmpFailure::Io(error) => error.to_string(),
                QmpFailure::Refused(problem) => problem,
            },
            evidence: Box::new(self.evidence()),
        })
    }

    /// Pauses the guest.
    ///
    /// # Errors
    /// [`MachineError::Qmp`].
    pub fn stop(&self) -> Result<(), MachineError> {
        self.qmp("stop", &Value::Null).map(drop)
    }

    /// Lets a paused guest go on.
    ///
    /// # Errors
    /// [`MachineError::Qmp`].
    pub fn cont(&self) -> Result<(), MachineError> {
        self.qmp("cont", &Value::Null).map(drop)
    }

    /// Presses the reset button. Without [`MachineBuilder::allow_reboot`] QEMU exits.
    ///
    /// # Errors
    /// [`MachineError::Qmp`].
    pub fn reset(&self) -> Result<(), MachineError> {
        self.qmp("system_reset", &Value::Null).map(drop)
    }

    /// The state that QEMU's `query-status` names: `running`, `paused`, ...
    ///
    /// # Errors
    /// [`MachineError::Qmp`].
    pub fn status(&self) -> Result<String, MachineError> {
        let status = self.qmp("query-status", &Value::Null)?;
        Ok(status["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Ends QEMU in good order and waits for it.
    ///
    /// # Errors
    /// [`MachineError::Qmp`], [`MachineError::Timeout`].
    pub fn quit(self) -> Result<ExitStatus, MachineError> {
        self.qmp("quit", &Value::Null)?;
        self.wait_exit(self.patience)
    }

    /// Waits until QEMU has exited, as it does when the guest powers off.
    ///
    /// # Errors
    /// [`MachineError::Timeout`].
    pub fn wait_exit(&self, patience: Duration) -> Result<ExitStatus, MachineError> {
        let deadline = Instant::now() + patience;
        self.console.wait_exit(deadline).ok_or_else(|| self.timeout("QEMU to exit".to_owned(), patience))
    }

    /// Kills QEMU, as a crash of the host's would.
    pub fn kill(&self) {
        self.process.kill();
    }
}

/// What tells the guest of `attachment` which devices are behind its IOMMU; `tree` is the machine's own device tree, if it
/// has one.
fn topology(attachment: &QemuAttachment, cpus: u8, tree: &Path) -> Result<Option<Vec<u8>>, String> {
    let attachment = QemuAttachment { cpus, ..attachment.clone() };
    let Some(topology) = attachment.topology() else { return Ok(None) };
    let content = match (attachment.machine, attachment.microvm_tables(), attachment.viot()) {
        (QemuMachine::Microvm, Some(tables), _) => tables.encode().map_err(|cause| cause.to_string()),
        (QemuMachine::Q35, _, Some(viot)) => viot.encode().map_err(|cause| cause.to_string()),
        _ => {
            let tree = fs::read(tree).map_err(|cause| format!("QEMU wrote no device tree: {cause}"))?;
            topology.edit(&tree).map_err(|cause| cause.to_string())
        }
    };
    content.map(Some)
}

/// Connects to the socket that QEMU is about to make.
fn connect(path: &PathBuf, console: &Console, patience: Duration) -> Result<Qmp, QmpFailure> {
    let deadline = Instant::now() + patience;
    let stream = loop {
        match UnixStream::connect(path) {
            Ok(stream) => break stream,
            Err(error) if console.exit().is_some() => return Err(error.into()),
            Err(_) if Instant::now() > deadline => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            Err(_) => std::thread::sleep(RETRY),
        }
    };
    Qmp::negotiate(stream, patience).map_err(|failure| match failure {
        // What a socket's read timeout is called.
        QmpFailure::Io(error) if error.kind() == io::ErrorKind::WouldBlock => {
            io::Error::from(io::ErrorKind::TimedOut).into()
        }
        other => other,
    })
}
