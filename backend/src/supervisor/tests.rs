use std::io::Read;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::memory::GuestRam;
use crate::ring::RingLayout;
use crate::transport::{Identity, Interrupt};

/// A bound, not an expectation.
const PATIENCE: Duration = Duration::from_secs(60);

/// A device without anything to do, which cannot be served once if it says so.
struct Idle {
    identity: Identity,
    is_refused: AtomicBool,
    resets: Mutex<mpsc::Sender<()>>,
}

impl Device for Idle {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn features(&self) -> u64 {
        0
    }

    fn ack_features(&self, _: u64) {}

    fn read_config(&self, _: u32, bytes: &mut [u8]) {
        bytes.fill(0);
    }

    fn write_config(&self, _: u32, _: &[u8]) {}

    fn set_memory(&self, _: Arc<GuestRam>) {}

    fn activate(&self, _: usize, _: RingLayout, _: u16, _: Arc<dyn Interrupt>) {}

    fn is_active(&self, _: usize) -> bool {
        false
    }

    fn stop(&self, _: usize) -> Option<u16> {
        None
    }

    fn service(&self, _: usize) {}

    fn wake_fd(&self) -> Option<RawFd> {
        // No epoll takes -1.
        self.is_refused.swap(false, Ordering::Relaxed).then_some(-1)
    }

    fn reset(&self) {
        let _ = self.resets.lock().unwrap().send(());
    }
}

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
        let identity = Identity { name: "idle".to_owned(), virtio_id: 9, queue_sizes: vec![8] };
        let device = Idle { identity, is_refused: AtomicBool::new(is_refused), resets: Mutex::new(sender) };
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
        let (done, told) = mpsc::channel();
        let thread = self.thread;
        std::thread::spawn(move || done.send(thread.join().unwrap()));
        told.recv_timeout(PATIENCE).expect("the supervisor hangs")
    }
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
