//! virtiofsd.

use std::path::Path;
use std::sync::Arc;

use calgary_tests::guest::{GuestMemory, VhostUserDevice, VhostUserOptions};

use super::child::Server;
use super::programs::Programs;
use crate::failure::Failure;
use crate::measure::Cores;

/// Urgent requests and ordinary ones.
const QUEUES: usize = 2;

/// A running virtiofsd and the connection to it.
#[derive(Debug)]
pub(crate) struct Virtiofsd {
    /// The process.
    pub(crate) server: Server,
    /// The device.
    pub(crate) device: VhostUserDevice,
    /// Guest RAM.
    pub(crate) memory: Arc<GuestMemory>,
}

impl Virtiofsd {
    /// Name in reports.
    pub(crate) const NAME: &'static str = "virtiofsd";

    /// Serves `folder` with its socket in `work`.
    pub(crate) fn start(
        programs: &Programs,
        memory_mib: u64,
        folder: &Path,
        cores: Cores,
        work: &Path,
    ) -> Result<Self, Failure> {
        let socket = work.join("virtiofsd.sock");
        let mut command = programs.command(Self::NAME, "usr/libexec/virtiofsd")?;
        command.arg("--socket-path").arg(&socket).arg("--shared-dir").arg(folder);
        // A sandbox needs privileges and costs nothing per operation; no thread pool is the default and the fastest.
        command.args(["--sandbox", "none", "--seccomp", "none", "--log-level", "error"]);
        let mut server = Server::start(Self::NAME, command, cores, work)?;
        server.wait_for(&socket)?;
        let memory = Arc::new(GuestMemory::new(memory_mib)?);
        let device = VhostUserDevice::connect(Arc::clone(&memory), VhostUserOptions::new(&socket, QUEUES))
            .map_err(|cause| server.did_not_start(cause.to_string()))?;
        Ok(Self { server, device, memory })
    }
}
