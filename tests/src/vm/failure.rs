//! What can go wrong with a machine, told with all that is known about it.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use super::bundle::BundleError;

/// The result of a command in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The exit status, 0 for success.
    pub status: i32,
    /// What it wrote to standard output and standard error, without the last line end.
    pub text: String,
}

/// What is known about a machine when something went wrong with it.
#[derive(Clone)]
pub struct Evidence {
    /// The status QEMU exited with, if it has.
    pub exit: Option<ExitStatus>,
    /// What QEMU wrote to standard error.
    pub qemu: String,
    /// The guest's whole console.
    pub console: String,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exit {
            Some(status) => writeln!(f, "QEMU ended ({status})")?,
            None => writeln!(f, "QEMU is running")?,
        }
        if !self.qemu.trim().is_empty() {
            writeln!(f, "--- QEMU said:\n{}", self.qemu.trim_end())?;
        }
        write!(f, "--- the guest's console:\n{}\n--- end of console", self.console.trim_end())
    }
}

impl fmt::Debug for Evidence {
    /// As the text of [`Display`](fmt::Display): a test that unwraps shows the console line by line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a machine did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The machine's parts are not usable.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The description of the machine is wrong.
    #[error("a machine cannot be made like that: {0}")]
    Configuration(String),
    /// A file or process of the machine could not be made or used.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Something did not happen in time.
    #[error("waited {patience:?} for {what} in vain; {evidence}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        patience: Duration,
        /// What the machine did meanwhile.
        evidence: Box<Evidence>,
    },
    /// QEMU exited first.
    #[error("QEMU exited while {what} was awaited; {evidence}")]
    Exited {
        /// What was waited for.
        what: String,
        /// What the machine did before.
        evidence: Box<Evidence>,
    },
    /// A command in the guest failed.
    #[error("the guest's command {command:?} failed with status {}:\n{}\n{evidence}", output.status, output.text)]
    Command {
        /// The command.
        command: String,
        /// Its status and what it printed.
        output: Output,
        /// What the machine did before.
        evidence: Box<Evidence>,
    },
    /// QEMU refused a QMP command, or did not answer.
    #[error("QMP command {command} failed: {problem}; {evidence}")]
    Qmp {
        /// The command.
        command: String,
        /// QEMU's answer, or the connection's error.
        problem: String,
        /// What the machine did before.
        evidence: Box<Evidence>,
    },
}
