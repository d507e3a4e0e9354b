//! Confinement of the process that serves: what is left to somebody who takes it over.
//!
//! ```text
//!  enter   before any thread starts: mount namespace, Landlock, capabilities, no_new_privs
//!  seal    once everything is bound and serving: the list of system calls, for all threads
//! ```
//!
//! - **namespace**: the process sees a tree of its own that holds the shared folders, the folders of its sockets, and
//!   `/proc`, each at its usual path, and no network unless it listens on TCP. Needs `CAP_SYS_ADMIN` or user namespaces.
//! - **landlock**: files are opened and changed below the shared folders alone, sockets made and removed in their folders
//!   alone, and TCP ports bound as configured alone. Needs Linux 5.13 or later with Landlock enabled; older versions
//!   enforce less.
//! - **auto**: Landlock as far as the kernel has it, and no namespace.
//!
//! Whichever it is, capabilities are cut to what the shares need. Only the command line confines: a
//! [`Daemon`](crate::daemon::Daemon) inside another program leaves that program as it is.

mod capabilities;
mod landlock;
mod namespace;
mod paths;
mod syscalls;

use std::fmt;
use std::str::FromStr;

use log::{Level, info, log};

use crate::config::ServeConfig;
use landlock::Enforced;
pub use syscalls::Syscalls;

/// Where the process may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confinement {
    /// What the kernel offers without privileges.
    #[default]
    Auto,
    /// A tree of its own, and Landlock where there is any.
    Namespace,
    /// Landlock.
    Landlock,
    /// Anywhere its user may.
    None,
}

/// Why the process could not be confined as asked.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// No namespace.
    #[error("sandbox=namespace: cannot {what}: {cause}; use --sandbox landlock, or allow user namespaces")]
    Namespace {
        /// The step that failed.
        what: String,
        /// Why.
        cause: std::io::Error,
    },
    /// A shared folder is the whole tree.
    #[error("sandbox=namespace: the folder / is shared, so that nothing would be hidden; use --sandbox landlock")]
    WholeTree,
    /// No Landlock.
    #[error(
        "sandbox=landlock: {0}; use --sandbox namespace, or a kernel with Landlock enabled (5.13 or later, lsm=landlock)"
    )]
    Landlock(String),
    /// The capabilities cannot be cut.
    #[error("cannot drop capabilities: {0}")]
    Capabilities(std::io::Error),
    /// The list of system calls is refused.
    #[error("cannot restrict system calls: {0}; use --seccomp none, or a kernel with seccomp filters")]
    Syscalls(String),
}

/// A process that [`enter`] has confined.
#[derive(Debug)]
pub struct Confined {
    /// What to serve, with every path from the root: the current folder may not be there any more.
    pub config: ServeConfig,
    notes: Vec<(Level, String)>,
}

impl Confined {
    /// Says in the log what is in force.
    pub fn log(&self) {
        for (level, note) in &self.notes {
            log!(*level, "sandbox: {note}");
        }
    }
}

/// Confines the calling thread and all that it starts to what `config` needs. Call it before there are other threads, and
/// before anything is opened.
///
/// # Errors
/// See [`SandboxError`]. The process may be confined in part then, and should end.
pub fn enter(config: ServeConfig, confinement: Confinement) -> Result<Confined, SandboxError> {
    let config = paths::from_the_root(config);
    let mut notes = Vec::new();
    if confinement == Confinement::None {
        return Ok(Confined { config, notes });
    }
    let paths = paths::Paths::of(&config);
    if confinement == Confinement::Namespace {
        namespace::enter(&paths)?;
        notes.push((Level::Info, "a namespace with the shared folders and the folders of sockets".to_owned()));
    }
    notes.push(match (landlock::enter(&paths), confinement) {
        (Ok(Enforced::Fully), _) => (Level::Info, "Landlock".to_owned()),
        (Ok(Enforced::Partially), _) => (Level::Info, "Landlock, as far as this kernel has it".to_owned()),
        (Ok(Enforced::Not), Confinement::Landlock) => {
            return Err(SandboxError::Landlock("this kernel enforces nothing".to_owned()));
        }
        (Err(cause), Confinement::Landlock) => return Err(SandboxError::Landlock(cause)),
        (Ok(Enforced::Not), _) => (Level::Warn, "this kernel has no Landlock".to_owned()),
        (Err(cause), _) => (Level::Warn, format!("no Landlock: {cause}")),
    });
    capabilities::cut(&config).map_err(|cause| SandboxError::Capabilities(cause.into()))?;
    Ok(Confined { config, notes })
}

/// Restricts the system calls of all threads, for good.
///
/// # Errors
/// See [`SandboxError`].
pub fn seal(syscalls: Syscalls) -> Result<(), SandboxError> {
    if syscalls == Syscalls::Any {
        return Ok(());
    }
    syscalls::restrict(syscalls).map_err(SandboxError::Syscalls)?;
    info!("sandbox: system calls outside the list: {syscalls}");
    Ok(())
}

impl FromStr for Confinement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "namespace" => Ok(Self::Namespace),
            "landlock" => Ok(Self::Landlock),
            "none" => Ok(Self::None),
            _ => Err(format!("{text} is unknown; choose auto, namespace, landlock or none")),
        }
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Auto => "auto",
            Self::Namespace => "namespace",
            Self::Landlock => "landlock",
            Self::None => "none",
        })
    }
}
