//! A child that cannot outlive its parent.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::console::Console;

/// A running child whose standard output fills a [`Console`]. Dropping it kills the child and waits for its end; if
/// this process dies in any other way, the kernel kills the child.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    keeper: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command` with pipes for its input and output.
    pub(super) fn spawn(mut command: Command, console: Arc<Console>) -> io::Result<(Self, ChildStdin)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // The terminal's interrupt goes to the parent alone, which decides what becomes of the machine.
        command.process_group(0);
        let parent = rustix::process::getpid();
        let die_with_parent = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the request was made.
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        };
        // SAFETY: between fork and exec the closure makes two system calls and builds errors that hold no heap memory,
        // so it is safe whatever locks other threads held at the fork.
        unsafe { command.pre_exec(die_with_parent) };

        // The death signal follows the thread that forked, not the process, so that thread stays until the child ends.
        let (started, answer) = mpsc::channel();
        let keeper = std::thread::Builder::new().name("vm-console".to_owned()).spawn(move || {
            match start(&mut command) {
                Ok((child, stdin, pid, pidfd)) => {
                    // Nobody waits for the answer only if the receiver panicked; dropping stdin is all there is to do.
                    let _ = started.send(Ok((stdin, pid, pidfd)));
                    keep(child, &console);
                }
                Err(error) => drop(started.send(Err(error))),
            }
        })?;
        let (stdin, pid, pidfd) = answer.recv().map_err(io::Error::other)??;
        Ok((Self { pid, pidfd, keeper: Some(keeper) }, stdin))
    }

    /// The process id.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Kills the child if it still runs. A descriptor, not a number, names it, so no other process can be hit.
    pub(super) fn kill(&self) {
        // The only failure is that it has ended already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

fn start(command: &mut Command) -> io::Result<(Child, ChildStdin, Pid, OwnedFd)> {
    let mut child = command.spawn()?;
    let pid = Pid::from_child(&child);
    let mut handles = || {
        let stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok((stdin, pidfd_open(pid, PidfdFlags::empty())?))
    };
    match handles() {
        Ok((stdin, pidfd)) => Ok((child, stdin, pid, pidfd)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

/// Reads the output until it ends, then waits for the child.
fn keep(mut child: Child, console: &Console) {
    let mut buffer = [0; 4096];
    if let Some(mut output) = child.stdout.take() {
        loop {
            match output.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => console.append(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }
    if let Ok(status) = child.wait() {
        console.finish(status);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::super::console::Next;
    use super::*;

    fn deadline() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_child_is_talked_to_and_its_end_is_seen() {
        let console = Arc::new(Console::default());
        let (_process, mut stdin) = Process::spawn(Command::new("cat"), Arc::clone(&console)).unwrap();
        stdin.write_all(b"hello\n").unwrap();
        assert_eq!(console.next_line(deadline()), Next::Line("hello".to_owned()));
        drop(stdin);
        assert!(console.wait_exit(deadline()).unwrap().success());
    }

    #[test]
    fn dropping_kills() {
        let console = Arc::new(Console::default());
        let mut command = Command::new("sleep");
        command.arg("1000000");
        let (process, _stdin) = Process::spawn(command, Arc::clone(&console)).unwrap();
        drop(process);
        assert!(!console.exit().unwrap().success(), "the drop waits for the end");
    }

    #[test]
    fn the_thread_that_started_a_child_may_end() {
        let console = Arc::new(Console::default());
        let spawn = {
            let console = Arc::clone(&console);
            move || Process::spawn(Command::new("cat"), console).unwrap()
        };
        let (process, mut stdin) = std::thread::spawn(spawn).join().unwrap();
        stdin.write_all(b"still here\n").unwrap();
        assert_eq!(console.next_line(deadline()), Next::Line("still here".to_owned()));
        drop(process);
    }

    /// Not a test: what [`killing_the_parent_kills_the_child`] runs in a process of its own.
    #[test]
    #[ignore = "waits to be killed"]
    fn parent_that_is_killed() {
        let (process, _stdin) = Process::spawn(Command::new("cat"), Arc::default()).unwrap();
        eprintln!("\nchild={}", process.pid());
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn killing_the_parent_kills_the_child() {
        let mut parent = Command::new(std::env::current_exe().unwrap());
        parent.args(["--exact", "vm::process::tests::parent_that_is_killed", "--ignored", "--nocapture"]);
        let mut parent = parent.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(parent.stderr.take().unwrap());
        let child = said.lines().find_map(|line| line.unwrap().strip_prefix("child=")?.parse().ok()).unwrap();
        let child = pidfd_open(Pid::from_raw(child).unwrap(), PidfdFlags::empty()).unwrap();
        parent.kill().unwrap();
        parent.wait().unwrap();
        let minute = Timespec { tv_sec: 60, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&minute)).unwrap();
        assert_eq!(ended, 1, "the child outlived its parent");
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error() {
        assert!(Process::spawn(Command::new("/nonexistent/qemu"), Arc::default()).is_err());
    }
}
