//! The two device models. Each is a [`Device`](crate::transport::Device) and knows nothing of sockets.

pub mod iommu;
mod mechanisms;
mod poll;
pub mod share;
pub(crate) mod throttle;

pub use mechanisms::Mechanisms;
pub use poll::PollPolicy;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ring::Ring;
use crate::transport::Interrupt;

/// What the thread that serves a device's queues works with. That thread may hold it for long, because it polls;
/// whoever else wants it says so first.
struct Shared<W> {
    worker: Mutex<W>,
    waiting: AtomicU32,
}

impl<W> Shared<W> {
    fn new(worker: W) -> Self {
        Self { worker: Mutex::new(worker), waiting: AtomicU32::new(0) }
    }

    /// For the thread that serves the queues.
    fn serve(&self) -> MutexGuard<'_, W> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `work` with the worker until it says that nothing is left, and lets [`Shared::control`] in between.
    fn serve_while(&self, mut work: impl FnMut(&mut W) -> Left) {
        while work(&mut self.serve()) == Left::Some {
            while self.is_wanted() {
                std::thread::yield_now();
            }
        }
    }

    /// For every other thread: the serving one finishes the requests in hand and gives way.
    fn control(&self) -> MutexGuard<'_, W> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let worker = self.serve();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        worker
    }

    /// Whether somebody waits for [`Shared::control`].
    fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }
}

/// Whether a thread that stopped serving a queue has left work in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// The queue is empty, and the driver will kick.
    Nothing,
    /// There is work, and no kick will tell of it.
    Some,
}

/// A running queue.
struct Queue {
    ring: Ring,
    interrupt: Arc<dyn Interrupt>,
    /// The ring contradicted itself; it is left alone until a driver starts it anew.
    broken: bool,
    /// Calls to `service` that found nothing, before anything was ever found.
    empty_kicks: u32,
}

impl Queue {
    fn new(ring: Ring, interrupt: Arc<dyn Interrupt>) -> Self {
        Self { ring, interrupt, broken: false, empty_kicks: 0 }
    }

    /// Whether it is time to say that the guest's kicks do not match what the daemon sees in the ring. After the empty
    /// calls that a transport makes when a queue starts, the next one is a kick by a driver that added entries.
    fn looks_unshared(&mut self) -> bool {
        self.empty_kicks = self.empty_kicks.saturating_add(1);
        self.empty_kicks == self.interrupt.start_calls() + 1 && self.ring.next_avail() == 0
    }
}
