//! The supervisor thread: listening sockets, connections that end, signals and timers, on one event-manager loop.
//!
//! A port is a device and its socket. While a front end is connected its listening socket is not watched, so that a
//! second one waits in the backlog; when the first leaves, the port listens again and the device keeps its state for
//! [`LINGER`], in case the front end reconnects.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use log::{error, info, warn};
use rustix::io::Errno;
use vhost::vhost_user::{Error as VhostError, Listener};
use vhost_user_backend::{Error as BackendError, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::listen::Listening;
use crate::service_manager;
use crate::transport::socket::BoundSocket;
use crate::transport::vhost_user::{Connection, RingWindow};
use crate::transport::{Device, vfio_user};

mod signals;
#[cfg(test)]
mod tests;
mod timer;

pub use signals::block_signals;
use signals::{Signal, SignalSource};
use timer::Timer;

/// How long a device remembers domains and fids for a front end that went away.
pub const LINGER: Duration = Duration::from_secs(30);
/// How long a front end is left in the backlog when nothing is left to serve it with.
const BREATHER: Duration = Duration::from_millis(100);
/// How long a stop waits for all connections together to end; one may be inside a slow file operation.
pub const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Event data: the first numbers are the supervisor's own, then three per port.
const STOP: u32 = 0;
const SIGNAL: u32 = 1;
const FIRST_PORT: u32 = 2;

/// The kinds of event of a port.
#[derive(Clone, Copy)]
enum PortEvent {
    /// A front end wants to connect.
    Listen,
    /// The connection has ended.
    Ended,
    /// The device has waited long enough for its front end, or the front end for us.
    Timer,
}

impl PortEvent {
    const ALL: [Self; 3] = [Self::Listen, Self::Ended, Self::Timer];

    fn data(self, port: usize) -> u32 {
        let number = FIRST_PORT as usize + Self::ALL.len() * port + self as usize;
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    fn from_data(data: u32) -> Option<(Self, usize)> {
        let number = data.checked_sub(FIRST_PORT)? as usize;
        Some((Self::ALL[number % Self::ALL.len()], number / Self::ALL.len()))
    }
}

/// What is spoken on a socket.
pub enum Protocol {
    /// vhost-user. If the device's rings are at IOVAs, where they must lie.
    VhostUser(Option<RingWindow>),
    /// vfio-user.
    VfioUser,
}

impl Protocol {
    /// Whether a front end that lost its connection can come back to the device it had.
    fn can_reconnect(&self) -> bool {
        matches!(self, Self::VhostUser(_))
    }
}

/// A device and the socket that a front end reaches it by.
pub struct Port {
    device: Arc<dyn Device>,
    socket: BoundSocket,
    protocol: Protocol,
    ended: EventFd,
    timer: Timer,
    running: Option<Running>,
    /// A front end could not be served: the timer says when to try again.
    is_held_up: bool,
}

/// What ends a connection, and what serves it until then.
type Accepted = (Box<dyn Fn() + Send>, Box<dyn FnOnce() + Send>);

/// A connected front end.
struct Running {
    /// Makes the connection's thread come to its end.
    end: Box<dyn Fn() + Send>,
    thread: JoinHandle<()>,
    done: Receiver<()>,
}

impl Port {
    /// A port that listens on `socket` for front ends of `device` that speak `protocol`.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(device: Arc<dyn Device>, socket: BoundSocket, protocol: Protocol) -> io::Result<Self> {
        Ok(Self {
            device,
            socket,
            protocol,
            ended: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            timer: Timer::new()?,
            running: None,
            is_held_up: false,
        })
    }

    fn name(&self) -> &str {
        &self.device.identity().name
    }

    /// Accepts the front end that waits on the socket and serves it on threads of its own.
    fn accept(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        let (end, serve) = match &self.protocol {
            Protocol::VhostUser(window) => self.accept_vhost_user(window.clone())?,
            Protocol::VfioUser => self.accept_vfio_user()?,
        };
        let ended = self.ended.try_clone()?;
        let (done_sender, done) = mpsc::channel();
        let thread = std::thread::Builder::new().name("connection".to_owned()).spawn(move || {
            serve();
            let _ = ended.write(1);
            let _ = done_sender.send(());
        })?;
        self.running = Some(Running { end, thread, done });
        info!("{}: a front end has connected to {}", self.name(), self.socket.path().display());
        Ok(())
    }

    fn accept_vhost_user(&self, window: Option<RingWindow>) -> Result<Accepted, Box<dyn std::error::Error>> {
        let connection = Connection::new(self.device.clone(), window);
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::<()>::new());
        let mut daemon = VhostUserDaemon::new(self.name().to_owned(), connection.clone(), memory)
            .map_err(|cause| cause.to_string())?;
        if let Some(fd) = self.device.wake_fd() {
            for handler in daemon.get_epoll_handlers() {
                handler.register_listener(fd, EventSet::IN, connection.wake_event())?;
            }
        }
        let mut listener = Listener::from(self.socket.listener()?);
        daemon.start(&mut listener).map_err(|cause| cause.to_string())?;
        let shutdown = daemon.shutdown_handle().ok_or("the connection ended at once")?;
        let (name, ending) = (self.name().to_owned(), connection.clone());
        let end = move || {
            ending.give_up();
            shutdown.shutdown();
        };
        let serve = move || {
            log_end(&name, daemon.wait(), &connection);
            connection.close();
            // Joins the worker: after it nothing serves a queue, and the device can let go of guest memory.
            drop(daemon);
            connection.forget_memory();
        };
        Ok((Box::new(end), Box::new(serve)))
    }

    fn accept_vfio_user(&self) -> Result<Accepted, Box<dyn std::error::Error>> {
        let listener = self.socket.listener()?;
        // A client that has given up again must not make the supervisor wait for the next one.
        listener.set_nonblocking(true)?;
        let (stream, _) = listener.accept()?;
        let connection = vfio_user::Connection::new(self.device.clone(), stream)?;
        let ender = connection.ender();
        Ok((Box::new(move || ender.end()), Box::new(move || connection.run())))
    }

    /// Asks the connection, if there is one, to end.
    fn end(&self) {
        if let Some(running) = &self.running {
            (running.end)();
        }
    }

    /// Waits until `deadline` for the connection's end.
    fn wait_for_end(&mut self, deadline: Instant) {
        let Some(running) = self.running.take() else { return };
        if running.done.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {
            let _ = running.thread.join();
        } else {
            warn!("{}: a request is still running; leaving without it", self.name());
        }
    }
}

