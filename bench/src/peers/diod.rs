//! diod, a 9P server on a socket.

use std::path::{Path, PathBuf};

use super::child::Server;
use super::programs::Programs;
use crate::failure::Failure;
use crate::measure::Cores;

/// A running diod.
#[derive(Debug)]
pub(crate) struct Diod {
    /// The process.
    pub(crate) server: Server,
    /// Its socket.
    pub(crate) socket: PathBuf,
}

impl Diod {
    /// Name in reports.
    pub(crate) const NAME: &'static str = "diod";

    /// Serves `folder` with its socket in `work`.
    pub(crate) fn start(programs: &Programs, folder: &Path, cores: Cores, work: &Path) -> Result<Self, Failure> {
        let socket = work.join("diod.sock");
        let mut command = programs.command(Self::NAME, "usr/sbin/diod")?;
        command.args(["--foreground", "--no-auth", "--no-userdb", "--config-file", "/dev/null", "--logdest", "stderr"]);
        command.arg("--export").arg(folder).arg("--listen").arg(&socket);
        let mut server = Server::start(Self::NAME, command, cores, work)?;
        server.wait_for(&socket)?;
        Ok(Self { server, socket })
    }
}
