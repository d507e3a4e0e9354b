//! What may have to wait for a queue, done in order on a thread of its own.
//!
//! A change of guest memory, a reset and the start of a queue wait for the request in hand, which may be inside a slow
//! file system. Meanwhile the client's other commands are answered: a driver sees a reset by the status that stays until
//! it is done, and a client hears of an unmap when no access can use the memory any more.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::channel::Channel;
use super::doorbells::Doorbells;
use super::interrupts::{Interrupts, QueueInterrupt};
use super::wire::Header;
use crate::memory::GuestRam;
use crate::ring::RingLayout;
use crate::transport::{Device, settle};

/// Jobs that may wait; a client that sends more waits itself.
const WAITING: usize = 256;
/// Bytes of device configuration that are kept; no device has more.
const CONFIG: usize = 256;

/// A reply that is sent when the job is done: header and payload. `None` where the client wants none.
pub(super) type Reply = Option<(Header, Vec<u8>)>;

/// Something to do.
pub(super) enum Job {
    /// Use this memory, and only this, from now on.
    Memory(Arc<GuestRam>, Reply),
    /// Stop all queues and forget the driver.
    Reset(Reply),
    /// The driver accepted these features.
    Accept(u64),
    /// Start a queue at its beginning.
    Start(usize, RingLayout),
    /// The driver wrote these bytes to the device's configuration.
    Configure(u32, Vec<u8>, Reply),
}

/// What the other threads see of the lane.
pub(super) struct Progress {
    /// Resets that have begun and are not done.
    resets: AtomicU32,
    /// The device's configuration as of the last change.
    config: Mutex<[u8; CONFIG]>,
    /// Queues that run.
    running: Vec<AtomicBool>,
    /// Queues that were kicked before they ran.
    early: Vec<AtomicBool>,
}

impl Progress {
    /// A reset is on its way.
    pub(super) fn is_resetting(&self) -> bool {
        self.resets.load(Ordering::Acquire) != 0
    }

    /// Fills `buffer` from the device's configuration at `offset`; zeros beyond it.
    pub(super) fn read_config(&self, offset: usize, buffer: &mut [u8]) {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let tail = config.get(offset..).unwrap_or_default();
        let len = tail.len().min(buffer.len());
        buffer[..len].copy_from_slice(&tail[..len]);
        buffer[len..].fill(0);
    }

    /// A kick of `queue` has come: whether to serve it. One that comes before the queue runs is remembered.
    pub(super) fn kicked(&self, queue: usize) -> bool {
        let (Some(running), Some(early)) = (self.running.get(queue), self.early.get(queue)) else { return false };
        if !running.load(Ordering::SeqCst) {
            early.store(true, Ordering::SeqCst);
        }
        // Looked at again: the queue may have started in between, without a look at what was just stored.
        running.load(Ordering::SeqCst)
    }
}

/// The lane. Dropping it finishes what waits.
pub(super) struct Lane {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    pub(super) progress: Arc<Progress>,
}

impl Lane {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn start(
        device: Arc<dyn Device>,
        channel: Arc<Channel>,
        interrupts: Arc<Interrupts>,
        doorbells: Arc<Doorbells>,
    ) -> std::io::Result<Self> {
        let queues = device.identity().queue_sizes.len();
        let mut config = [0; CONFIG];
        device.read_config(0, &mut config);
        let progress = Arc::new(Progress {
            resets: AtomicU32::new(0),
            config: Mutex::new(config),
            running: std::iter::repeat_with(|| AtomicBool::new(false)).take(queues).collect(),
            early: std::iter::repeat_with(|| AtomicBool::new(false)).take(queues).collect(),
        });
        let (sender, jobs) = sync_channel(WAITING);
        let worker = Worker { device, channel, interrupts, doorbells, progress: Arc::clone(&progress) };
        let thread = std::thread::Builder::new().name("vfio-user lane".to_owned()).spawn(move || worker.run(&jobs))?;
        Ok(Self { jobs: Some(sender), thread: Some(thread), progress })
    }

    /// Puts a job behind those that wait.
    pub(super) fn put(&self, job: Job) {
        if matches!(job, Job::Reset(_)) {
            self.progress.resets.fetch_add(1, Ordering::AcqRel);
        }
        if let Some(jobs) = &self.jobs {
            // The other end lives as long as this one.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    device: Arc<dyn Device>,
    channel: Arc<Channel>,
    interrupts: Arc<Interrupts>,
    doorbells: Arc<Doorbells>,
    progress: Arc<Progress>,
}

impl Worker {
    fn run(&self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Memory(ram, reply) => {
                    self.device.set_memory(ram);
                    self.reply(reply);
                }
                Job::Reset(reply) => {
                    self.stop_queues();
                    self.device.reset();
                    settle(&*self.device, || self.channel.is_over());
                    self.interrupts.forget_queues();
                    self.progress.resets.fetch_sub(1, Ordering::AcqRel);
                    self.reply(reply);
                }
                Job::Accept(features) => self.device.ack_features(features),
                Job::Start(queue, layout) => {
                    let interrupt = Arc::new(QueueInterrupt::new(&self.interrupts, queue));
                    self.device.activate(queue, layout, 0, interrupt);
                    self.progress.running[queue].store(true, Ordering::SeqCst);
                    if self.progress.early[queue].swap(false, Ordering::SeqCst) {
                        self.doorbells.ring(queue);
                    }
                }
                Job::Configure(offset, bytes, reply) => {
                    self.device.write_config(offset, &bytes);
                    let mut config = [0; CONFIG];
                    self.device.read_config(0, &mut config);
                    *self.progress.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
                    self.reply(reply);
                }
            }
        }
        self.stop_queues();
    }

