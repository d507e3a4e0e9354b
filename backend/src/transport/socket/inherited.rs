//! Sockets that the process was started with: by number, or by the name that systemd gives them.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

const BY_NUMBER: &str = "fd:";
const BY_NAME: &str = "systemd:";
/// Standard input, output and error.
const STANDARD: RawFd = 2;

/// Why a descriptor is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// The number is none.
    #[error("{BY_NUMBER}{0} names no descriptor; give the number of a listening socket above {STANDARD}, such as fd:3")]
    Number(String),
    /// systemd has passed no socket of that name.
    #[error(
        "systemd has passed no socket with the name {name:?}, but {}; start calgaryd by a socket unit with \
         FileDescriptorName={name}, or give a path", if .passed.is_empty() { "none at all".to_owned() } else { .passed.join(", ") }
    )]
    Name {
        /// The name asked for.
        name: String,
        /// The names that there are.
        passed: Vec<String>,
    },
    /// Nothing is open there, or something else.
    #[error("descriptor {0} is not a listening UNIX stream socket; pass one that is bound and listens, or give a path")]
    NotListening(RawFd),
    /// The kernel refuses.
    #[error("cannot take over descriptor {fd}: {cause}")]
    System {
        /// The descriptor.
        fd: RawFd,
        /// Why.
        cause: io::Error,
    },
}

/// Whether `socket` is a path, and so something that a VMM can connect to by that name.
#[must_use]
pub fn is_path(socket: &Path) -> bool {
    !socket.to_str().is_some_and(|text| text.starts_with(BY_NUMBER) || text.starts_with(BY_NAME))
}

/// The socket that `socket` names; `None` for a path.
pub(super) fn listener(socket: &Path) -> Result<Option<UnixListener>, InheritedError> {
    let Some(text) = socket.to_str() else { return Ok(None) };
    if let Some(number) = text.strip_prefix(BY_NUMBER) {
        let fd = number.parse().ok().filter(|fd| *fd > STANDARD);
        return adopt(fd.ok_or_else(|| InheritedError::Number(number.to_owned()))?).map(Some);
    }
    let Some(name) = text.strip_prefix(BY_NAME) else { return Ok(None) };
    let passed: Vec<(RawFd, String)> =
        sd_notify::listen_fds_with_names().map_or_else(|_| Vec::new(), Iterator::collect);
    match passed.iter().find(|(_, known)| known == name) {
        Some((fd, _)) => adopt(*fd).map(Some),
        None => {
            let passed = passed.into_iter().map(|(_, name)| name).collect();
            Err(InheritedError::Name { name: name.to_owned(), passed })
        }
    }
}

/// A descriptor of our own for the listening socket that is open as `fd`.
fn adopt(fd: RawFd) -> Result<UnixListener, InheritedError> {
    // SAFETY: `fd` is not -1 (checked by the callers: it is above 2), and is only passed to calls that fail with EBADF if
    // nothing is open there; no ownership is taken of it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let listens = socket_domain(borrowed).is_ok_and(|domain| domain == AddressFamily::UNIX)
        && socket_type(borrowed).is_ok_and(|kind| kind == SocketType::STREAM)
        && socket_acceptconn(borrowed).is_ok_and(|listens| listens);
    if !listens {
        return Err(InheritedError::NotListening(fd));
    }
    let own: OwnedFd = borrowed.try_clone_to_owned().map_err(|cause| InheritedError::System { fd, cause })?;
    Ok(own.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn named(text: &str) -> Result<Option<UnixListener>, InheritedError> {
        listener(Path::new(text))
    }

    #[test]
    fn a_listening_socket_is_taken_over_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let given = UnixListener::bind(&path).unwrap();
        let taken = named(&format!("fd:{}", given.as_raw_fd())).unwrap().unwrap();
        drop(given);
        let _client = UnixStream::connect(&path).unwrap();
        taken.accept().unwrap();
    }

    #[test]
    fn other_descriptors_are_refused_with_the_remedy() {
        let (connected, _peer) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        for fd in [connected.as_raw_fd(), file.as_raw_fd(), 1_000_000] {
            let message = named(&format!("fd:{fd}")).unwrap_err().to_string();
            assert!(message.contains("not a listening UNIX stream socket"), "{message}");
        }
        for text in ["fd:", "fd:two", "fd:-1", "fd:0", "fd:2"] {
            assert!(matches!(named(text), Err(InheritedError::Number(_))), "{text}");
        }
    }

    #[test]
    fn a_name_that_was_not_passed_is_refused() {
        let message = named("systemd:home").unwrap_err().to_string();
        assert!(message.contains("FileDescriptorName=home") && message.contains("none at all"), "{message}");
    }

    #[test]
    fn paths_are_left_to_be_bound() {
        for text in ["/run/fd:3", "./fd:3", "s.sock"] {
            assert!(named(text).unwrap().is_none() && is_path(Path::new(text)), "{text}");
        }
        assert!(!is_path(Path::new("fd:3")) && !is_path(Path::new("systemd:home")));
    }
}
