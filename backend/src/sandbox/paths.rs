//! What of the file system the daemon needs.

use std::path::{Path, PathBuf};

use crate::config::{Content, ServeConfig};
use crate::listen::ListenAddress;
use crate::transport::socket;

/// Paths by what is done there.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// Shared folders, and whether a guest may change them.
    pub(super) folders: Vec<(PathBuf, bool)>,
    /// Folders in which sockets are made and removed.
    pub(super) sockets: Vec<PathBuf>,
    /// Files of the system that are read or written to: users and groups, the service manager's socket.
    pub(super) system: Vec<PathBuf>,
    /// TCP ports to bind.
    pub(super) ports: Vec<u16>,
}

/// Where the C library looks for users and groups, and for the code that does so.
const USERS: [&str; 6] = ["/etc", "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/run/systemd/userdb"];

impl Paths {
    /// What `config` needs, whose paths are from the root.
    pub(super) fn of(config: &ServeConfig) -> Self {
        let mut paths = Self::default();
        let mut made: Vec<&Path> = config.iommu.iter().map(|iommu| iommu.socket.as_path()).collect();
        for share in &config.shares {
            if let Content::Folder(folder) = &share.content {
                paths.folders.push((folder.clone(), !share.readonly));
            }
            made.extend(share.socket.as_deref());
            for address in &share.listen {
                match address {
                    ListenAddress::Unix(path) => made.push(path),
                    ListenAddress::Tcp(address) => paths.ports.push(address.port()),
                }
            }
        }
        for path in made.into_iter().filter(|path| socket::is_path(path)) {
            paths.sockets.push(path.parent().unwrap_or(Path::new("/")).to_owned());
        }
        paths.sockets.sort();
        paths.sockets.dedup();
        if config.shares.iter().any(|share| share.identity.per_user) {
            paths.system = USERS.iter().map(PathBuf::from).filter(|path| path.exists()).collect();
        }
        let manager = std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from);
        paths.system.extend(manager.filter(|path| path.is_absolute() && path.exists()));
        paths
    }
}

/// The same configuration with every path from the root, by the current folder.
pub(super) fn from_the_root(mut config: ServeConfig) -> ServeConfig {
    let absolute = |path: &mut PathBuf| {
        if let Ok(whole) = std::path::absolute(&*path) {
            *path = whole;
        }
    };
    let socket = |path: &mut PathBuf| {
        if socket::is_path(path) {
            absolute(path);
        }
    };
    if let Some(iommu) = &mut config.iommu {
        socket(&mut iommu.socket);
    }
    for share in &mut config.shares {
        if let Content::Folder(folder) = &mut share.content {
            absolute(folder);
        }
        share.socket.iter_mut().for_each(socket);
        for address in &mut share.listen {
            if let ListenAddress::Unix(path) = address {
                absolute(path);
            }
        }
    }
    config
}
