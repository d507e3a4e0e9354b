//! Who is connected.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use log::{debug, warn};

use super::ListenLimits;
use super::connection::Connection;
use super::service::ListenPort;
use super::session::Session;
use super::stream::Stream;
use crate::device::throttle::{Throttle, warn_throttled};

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

/// The clients of all addresses.
pub struct Clients {
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
        let at = |list: &[Client]| list.iter().position(|client| client.number == self.1);
        let list = self.0.lock();
        let session = at(&list).map(|at| list[at].session.clone());
        // Closing files may take long: not under the lock, but the client counts until it is done.
        drop(list);
        session.into_iter().for_each(|session| session.reset());
        let mut list = self.0.lock();
        let client = at(&list).map(|at| list.swap_remove(at));
        drop(list);
        drop(client);
        self.0.ended.notify_all();
    }
}

impl Clients {
    /// Nobody yet; `limits` bound what they can make the daemon spend.
    #[must_use]
    pub fn new(limits: ListenLimits) -> Self {
        Self {
            limits,
            list: Mutex::default(),
            ended: Condvar::new(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            throttle: Throttle::default(),
        }
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> ListenStats {
        ListenStats {
            connections: self.lock().len() as u64,
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// The sessions of the clients connected now, each with the client's number, counted from 0, and the name of what it
    /// is served.
    #[must_use]
    pub fn sessions(&self) -> Vec<(u64, Arc<str>, Arc<dyn Session>)> {
        self.lock().iter().map(|client| (client.number, client.name.clone(), client.session.clone())).collect()
    }

    /// Logs at `warn`, unless clients have caused too much of that.
    pub(super) fn warn(&self, message: std::fmt::Arguments<'_>) {
        warn_throttled!(self.throttle, "{message}");
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Client>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in one client, on the only thread that does so, and serves it on a thread of its own.
    pub(super) fn welcome(self: &Arc<Self>, port: &ListenPort, stream: Stream) -> io::Result<()> {
        let most = self.limits.connections;
        if self.lock().len() >= most {
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.warn(format_args!(
                "{}: a client of {} was turned away: {most} are connected",
                port.name,
                port.address()
            ));
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
                Err(cause) => clients.warn(format_args!("{name}: client {number} is cut off: {cause}")),
            }
            stream.close();
        });
        if spawned.is_err() {
            drop(Leaving(self, number));
        }
        spawned.map(drop)
    }

    /// Asks every connection to end.
    pub(super) fn end(&self) {
        for client in self.lock().iter() {
            client.stream.close();
        }
    }

    /// Waits until `deadline` for the threads of all connections.
    pub(super) fn wait_for_end(&self, deadline: Instant) {
        let mut list = self.lock();
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
