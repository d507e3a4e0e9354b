//! Accepts clients and ends them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, retry_on_intr};

use super::connection::Connection;
use super::listener::Listener;
use super::session::Session;
use super::stream::Stream;
use super::{ListenAddress, ListenLimits};
use crate::device::throttle::{Throttle, warn_throttled};

/// How long to leave clients in the backlog when no descriptor or thread is left for them.
const BREATHER: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// How long a stop waits for connections to end; one may be inside a slow file operation.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// An address, and what its clients get.
pub struct ListenPort {
    name: String,
    listener: Listener,
    open: Box<dyn Fn() -> Arc<dyn Session> + Send>,
}

impl ListenPort {
    /// Serves each client of `listener` with a session made by `open`. `name` is for the log and the counters, such as
    /// `share home`.
    pub fn new(name: String, listener: Listener, open: impl Fn() -> Arc<dyn Session> + Send + 'static) -> Self {
        Self { name, listener, open: Box::new(open) }
    }
}

/// Counters of all addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenStats {
    /// Clients connected now.
    pub connections: u64,
    /// Clients that were accepted.
    pub accepted: u64,
    /// Clients that were turned away because there were too many.
    pub refused: u64,
}

/// A connected client.
struct Client {
    number: u64,
    name: Arc<str>,
    stream: Arc<Stream>,
    session: Arc<dyn Session>,
}

struct Clients {
    limits: ListenLimits,
    list: Mutex<Vec<Client>>,
    ended: Condvar,
    accepted: AtomicU64,
    refused: AtomicU64,
    throttle: Throttle,
}

/// Removes a client however its thread ends, and with it fids and locks.
struct Leaving<'a>(&'a Clients, u64);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut list = self.0.lock();
        if let Some(at) = list.iter().position(|client| client.number == self.1) {
            let client = list.swap_remove(at);
            // Closing files may take long: not under the lock.
            drop(list);
            client.session.reset();
            self.0.ended.notify_all();
        }
    }
}

impl Clients {
    fn new(limits: ListenLimits) -> Self {
        Self {
            limits,
            list: Mutex::default(),
            ended: Condvar::new(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            throttle: Throttle::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Client>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in one client, on the only thread that does so, and serves it on a thread of its own.
    fn welcome(self: &Arc<Self>, port: &ListenPort, stream: Stream) -> io::Result<()> {
        let most = self.limits.connections;
        if self.lock().len() >= most {
            self.refused.fetch_add(1, Ordering::Relaxed);
            warn_throttled!(
                self.throttle,
                "{}: a client of {} was turned away: {most} are connected",
                port.name,
                port.listener.address()
            );
            return Ok(());
        }
        let number = self.accepted.fetch_add(1, Ordering::Relaxed);
        let (name, stream, session) = (Arc::<str>::from(port.name.as_str()), Arc::new(stream), (port.open)());
        let client = Client { number, name: name.clone(), stream: stream.clone(), session: session.clone() };
        self.lock().push(client);
        let clients = self.clone();
        let spawned = std::thread::Builder::new().name("9p client".to_owned()).spawn(move || {
            let _leaving = Leaving(&clients, number);
            match Connection::new(&stream, &*session, clients.limits.message).run() {
                Ok(()) => debug!("{name}: client {number} has left"),
                Err(cause) => warn_throttled!(clients.throttle, "{name}: client {number} is cut off: {cause}"),
            }
            stream.close();
        });
        if spawned.is_err() {
            drop(Leaving(self, number));
        }
        spawned.map(drop)
    }

    /// Ends every connection and waits for their threads within reason.
    fn close(&self) {
        let mut list = self.lock();
        for client in list.iter() {
            client.stream.close();
        }
        let deadline = Instant::now() + STOP_LIMIT;
        while !list.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                warn!("{} clients still have a request running; leaving without them", list.len());
                return;
            }
            list = self.ended.wait_timeout(list, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Addresses that are served. Dropping it ends all connections and removes the sockets.
pub struct Listening {
    clients: Arc<Clients>,
    addresses: Vec<(String, ListenAddress)>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    /// Serves `ports` from now on.
    ///
    /// # Errors
    /// No descriptor or thread is left.
    pub fn start(ports: Vec<ListenPort>, limits: ListenLimits) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let addresses: Vec<_> = ports.iter().map(|port| (port.name.clone(), port.listener.address().clone())).collect();
        for (name, address) in &addresses {
            info!("{name}: 9P on {address}");
            if matches!(address, ListenAddress::Tcp(_)) {
                warn!("{name}: 9P has no authentication: whoever can reach {address} has this share");
            }
        }
        let clients = Arc::new(Clients::new(limits));
        let (stopped, served) = (stop.clone(), clients.clone());
        let thread = std::thread::Builder::new().name("listen".to_owned()).spawn(move || {
            accept_all(&ports, &stopped, &served);
        })?;
        Ok(Self { clients, addresses, stop, thread: Some(thread) })
    }

    /// Who listens where, with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> &[(String, ListenAddress)] {
        &self.addresses
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> ListenStats {
        ListenStats {
            connections: self.clients.lock().len() as u64,
            accepted: self.clients.accepted.load(Ordering::Relaxed),
            refused: self.clients.refused.load(Ordering::Relaxed),
        }
    }

    /// The sessions of the clients connected now, with the name of what they are served.
    #[must_use]
    pub fn sessions(&self) -> Vec<(Arc<str>, Arc<dyn Session>)> {
        self.clients.lock().iter().map(|client| (client.name.clone(), client.session.clone())).collect()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!("the thread that accepts clients ended abnormally");
        }
        self.clients.close();
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
                    warn_throttled!(clients.throttle, "{}: no client can be taken now: {cause}", port.name);
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
