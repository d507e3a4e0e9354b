//! A server process.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::failure::Failure;
use crate::measure::{Cores, CpuClock};

/// How long a server may take until its socket is there.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How often its socket is looked for.
const LOOK: Duration = Duration::from_millis(5);
/// The pause between two looks at a clock that should stand still.
const SETTLE: Duration = Duration::from_millis(1);
/// Looks at most; a server that polls all the time never stands still.
const SETTLE_LIMIT: usize = 20;
/// Bytes of a log that an error shows.
const SHOWN: usize = 2000;

/// A server process, killed when dropped. If this process dies first, the kernel kills it.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
    clock: CpuClock,
}

impl Server {
    /// Starts `command` on the server's processor, with its output in a log in `folder`. To be called by the main
    /// thread: the kernel takes the end of the thread that started a process for the end of its parent.
    pub(crate) fn start(
        name: &'static str,
        mut command: Command,
        cores: Cores,
        folder: &Path,
    ) -> Result<Self, Failure> {
        let log = folder.join(format!("{}.log", name.replace(' ', "-")));
        let output = File::create(&log).map_err(|cause| Failure::system("create a log", cause))?;
        let errors = output.try_clone().map_err(|cause| Failure::system("create a log", cause))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let parent = rustix::process::getpid();
        let die_with_parent = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the request was made.
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) }
        };
        // SAFETY: between fork and exec the closure makes two system calls and builds errors that hold no heap memory,
        // so it is safe whatever locks other threads held at the fork.
        unsafe { command.pre_exec(die_with_parent) };
        // A process inherits the processor of the thread that starts it.
        cores.enter_server()?;
        let child = command.spawn();
        cores.enter_client()?;
        let child =
            child.map_err(|cause| Failure::Start { peer: name, cause: cause.to_string(), said: String::new() })?;
        let clock = CpuClock::of_process(child.id())?;
        Ok(Self { name, child, log, clock })
    }

    /// What it is called in reports.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Processor time it has used. The kernel brings the clock of another process up to date when its threads go to
    /// sleep or at a timer tick, so this waits until the clock stands still, or for as long as several ticks.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let mut last = self.clock.read()?;
        for _ in 0..SETTLE_LIMIT {
            std::thread::sleep(SETTLE);
            let now = self.clock.read()?;
            if now == last {
                break;
            }
            last = now;
        }
        Ok(last)
    }

    /// Waits until `socket` exists.
    pub(crate) fn wait_for(&mut self, socket: &Path) -> Result<(), Failure> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if socket.exists() {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.did_not_start(format!("it ended with {status}")));
            }
            if Instant::now() >= deadline {
                return Err(self.did_not_start(format!("no socket after {START_LIMIT:?}")));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// An error with the end of its log.
    pub(crate) fn did_not_start(&self, cause: String) -> Failure {
        let said = std::fs::read(&self.log).unwrap_or_default();
        let said = &said[said.len().saturating_sub(SHOWN)..];
        Failure::Start { peer: self.name, cause, said: String::from_utf8_lossy(said).into_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