/// Says how a connection ended; a front end that closes its socket is no error.
fn log_end(name: &str, end: Result<(), BackendError>, connection: &Connection) {
    match end {
        Ok(())
        | Err(BackendError::HandleRequest(
            VhostError::Disconnected | VhostError::PartialMessage | VhostError::SocketBroken(_),
        )) => info!("{name}: the front end has left"),
        Err(cause) => error!("{name}: the connection failed: {cause}: {}", connection.remedy()),
    }
}

/// Makes the supervisor stop, from any thread.
pub struct StopHandle(EventFd);

impl StopHandle {
    /// Asks for the stop and returns at once.
    pub fn stop(&self) {
        let _ = self.0.write(1);
    }
}

/// See the module.
pub struct Supervisor {
    ports: Vec<Port>,
    stop: EventFd,
    signals: Option<SignalSource>,
    /// Clients that are no front ends.
    listening: Option<Arc<Listening>>,
    counters: Box<dyn Fn() + Send>,
    stopped: bool,
    stop_limit: Duration,
}

impl Supervisor {
    /// A supervisor of `ports` and the handle that stops it. `counters` writes them to the log.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(
        ports: Vec<Port>,
        handle_signals: bool,
        counters: Box<dyn Fn() + Send>,
    ) -> io::Result<(Self, StopHandle)> {
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let handle = StopHandle(stop.try_clone()?);
        let signals = if handle_signals { Some(SignalSource::new()?) } else { None };
        let supervisor =
            Self { ports, stop, signals, listening: None, counters, stopped: false, stop_limit: STOP_LIMIT };
        Ok((supervisor, handle))
    }

    /// The same, which stops `listening` too, at the same time as the ports.
    #[must_use]
    pub fn with_listening(self, listening: Option<Arc<Listening>>) -> Self {
        Self { listening, ..self }
    }

    /// Serves until it is stopped; then closes connections and removes sockets.
    ///
    /// # Errors
    /// The event loop cannot be made or fails; connections and sockets are gone all the same.
    pub fn run(self) -> io::Result<()> {
        let mut manager = EventManager::<Self>::new()
            .map_err(|cause| io::Error::other(format!("cannot make an event loop: {cause:?}")))?;
        let id = manager.add_subscriber(self);
        let mut outcome = Ok(());
        while manager.subscriber_mut(id).is_ok_and(|supervisor| !supervisor.stopped) {
            if let Err(event_manager::Error::Epoll(cause)) = manager.run()
                && cause.errno() != Errno::INTR.raw_os_error()
            {
                outcome = Err(io::Error::other(format!("the event loop failed: {cause}")));
                break;
            }
        }
        if let Ok(mut supervisor) = manager.remove_subscriber(id) {
            supervisor.close();
            (supervisor.counters)();
        }
        outcome
    }

    /// Ends all connections. One that hangs takes no time from the others: all are asked first, then waited for together.
    fn close(&mut self) {
        self.ports.iter().for_each(Port::end);
        if let Some(listening) = &self.listening {
            listening.end();
        }
        let deadline = Instant::now() + self.stop_limit;
        for port in &mut self.ports {
            port.wait_for_end(deadline);
        }
    }

    fn on_signal(&mut self) {
        while let Some(signal) = self.signals.as_ref().and_then(SignalSource::next) {
            match signal {
                Signal::Stop => {
                    service_manager::stopping();
                    self.stopped = true;
                }
                Signal::Counters => (self.counters)(),
            }
        }
    }

    fn on_port(&mut self, event: PortEvent, index: usize, ops: &mut EventOps<'_>) {
        let Some(port) = self.ports.get_mut(index) else { return };
        let listening = Events::with_data(&port.socket, PortEvent::Listen.data(index), EventSet::IN);
        match event {
            PortEvent::Listen => {
                port.timer.clear();
                match port.accept() {
                    Ok(()) => {}
                    Err(cause) => {
                        error!("{}: cannot serve a front end: {cause}", port.name());
                        port.timer.set(BREATHER);
                        port.is_held_up = true;
                    }
                }
                if port.running.is_some() || port.is_held_up {
                    watch(ops.remove(listening));
                }
            }
            PortEvent::Ended => {
                let _ = port.ended.read();
                if let Some(running) = port.running.take() {
                    let _ = running.thread.join();
                }
                if port.protocol.can_reconnect() {
                    port.timer.set(LINGER);
                }
                watch(ops.add(listening));
            }
            PortEvent::Timer => {
                if !port.timer.has_expired() {
                    return;
                }
                if std::mem::take(&mut port.is_held_up) {
                    watch(ops.add(listening));
                    if port.protocol.can_reconnect() {
                        // From now on: what the device remembers was kept meanwhile.
                        port.timer.set(LINGER);
                    }
                } else if port.running.is_none() {
                    port.device.reset();
                    info!("{}: no front end came back; its state is dropped", port.name());
                }
            }
        }
    }
}

/// Registration fails only if descriptors run out; the supervisor goes on with what it has.
fn watch(registered: Result<(), event_manager::Error>) {
    if let Err(cause) = registered {
        error!("cannot change what the supervisor watches: {cause:?}");
    }
}

impl MutEventSubscriber for Supervisor {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops.add(Events::with_data(&self.stop, STOP, EventSet::IN)));
        if let Some(signals) = &self.signals {
            watch(ops.add(Events::with_data_raw(signals.as_raw_fd(), SIGNAL, EventSet::IN)));
        }
        for (index, port) in self.ports.iter().enumerate() {
            watch(ops.add(Events::with_data(&port.socket, PortEvent::Listen.data(index), EventSet::IN)));
            watch(ops.add(Events::with_data(&port.ended, PortEvent::Ended.data(index), EventSet::IN)));
            watch(ops.add(Events::with_data(&port.timer, PortEvent::Timer.data(index), EventSet::IN)));
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            STOP => self.stopped = true,
            SIGNAL => self.on_signal(),
            data => {
                if let Some((event, index)) = PortEvent::from_data(data) {
                    self.on_port(event, index, ops);
                }
            }
        }
    }
}
