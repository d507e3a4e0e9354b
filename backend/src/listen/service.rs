//! Listens, and hands over who comes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use log::{error, info, warn};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, retry_on_intr};

use super::ListenAddress;
use super::clients::Clients;
use super::listener::Listener;
use super::session::Session;
use crate::supervisor::STOP_LIMIT;

/// How long to leave clients in the backlog when no descriptor or thread is left for them.
const BREATHER: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// An address, and what its clients get.
pub struct ListenPort {
    pub(super) name: String,
    listener: Listener,
    pub(super) open: Box<dyn Fn() -> Arc<dyn Session> + Send>,
}

impl ListenPort {
    /// Serves each client of `listener` with a session made by `open`. `name` is for the log and the counters, such as
    /// `share home`.
    pub fn new(name: String, listener: Listener, open: impl Fn() -> Arc<dyn Session> + Send + 'static) -> Self {
        Self { name, listener, open: Box::new(open) }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> &ListenAddress {
        self.listener.address()
    }
}

/// Addresses that are served. Dropping it ends all connections and removes the sockets.
pub struct Listening {
    clients: Arc<Clients>,
    addresses: Vec<(String, ListenAddress)>,
    stop: Arc<OwnedFd>,
    /// When it was asked to end.
    asked: OnceLock<Instant>,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    /// Serves `ports` to `clients` from now on.
    ///
    /// # Errors
    /// No descriptor or thread is left.
    pub fn start(ports: Vec<ListenPort>, clients: Arc<Clients>) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let addresses: Vec<_> = ports.iter().map(|port| (port.name.clone(), port.address().clone())).collect();
        for (name, address) in &addresses {
            info!("{name}: 9P on {address}");
            if matches!(address, ListenAddress::Tcp(_)) {
                warn!("{name}: 9P has no authentication: whoever can reach {address} has this share");
            }
        }
        let (stopped, served) = (stop.clone(), clients.clone());
        let thread = std::thread::Builder::new().name("listen".to_owned()).spawn(move || {
            accept_all(&ports, &stopped, &served);
        })?;
        Ok(Self { clients, addresses, stop, asked: OnceLock::new(), thread: Some(thread) })
    }

    /// Who listens where, with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> &[(String, ListenAddress)] {
        &self.addresses
    }

    /// Who is connected.
    #[must_use]
    pub fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// Asks all connections to end, and takes no more; returns at once. The wait for them begins with the first time.
    pub(crate) fn end(&self) -> Instant {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        self.clients.end();
        *self.asked.get_or_init(Instant::now)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let asked = self.end();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!("the thread that accepts clients ended abnormally");
        }
        // One may have come in between.
        self.clients.end();
        self.clients.wait_for_end(asked + STOP_LIMIT);
    }
}

/// Accepts until `stop` is readable.
fn accept_all(ports: &[ListenPort], stop: &OwnedFd, clients: &Arc<Clients>) {
    loop {
        let sockets = ports.iter().map(|port| port.listener.as_fd());
        let mut watched: Vec<PollFd<'_>> = std::iter::once(stop.as_fd())
            .chain(sockets)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        if let Err(cause) = retry_on_intr(|| poll(&mut watched, None)) {
            error!("cannot wait for clients any more: {cause}");
            return;
        }
        let ready = |socket: &PollFd<'_>| !socket.revents().is_empty();
        if watched.first().is_some_and(ready) {
            return;
        }
        let waiting = ports.iter().zip(&watched[1..]).filter(|(_, socket)| ready(socket)).map(|(port, _)| port);
        for port in waiting {
            let accepted = port.listener.accept().and_then(|stream| clients.welcome(port, stream));
            match accepted {
                Err(cause) if is_lack(&cause) => {
                    clients.warn(format_args!("{}: no client can be taken now: {cause}", port.name));
                    let mut stop = [PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
                    // Whatever it says, the loop looks again.
                    let _ = poll(&mut stop, Some(&BREATHER));
                }
                // The client has left again, or its network failed.
                Ok(()) | Err(_) => {}
            }
        }
    }
}

/// Whether the system lacks something, so that trying again at once is no use.
fn is_lack(cause: &io::Error) -> bool {
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::AGAIN].map(Errno::raw_os_error);
    cause.raw_os_error().is_some_and(|errno| lacks.contains(&errno))
}
