//! The two device models. Each is a [`Device`](crate::transport::Device) and knows nothing of sockets.

pub mod iommu;
mod mechanisms;
mod poll;
pub mod share;
mod side_core;
pub(crate) mod throttle;

pub use mechanisms::Mechanisms;
pub use poll::PollPolicy;
pub use side_core::SideCore;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use self::side_core::Visit;
use crate::ring::{Ring, RingError};
use crate::transport::Interrupt;

/// What a thread that serves a device's queues works with. Such threads hold it for some requests at a time and take it
/// again at once; whoever else wants it says so first.
struct Shared<W> {
    worker: Mutex<W>,
    waiting: AtomicU32,
}

impl<W> Shared<W> {
    fn new(worker: W) -> Self {
        Self { worker: Mutex::new(worker), waiting: AtomicU32::new(0) }
    }

    /// For a thread that serves the queues: nothing if another one does, or if somebody waits for [`Shared::control`].
    fn serve(&self) -> Option<MutexGuard<'_, W>> {
        if self.is_wanted() { None } else { self.look() }
    }

    /// Does not wait.
    fn look(&self) -> Option<MutexGuard<'_, W>> {
        match self.worker.try_lock() {
            Ok(worker) => Some(worker),
            Err(TryLockError::Poisoned(worker)) => Some(worker.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// For every other thread: the serving one finishes the requests in hand and gives way. Afterwards the caller sees to
    /// it that somebody looks at the queues again.
    fn control(&self) -> MutexGuard<'_, W> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        worker
    }

    /// Whether somebody waits for [`Shared::control`].
    fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }
}

/// A running queue.
struct Queue {
    ring: Ring,
    interrupt: Arc<dyn Interrupt>,
    standing: Standing,
    /// Calls to `service` that found nothing, before anything was ever found.
    empty_kicks: u32,
}

/// Whether a ring can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Good,
    /// It could not be reached, as may be for a while: guest memory is replaced region by region, and a translated ring is
    /// mapped by a driver. It is tried again when its device is woken, and when guest memory changes.
    OutOfReach,
    /// It contradicted itself: it is left alone until a driver starts it anew.
    Broken,
}

impl Queue {
    fn new(ring: Ring, interrupt: Arc<dyn Interrupt>) -> Self {
        Self { ring, interrupt, standing: Standing::Good, empty_kicks: 0 }
    }

    fn is_usable(&self) -> bool {
        self.standing == Standing::Good
    }

    /// A visit that something was the reason for tries a ring again that was out of reach.
    fn visited(&mut self, visit: Visit) {
        if !matches!(visit, Visit::Poll(_)) {
            self.try_again();
        }
    }

    /// What kept the ring out of reach may be gone.
    fn try_again(&mut self) {
        if self.standing == Standing::OutOfReach {
            self.standing = Standing::Good;
        }
    }

    /// Leaves the ring alone, for as long as `cause` calls for.
    fn set_aside(&mut self, cause: RingError) {
        self.standing = match cause {
            RingError::Fault(_) => Standing::OutOfReach,
            RingError::AvailIndex { .. } => {
                self.interrupt.break_down();
                Standing::Broken
            }
        };
    }

    /// Whether it is time to say that the guest's kicks do not match what the daemon sees in the ring. After the empty
    /// calls that a transport makes when a queue starts, the next one is a kick by a driver that added entries.
    fn looks_unshared(&mut self) -> bool {
        self.empty_kicks = self.empty_kicks.saturating_add(1);
        self.empty_kicks == self.interrupt.start_calls() + 1 && self.ring.next_avail() == 0
    }
}
