//! Listening sockets of either kind.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{SocketFlags, accept_with, sockopt};

use super::ListenAddress;
use super::stream::Stream;
use crate::transport::socket::{BindError, BoundSocket};

/// Why an address is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A Unix socket.
    #[error(transparent)]
    Unix(#[from] BindError),
    /// Somebody listens there.
    #[error("tcp:{0} is in use by another process; stop it or choose another port")]
    InUse(SocketAddr),
    /// The kernel refuses.
    #[error(
        "cannot listen on tcp:{address}: {cause}; choose an address of this machine, and a port from 1024 on unless you are root"
    )]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
}

/// A bound address. A Unix socket's file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    address: ListenAddress,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Unix(BoundSocket),
    Tcp(TcpListener),
}

impl Listener {
    /// Binds `address`. Nobody is answered before [`Listening`](super::Listening) has it.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind(address: &ListenAddress) -> Result<Self, ListenError> {
        match address {
            ListenAddress::Unix(path) => {
                let socket = BoundSocket::bind(path)?;
                let refuse = |cause| BindError::Bind { path: path.clone(), cause };
                never_wait(socket.as_fd()).map_err(refuse)?;
                Ok(Self { address: address.clone(), socket: Socket::Unix(socket) })
            }
            ListenAddress::Tcp(wanted) => {
                let refuse = |cause: io::Error| match cause.kind() {
                    io::ErrorKind::AddrInUse => ListenError::InUse(*wanted),
                    _ => ListenError::Tcp { address: *wanted, cause },
                };
                let socket = TcpListener::bind(wanted).map_err(refuse)?;
                never_wait(socket.as_fd()).map_err(refuse)?;
                let address = ListenAddress::Tcp(socket.local_addr().map_err(refuse)?);
                Ok(Self { address, socket: Socket::Tcp(socket) })
            }
        }
    }

    /// Where it listens, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Takes the client that waits.
    pub(super) fn accept(&self) -> io::Result<Stream> {
        let client: OwnedFd = accept_with(self.as_fd(), SocketFlags::CLOEXEC)?;
        if matches!(self.socket, Socket::Tcp(_)) {
            // Messages are written whole, and a peer that vanishes without a word must not stay for ever.
            sockopt::set_tcp_nodelay(&client, true)?;
            sockopt::set_socket_keepalive(&client, true)?;
        }
        Ok(Stream::new(client))
    }
}

/// Makes `accept` return at once: a client may have left between the news of it and the call.
fn never_wait(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(socket, true)?)
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(socket) => socket.as_fd(),
            Socket::Tcp(socket) => socket.as_fd(),
        }
    }
}
