use std::io::{Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Barrier, Mutex};

use virtio_9p::{Options, Passthrough, PassthroughOptions, Server};
use zerocopy::IntoBytes;

use super::*;
use crate::listen::{Clients, ListenAddress, ListenLimits, ListenPort, Listener};
use crate::transport::idle::Idle;
use crate::transport::vfio_user::wire::Header;

/// A bound, not an expectation.
const PATIENCE: Duration = Duration::from_secs(60);

/// A supervisor of one idle device, which `prepare` sees before it runs, and clients of it.
struct Scene {
    folder: tempfile::TempDir,
    stop: StopHandle,
    thread: JoinHandle<io::Result<()>>,
    resets: mpsc::Receiver<()>,
}

impl Scene {
    fn new(is_refused: bool, prepare: impl FnOnce(&mut Port, &std::path::Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (sender, resets) = mpsc::channel();
        let sender = Mutex::new(sender);
        let device = Idle::new(move || {
            let _ = sender.lock().unwrap().send(());
        });
        device.is_refused.store(is_refused, Ordering::Relaxed);
        let mut port = Port::new(Arc::new(device), BoundSocket::bind(&path).unwrap(), Protocol::VfioUser).unwrap();
        prepare(&mut port, &path);
        let (supervisor, stop) = Supervisor::new(vec![port], false, Box::new(|| {})).unwrap();
        let thread = std::thread::spawn(move || supervisor.run());
        Self { folder, stop, thread, resets }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("s")).unwrap()
    }

    /// The supervisor still does what it is asked.
    fn stop(self) {
        self.stop.stop();
        self.end().unwrap();
    }

    /// How the supervisor ends.
    fn end(self) -> io::Result<()> {
        ended(self.thread)
    }
}

/// What the supervisor on `thread` ended with.
fn ended(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    let (done, told) = mpsc::channel();
    std::thread::spawn(move || done.send(thread.join().unwrap()));
    told.recv_timeout(PATIENCE).expect("the supervisor hangs")
}

/// A client that has been given up reads the end of its stream.
fn is_cut_off(mut client: &UnixStream) -> bool {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.read(&mut [0]).unwrap() == 0
}

#[test]
fn a_front_end_that_comes_when_the_wait_for_it_is_over_holds_nothing_up() {
    let mut client = None;
    let scene = Scene::new(false, |port, path| {
        // Both are news at the supervisor's first look.
        client = Some(UnixStream::connect(path).unwrap());
        port.timer.set(Duration::from_nanos(1));
        let expired = rustix::event::PollFd::from_borrowed_fd(port.timer.as_fd(), rustix::event::PollFlags::IN);
        assert_eq!(rustix::event::poll(&mut [expired], None), Ok(1));
    });
    drop(client);
    // Its end is seen: the supervisor has got past both.
    scene.resets.recv_timeout(PATIENCE).unwrap();
    scene.stop();
}

#[test]
fn after_a_front_end_that_could_not_be_served_the_next_one_is() {
    let scene = Scene::new(true, |_, _| {});
    assert!(is_cut_off(&scene.connect()));
    drop(scene.connect());
    scene.resets.recv_timeout(PATIENCE).unwrap();
    scene.stop();
}

#[test]
fn a_stop_asks_other_clients_to_end_before_it_waits_for_a_front_end() {
    let folder = tempfile::tempdir().unwrap();
    let (near, far) = (folder.path().join("near"), folder.path().join("far"));
    let address = ListenAddress::Unix(far.clone());
    let files = Passthrough::new(folder.path(), PassthroughOptions::default()).unwrap();
    let streams = ListenPort::new("files".to_owned(), Listener::bind(&address).unwrap(), move || {
        Arc::new(Server::new(files.for_another_session(), Options::default()))
    });
    let patient = ListenLimits { message: 2 * PATIENCE, ..ListenLimits::default() };
    let clients = Arc::new(Clients::new(patient));
    let listening = Arc::new(Listening::start(vec![streams], clients).unwrap());
    // The front end's connection ends when the other client's has.
    let other = UnixStream::connect(&far).unwrap();
    let device = Idle::new(move || {
        let _ = (&other).read(&mut [0]);
    });
    let port = Port::new(Arc::new(device), BoundSocket::bind(&near).unwrap(), Protocol::VfioUser).unwrap();
    let (supervisor, stop) = Supervisor::new(vec![port], false, Box::new(|| {})).unwrap();
    let mut supervisor = supervisor.with_listening(Some(listening));
    supervisor.stop_limit = 2 * PATIENCE;
    let thread = std::thread::spawn(move || supervisor.run());
    let front_end = UnixStream::connect(&near).unwrap();
    ask(&front_end);
    stop.stop();
    ended(thread).unwrap();
}

/// The descriptor of the event loop that watches all of `watched`, once there is one.
fn event_loop_of(watched: &[RawFd]) -> RawFd {
    let watched_in = |line: &str| line.strip_prefix("tfd:")?.split_whitespace().next()?.parse::<RawFd>().ok();
    loop {
        for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten() {
            // Other tests close theirs meanwhile.
            let Ok(info) = std::fs::read_to_string(entry.path()) else { continue };
            let found: Vec<_> = info.lines().filter_map(watched_in).collect();
            if watched.iter().all(|fd| found.contains(fd)) {
                return entry.file_name().to_str().unwrap().parse().unwrap();
            }
        }
        std::thread::yield_now();
    }
}

/// A message that is answered, and the wait for the answer: the client's connection is served.
fn ask(mut client: &UnixStream) {
    let message = Header { command: u16::MAX.into(), size: 16.into(), ..Header::default() };
    client.write_all(message.as_bytes()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.read_exact(&mut [0; Header::SIZE]).unwrap();
}

#[test]
fn a_stop_asks_all_connections_to_end_before_it_waits_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let all_end = Arc::new(Barrier::new(3));
    let paths = [0, 1, 2].map(|number| folder.path().join(number.to_string()));
    let ports = paths.each_ref().map(|path| {
        // No connection ends before all do.
        let all_end = all_end.clone();
        let device = Idle::new(move || {
            all_end.wait();
        });
        Port::new(Arc::new(device), BoundSocket::bind(path).unwrap(), Protocol::VfioUser).unwrap()
    });
    let (mut supervisor, stop) = Supervisor::new(ports.into(), false, Box::new(|| {})).unwrap();
    supervisor.stop_limit = 2 * PATIENCE;
    let thread = std::thread::spawn(move || supervisor.run());
    let clients = paths.each_ref().map(|path| UnixStream::connect(path).unwrap());
    clients.iter().for_each(ask);
    stop.stop();
    ended(thread).unwrap();
}

#[test]
fn an_event_loop_that_fails_is_no_orderly_end() {
    let mut watched = Vec::new();
    let scene = Scene::new(false, |port, _| watched.extend([port.timer.as_raw_fd(), port.ended.as_raw_fd()]));
    // SAFETY: the supervisor's descriptor stays open, and stays the supervisor's to close.
    let mut event_loop = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(event_loop_of(&watched)) });
    rustix::io::dup2(std::fs::File::open("/dev/null").unwrap(), &mut event_loop).unwrap();
    // If it waits in the one that it had, it does so until there is something to do.
    let _client = UnixStream::connect(scene.folder.path().join("s"));
    let cause = scene.end().unwrap_err().to_string();
    assert!(cause.contains("the event loop failed"), "{cause}");
}
