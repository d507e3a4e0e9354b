//! Other processes and other users.

use std::io::{PipeReader, PipeWriter, Read as _, Write as _};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Gid, Pid, Uid, WaitOptions, WaitStatus, waitpid};

use crate::said::{Result, Said, errno, name};

/// An ordinary user, and the group of the same number.
pub(crate) const USER: u32 = 1000;
/// Another one.
pub(crate) const OTHER: u32 = 2000;

/// A process that does a part of a case.
pub(crate) struct Child {
    pid: Pid,
    said: PipeReader,
}

/// Runs `body` in a child process. What it says comes out at [`Child::wait`].
pub(crate) fn child(body: impl FnOnce(&mut Said) -> Result) -> Child {
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    // Text that is still in a buffer would be written twice.
    std::io::stdout().flush().expect("standard output is there");
    // SAFETY: this program has one thread, so that the child may do whatever its parent may.
    match unsafe { libc::fork() } {
        0 => {
            drop(reader);
            let mut said = Said::default();
            if let Err(errno) = body(&mut said) {
                said.show("stopped", name(errno.raw_os_error()));
            }
            let written = (&writer).write_all(said.into_line().as_bytes());
            // SAFETY: ends the process; what the parent owns is not dropped a second time.
            unsafe { libc::_exit(i32::from(written.is_err())) }
        }
        pid => Child { pid: Pid::from_raw(pid).expect("a process can be made"), said: reader },
    }
}

impl Child {
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// What the child said, once it has ended, and how it ended if it was killed.
    pub(crate) fn wait(mut self) -> String {
        let mut line = String::new();
        let _ = self.said.read_to_string(&mut line);
        let status = waitpid(Some(self.pid), WaitOptions::empty()).ok().flatten().map(|(_, status)| status);
        if let Some(signal) = status.and_then(WaitStatus::terminating_signal) {
            line += &format!("{}killed-by={signal}", if line.is_empty() { "" } else { " " });
        }
        line
    }
}

/// What `body` says when an ordinary user runs it, who is in the group of the same number and in `groups`.
pub(crate) fn as_user(uid: u32, groups: &[u32], body: impl FnOnce(&mut Said) -> Result) -> String {
    child(|said| {
        become_user(uid, groups)?;
        body(said)
    })
    .wait()
}

/// Makes this process that user's.
pub(crate) fn become_user(uid: u32, groups: &[u32]) -> Result {
    let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)
}

/// Kills this process some time later, unless it has ended.
pub(crate) fn kill_after(seconds: u32) {
    // SAFETY: sets a timer; the signal's default action ends the process.
    unsafe { libc::alarm(seconds) };
}

/// Tells another process that something has been done.
pub(crate) struct Flag {
    reader: PipeReader,
    writer: PipeWriter,
}

impl Flag {
    /// To be made before the other process.
    pub(crate) fn new() -> Result<Self> {
        let (reader, writer) = std::io::pipe().map_err(|error| errno(&error))?;
        Ok(Self { reader, writer })
    }

    pub(crate) fn raise(&self) -> Result {
        (&self.writer).write_all(&[1]).map_err(|error| errno(&error))
    }

    /// Whether it has been raised, and nobody has waited for it yet.
    pub(crate) fn is_raised(&self) -> Result<bool> {
        let mut polled = [PollFd::new(&self.reader, PollFlags::IN)];
        Ok(poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
    }

    pub(crate) fn wait(&self) -> Result {
        let mut byte = [0];
        (&self.reader).read_exact(&mut byte).map_err(|_| Errno::PIPE)
    }
}
