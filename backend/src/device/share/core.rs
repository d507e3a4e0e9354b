//! What the queue's thread and the workers share: the server, and the requests that workers have finished.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use virtio_9p::{Ended, FileSystem, Server, Started};

use super::wake::Wake;

/// Work for a worker.
pub(super) enum Job<F: FileSystem> {
    /// Answer a request.
    Answer(Copied),
    /// Try the parked locks, on a file system where that may take long.
    TryLocks,
    /// Close the files of a session that is over, likewise.
    Close(Ended<F>),
}

/// A request and the room for its reply, in memory of the daemon: however long it takes, no page of the guest is held.
pub(super) struct Copied {
    pub(super) ticket: u64,
    pub(super) request: Vec<u8>,
    pub(super) reply: Vec<u8>,
}

/// What a worker has done.
pub(super) struct Finished {
    /// The request, with its reply at the start of its room.
    pub(super) copied: Copied,
    pub(super) started: Started,
}

/// See the module.
pub(super) struct Core<F: FileSystem> {
    pub(super) server: Server<F>,
    pub(super) wake: Wake,
    finished: Mutex<Vec<Finished>>,
    /// A worker has done something since the queue's thread last collected. Set while `finished` is locked.
    any: AtomicBool,
    news: Condvar,
    /// A worker tries the parked locks, or is about to.
    trying: AtomicBool,
}

impl<F: FileSystem> Core<F> {
    pub(super) fn new(server: Server<F>) -> io::Result<Self> {
        let (finished, news) = (Mutex::default(), Condvar::new());
        let [any, trying] = [false; 2].map(AtomicBool::new);
        Ok(Self { server, wake: Wake::new()?, finished, any, news, trying })
    }

    /// What a worker does.
    pub(super) fn work(&self, job: Job<F>) {
        let done = match job {
            Job::Answer(mut copied) => {
                let Copied { ticket, request, reply } = &mut copied;
                let started = self.server.start_bytes(request, reply, *ticket);
                Some(Finished { copied, started })
            }
            Job::TryLocks => {
                self.server.retry_parked();
                self.trying.store(false, Ordering::Release);
                None
            }
            Job::Close(ended) => return self.server.close(ended),
        };
        let mut finished = self.lock();
        finished.extend(done);
        self.any.store(true, Ordering::Release);
        drop(finished);
        self.news.notify_all();
        self.wake.now();
    }

    /// Whether a worker is to be given [`Job::TryLocks`]: one at a time, since the file system may keep it.
    pub(super) fn begins_trying(&self) -> bool {
        !self.trying.swap(true, Ordering::AcqRel)
    }

    /// Whether there is something to collect.
    #[inline]
    pub(super) fn has_finished(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Takes what is finished.
    pub(super) fn take_finished(&self) -> Vec<Finished> {
        let mut finished = self.lock();
        self.any.store(false, Ordering::Relaxed);
        std::mem::take(&mut *finished)
    }

    /// Waits until there is something to collect; false if `until` passed first.
    pub(super) fn wait_finished(&self, until: Instant) -> bool {
        let mut finished = self.lock();
        while !self.has_finished() {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return false };
            finished = self.news.wait_timeout(finished, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Finished>> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
