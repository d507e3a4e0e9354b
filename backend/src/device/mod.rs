//! The two device models. Each is a [`Device`](crate::transport::Device) and knows nothing of sockets.

pub mod iommu;
pub mod share;
mod throttle;

use std::sync::Arc;

use crate::ring::Ring;
use crate::transport::Interrupt;

/// Calls to serve a queue that come from its start and not from a driver.
const START_KICKS: u32 = 2;

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

    /// Whether it is time to say that the guest's kicks do not match what the daemon sees in the ring. Transport and
    /// front end each make one empty call when a queue starts; the next one is a kick by a driver that added entries.
    fn looks_unshared(&mut self) -> bool {
        self.empty_kicks = self.empty_kicks.saturating_add(1);
        self.empty_kicks == START_KICKS + 1 && self.ring.next_avail() == 0
    }
}