    fn stop_queues(&self) {
        for (queue, running) in self.progress.running.iter().enumerate() {
            // An early kick stays: it may be meant for the start that waits behind this reset, and costs at most one look
            // at an empty ring.
            running.store(false, Ordering::SeqCst);
            self.device.stop(queue);
        }
    }

    fn reply(&self, reply: Reply) {
        if let Some((header, payload)) = reply {
            self.channel.reply(&header, &[&payload], &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use super::super::doorbells::Service;
    use super::*;
    use crate::transport::idle::Idle;
    use crate::transport::{Identity, Interrupt};

    /// A bound, not an expectation.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A device that tells what is asked of it, and takes new memory only when it is let.
    struct Told {
        identity: Identity,
        said: Mutex<Sender<&'static str>>,
        gate: Mutex<Receiver<()>>,
    }

    impl Told {
        fn say(&self, what: &'static str) {
            // Whoever listened may be gone.
            let _ = self.said.lock().unwrap().send(what);
        }
    }

    impl Device for Told {
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

        fn set_memory(&self, _: Arc<GuestRam>) {
            // A test that fails does not open it.
            let _ = self.gate.lock().unwrap().recv_timeout(PATIENCE);
        }

        fn activate(&self, _: usize, _: RingLayout, _: u16, _: Arc<dyn Interrupt>) {
            self.say("activate");
        }

        fn stop(&self, _: usize) -> Option<u16> {
            None
        }

        fn service(&self, _: usize) {
            self.say("service");
        }

        fn reset(&self) {
            self.say("reset");
        }
    }

    #[test]
    fn a_reset_is_answered_when_nothing_uses_what_it_took_away() {
        let ((asked, looks), (done, told)) = (channel(), channel());
        let (stream, mut client) = UnixStream::pair().unwrap();
        let is_done = Arc::new(AtomicBool::new(false));
        let (settled, asked) = (is_done.clone(), Mutex::new(asked));
        let device = Arc::new(Idle::new(|| {}).settling(move || {
            let _ = asked.lock().unwrap().send(());
            settled.load(Ordering::Relaxed)
        }));
        let channel = Arc::new(Channel::new(stream));
        let doorbells = Doorbells::new(1).unwrap();
        let lane = Lane::start(device, channel.clone(), Interrupts::new(1), doorbells).unwrap();
        let reset = || Job::Reset(Some((Header::default(), Vec::new())));
        lane.put(reset());
        for _ in 0..3 {
            looks.recv_timeout(PATIENCE).unwrap();
        }
        assert!(lane.progress.is_resetting(), "it was said to be done");
        is_done.store(true, Ordering::Relaxed);
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.read_exact(&mut [0; Header::SIZE]).unwrap();
        assert!(!lane.progress.is_resetting());

        // A client that has left waits for nothing.
        is_done.store(false, Ordering::Relaxed);
        lane.put(reset());
        channel.shut_down();
        std::thread::spawn(move || {
            drop(lane);
            done.send(()).unwrap();
        });
        told.recv_timeout(PATIENCE).expect("the lane does not end");
    }

    #[test]
    fn a_kick_before_a_reset_that_waits_is_served_after_the_start_behind_it() {
        let ((said, told), (open, gate)) = (channel(), channel());
        let identity = Identity { name: "told".to_owned(), virtio_id: 9, queue_sizes: vec![8] };
        let device: Arc<dyn Device> = Arc::new(Told { identity, said: Mutex::new(said), gate: Mutex::new(gate) });
        let (stream, _client) = UnixStream::pair().unwrap();
        let doorbells = Doorbells::new(1).unwrap();
        let lane =
            Lane::start(device.clone(), Arc::new(Channel::new(stream)), Interrupts::new(1), doorbells.clone()).unwrap();
        let _service = Service::start(device, doorbells, lane.progress.clone()).unwrap();
        // A driver's first life: it finds the status 0 while its reset still waits behind a change of memory, and goes on.
        lane.put(Job::Memory(GuestRam::empty(), None));
        lane.put(Job::Reset(None));
        lane.put(Job::Start(0, RingLayout { size: 8, descriptors: 0, avail: 0x1000, used: 0x2000, event_idx: false }));
        assert!(!lane.progress.kicked(0), "a queue that does not run was served");
        assert!(told.try_recv().is_err());
        open.send(()).unwrap();
        for expected in ["reset", "activate", "service"] {
            assert_eq!(told.recv_timeout(PATIENCE), Ok(expected));
        }
    }
}
