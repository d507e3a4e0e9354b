//! What the clients of cloud-hypervisor and crosvm do differently from QEMU's. Neither VMM runs here; their own client
//! libraries do, in the order, masks and widths of the VMM.

use std::path::PathBuf;

use calgaryd::config::{ServeConfig, ShareConfig};
use calgaryd::daemon::{Daemon, Signals};
use calgaryd::transport::TransportKind;
use tempfile::TempDir;

mod vfio_user_client;
mod vhost_user;

/// A daemon with one share outside the IOMMU, whose tag is `home` and which holds the file `note`.
struct Served {
    _daemon: Daemon,
    socket: PathBuf,
    _root: TempDir,
}

/// What the note says.
const NOTE: &[u8] = b"from the host";

fn serve(transport: TransportKind) -> Served {
    let root = tempfile::tempdir().unwrap();
    let (shared, socket) = (root.path().join("share"), root.path().join("s"));
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("note"), NOTE).unwrap();
    let share = ShareConfig::new("home".parse().unwrap(), &shared, &socket).over(transport);
    let config = ServeConfig { shares: vec![share], ..ServeConfig::default() };
    Served { _daemon: Daemon::start(&config, Signals::Leave).unwrap(), socket, _root: root }
}
