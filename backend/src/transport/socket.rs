//! Listening unix sockets that are ours and only ours.

mod inherited;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

pub use inherited::{InheritedError, is_path};

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process answers there.
    #[error("socket {0} is in use by another process; stop it or choose another path")]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("{0} exists and is not a socket; remove it or choose another path")]
    NotASocket(PathBuf),
    /// What the process was started with is no socket to listen on.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// The kernel refuses.
    #[error("cannot bind socket {path}: {cause}; {}", remedy(cause))]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// What to change after `bind` has failed.
fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => "make its folder first, or choose another path",
        io::ErrorKind::InvalidInput => "choose a path of at most 107 bytes",
        _ => "choose a path in a folder where calgaryd's user can make and remove files",
    }
}

/// A socket to listen on. If it was bound here, its file is removed when this is dropped, unless another process has put
/// its own there.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that was made here.
    made: Option<(u64, u64)>,
}

impl BoundSocket {
    /// Takes the descriptor that the process was started with if `path` is `fd:NUMBER`, the one of this name that
    /// systemd has passed if it is `systemd:NAME`, and else [binds](Self::bind).
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn open(path: &Path) -> Result<Self, BindError> {
        match inherited::listener(path)? {
            Some(listener) => Ok(Self { listener, path: path.to_owned(), made: None }),
            None => Self::bind(path),
        }
    }

    /// Binds `path`, replacing a socket that nobody listens on. Only the owner may connect.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let refuse = |cause| BindError::Bind { path: path.to_owned(), cause };
        match std::fs::symlink_metadata(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(refuse(cause)),
            Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
            Ok(_) => match connect_at_once(path) {
                Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(refuse)?,
                // A listener that takes nobody, or a socket of another kind, is one all the same.
                Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => return Err(BindError::InUse(path.to_owned())),
                Err(cause) => return Err(refuse(cause.into())),
            },
        }
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let bound = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = bound.map_err(refuse)?;
        let found = std::fs::symlink_metadata(path).map_err(refuse)?;
        Ok(Self { listener, path: path.to_owned(), made: Some((found.dev(), found.ino())) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A second handle to the listening socket, for the transport to accept from.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

/// Connects to the stream socket at `path` and leaves again; `AGAIN` where it would have to wait for its listener.
fn connect_at_once(path: &Path) -> rustix::io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

impl AsRawFd for BoundSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl AsFd for BoundSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let Some(made) = self.made else { return };
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == made) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let live = BoundSocket::bind(&path).unwrap();
        assert!(matches!(BoundSocket::bind(&path), Err(BindError::InUse(_))));
        drop(live);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_socket_that_takes_nobody_is_in_use_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let live = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&live, 0).unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            rustix::net::connect(&socket, &SocketAddrUnix::new(&path).unwrap()).ok().map(|()| socket)
        })
        .collect();
        assert!(!waiting.is_empty());
        let (done, told) = std::sync::mpsc::channel();
        let taken = path.clone();
        std::thread::spawn(move || done.send(BoundSocket::bind(&taken).map(drop)));
        let found = told.recv_timeout(std::time::Duration::from_secs(60)).expect("it waits");
        assert!(matches!(found, Err(BindError::InUse(_))), "{found:?}");
        assert!(path.exists());
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(BoundSocket::bind(&path), Err(BindError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_file_that_took_the_place_survives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let bound = BoundSocket::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "other").unwrap();
        drop(bound);
        assert!(path.exists());
    }

    #[test]
    fn only_the_owner_may_connect() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _bound = BoundSocket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o077, 0);
    }
}
