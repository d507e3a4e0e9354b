//! The options that management tools expect of every vhost-user backend program (QEMU's vhost-user specification,
//! "Backend program conventions"): `calgaryd --socket-path=PATH --shared-dir=DIR` serves one folder.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use frontend_spec::ninep::MountTag;
use serde_json::json;

use super::{Failure, serve};
use crate::config::{ServeConfig, ShareConfig};
use crate::sandbox::Confinement;

/// The option that overrides all others.
const PRINT_CAPABILITIES: &str = "--print-capabilities";

/// One folder, outside the IOMMU, as management tools start a backend program.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "One folder without an IOMMU, by the conventions of vhost-user backend programs")]
pub(super) struct Args {
    /// Serve on this socket.
    #[arg(long, value_name = "PATH", requires = "shared_dir")]
    socket_path: Option<PathBuf>,

    /// Serve on this listening socket, which the program was started with.
    #[arg(long, value_name = "FDNUM", requires = "shared_dir", conflicts_with = "socket_path")]
    fd: Option<RawFd>,

    /// The folder.
    #[arg(long, value_name = "DIR")]
    shared_dir: Option<PathBuf>,

    /// Name under which the guest mounts the folder [default: share].
    #[arg(long, value_name = "NAME", requires = "shared_dir")]
    tag: Option<MountTag>,

    /// Let the guest only read.
    #[arg(long, requires = "shared_dir")]
    readonly: bool,

    /// Print as JSON what this program can do, ignore everything else, and exit.
    #[arg(long)]
    print_capabilities: bool,
}

impl Args {
    /// Whether any of the options was given.
    pub(super) fn is_used(&self) -> bool {
        self.socket_path.is_some()
            || self.fd.is_some()
            || self.shared_dir.is_some()
            || self.tag.is_some()
            || self.readonly
    }
}

/// Whether the answer is [`capabilities`], whatever else `args` holds.
pub(super) fn asks_for_capabilities(args: &[OsString]) -> bool {
    args.iter().skip(1).take_while(|arg| *arg != "--").any(|arg| arg == PRINT_CAPABILITIES)
}

/// The answer to `--print-capabilities`. Optional features are named by QEMU's schema and none exists for this type.
pub(super) fn capabilities() -> String {
    format!("{:#}", json!({ "type": "9p", "features": [] }))
}

/// The description file for a program installed as `binary`.
pub(super) fn description(binary: &Path) -> String {
    let description = json!({
        "description": "calgaryd vhost-user-9p",
        "type": "9p",
        "binary": binary.to_string_lossy(),
    });
    format!("{description:#}")
}

/// Serves the folder until a signal.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let socket = args.socket_path.clone().or_else(|| args.fd.map(|fd| PathBuf::from(format!("fd:{fd}"))));
    let (Some(socket), Some(path)) = (socket, args.shared_dir.clone()) else {
        let message =
            "--shared-dir needs a socket; add --socket-path=PATH or --fd=FDNUM, or give a command (see --help)";
        return Err(Failure::Usage(message.to_owned()));
    };
    let tag = match &args.tag {
        Some(tag) => tag.clone(),
        None => "share".parse().map_err(|cause| Failure::Runtime(format!("tag: {cause}")))?,
    };
    let share = ShareConfig { readonly: args.readonly, ..ShareConfig::new(tag, path, socket) };
    let config = ServeConfig { shares: vec![share], ..ServeConfig::default() };
    serve::serve(config, Confinement::default(), None)
}
