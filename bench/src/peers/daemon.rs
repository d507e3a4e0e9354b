//! This project's daemon, in a process of its own so that its processor time is its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use calgaryd::transport::TransportKind;

use super::child::Server;
use crate::failure::Failure;
use crate::measure::Cores;

/// The hidden command of this program that is the daemon: what follows is `calgaryd`'s command line.
pub(crate) const DAEMON_COMMAND: &str = "daemon";

/// Endpoint id of the share at 00:06.0.
const TRANSLATED_ENDPOINT: u32 = 0x30;

/// What to serve.
#[derive(Clone, Debug)]
pub(crate) struct DaemonOptions<'a> {
    /// The folder that both shares show.
    pub(crate) folder: &'a Path,
    /// The IOVA window, as `calgaryd serve --window` takes it.
    pub(crate) window: &'static str,
    /// Further arguments of `calgaryd serve`.
    pub(crate) more: &'a [String],
}

/// A running daemon with an IOMMU, one share behind it and one outside.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// The process.
    pub(crate) server: Server,
    /// Socket of the IOMMU.
    pub(crate) iommu: PathBuf,
    /// Socket of the share behind it.
    pub(crate) translated: PathBuf,
    /// Socket of the share outside it.
    pub(crate) direct: PathBuf,
    /// What it speaks on all of them.
    pub(crate) transport: TransportKind,
}

impl Daemon {
    /// Name in reports.
    pub(crate) const NAME: &'static str = "calgaryd";

    /// The endpoint of the share behind the IOMMU.
    pub(crate) const ENDPOINT: u32 = TRANSLATED_ENDPOINT;

    /// Starts it with sockets in `work`.
    pub(crate) fn start(options: &DaemonOptions<'_>, cores: Cores, work: &Path) -> Result<Self, Failure> {
        let [iommu, translated, direct] = ["iommu.sock", "translated.sock", "direct.sock"].map(|name| work.join(name));
        let program = std::env::current_exe().map_err(|cause| Failure::system("find this program", cause))?;
        let share = |tag: &str, socket: &Path, endpoint: &str, iommu: &str| {
            let (path, socket) = (options.folder.display(), socket.display());
            format!("tag={tag},path={path},socket={socket},endpoint={endpoint},iommu={iommu}")
        };
        let mut command = Command::new(program);
        command.args([DAEMON_COMMAND, "--log-level", "warn", "serve", "--window", options.window]);
        command.arg("--iommu").arg(&iommu).args(["--iommu-at", "00:05.0"]);
        command.arg("--share").arg(share("translated", &translated, "00:06.0", "on"));
        command.arg("--share").arg(share("direct", &direct, "00:07.0", "off"));
        command.args(options.more);
        let mut server = Server::start(Self::NAME, command, cores, work)?;
        for socket in [&iommu, &translated, &direct] {
            server.wait_for(socket)?;
        }
        let transport = transport(options.more).map_err(|cause| Failure::wrong(Self::NAME, cause))?;
        Ok(Self { server, iommu, translated, direct, transport })
    }
}

/// What `--transport=PROTOCOL` among the arguments of `calgaryd serve` says, so that the client speaks it too.
fn transport(arguments: &[String]) -> Result<TransportKind, String> {
    let said = arguments.iter().rev().find_map(|argument| argument.strip_prefix("--transport="));
    said.map_or(Ok(TransportKind::default()), str::parse)
}
