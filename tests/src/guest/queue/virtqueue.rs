//! A ring together with its doorbell and its interrupt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ring::{IndirectTable, QueueError, Segment, SplitQueue, Used};
use crate::guest::transport::Doorbell;

/// Looks that follow each other closely, for answers that come at once.
const CLOSE_LOOKS: u32 = 128;
/// Pauses between two later ones: the device may run on the other thread of the same core, from which a thread that looks
/// all the time takes a tenth.
const LATER_PAUSES: u32 = 8;
/// Looks before the processor is offered to others.
const LOOKS: u32 = 500;

fn pause(times: u32) {
    (0..times).for_each(|_| std::hint::spin_loop());
}

/// How a driver waits for the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waiting {
    /// Look at the used index until it moves, with interrupts suppressed, as Linux' virtio-iommu
    /// driver does.
    Poll,
    /// Sleep until the device interrupts, as Linux' 9P driver does.
    #[default]
    Interrupt,
}

/// A virtqueue in use: ring, doorbell, interrupt.
#[derive(Debug)]
pub struct VirtQueue {
    ring: SplitQueue,
    doorbell: Arc<dyn Doorbell>,
    waiting: Waiting,
    timeout: Duration,
    kicks: u64,
}

impl VirtQueue {
    /// How long a device may take before [`QueueError::Timeout`], unless told otherwise.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

    /// Join `ring` to the doorbell that its transport gave.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn new(ring: SplitQueue, doorbell: Arc<dyn Doorbell>, waiting: Waiting) -> Result<Self, QueueError> {
        let mut queue = Self { ring, doorbell, waiting, timeout: Self::DEFAULT_TIMEOUT, kicks: 0 };
        queue.apply_waiting()?;
        Ok(queue)
    }

    /// Change how long the device may take.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// The ring, for hostile tests and statistics.
    pub fn ring(&mut self) -> &mut SplitQueue {
        &mut self.ring
    }

    /// Notifications sent so far.
    #[must_use]
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Forget all requests and zero the ring.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn reset(&mut self) -> Result<(), QueueError> {
        self.ring.reset()?;
        self.apply_waiting()
    }

    /// Use another doorbell, after the transport started the queue again.
    pub fn set_doorbell(&mut self, doorbell: Arc<dyn Doorbell>) {
        self.doorbell = doorbell;
    }

    /// [`SplitQueue::add_indirect`] with a table, [`SplitQueue::add`] without one.
    ///
    /// # Errors
    /// As those.
    pub fn add(&mut self, segments: &[Segment], table: Option<IndirectTable>) -> Result<u16, QueueError> {
        match table {
            Some(table) => self.ring.add_indirect(segments, table),
            None => self.ring.add(segments),
        }
    }

    /// Make what was added visible without notifying the device.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn publish(&mut self) -> Result<(), QueueError> {
        self.ring.publish()
    }

    /// Make what was added visible and notify the device if it wants to be. Returns whether it was
    /// notified.
    ///
    /// # Errors
    /// [`QueueError::Notify`] or [`QueueError::Memory`].
    pub fn kick(&mut self) -> Result<bool, QueueError> {
        self.ring.publish()?;
        let needed = self.ring.needs_kick()?;
        if needed {
            self.force_kick()?;
        }
        Ok(needed)
    }

    /// Notify the device whether it wants to be or not.
    ///
    /// # Errors
    /// [`QueueError::Notify`].
    pub fn force_kick(&mut self) -> Result<(), QueueError> {
        self.kicks += 1;
        Ok(self.doorbell.ring()?)
    }

    /// Take back one request if there is one.
    ///
    /// # Errors
    /// As [`SplitQueue::take_used`].
    pub fn try_take(&mut self) -> Result<Option<Used>, QueueError> {
        self.ring.take_used()
    }

    /// Wait for one request and take it back.
    ///
    /// # Errors
    /// As [`SplitQueue::take_used`], and [`QueueError::Timeout`].
    pub fn take(&mut self) -> Result<Used, QueueError> {
        self.take_within(self.timeout)?.ok_or(QueueError::Timeout(self.timeout))
    }

    /// Wait for one request at most `timeout`, and take it back.
    ///
    /// # Errors
    /// As [`SplitQueue::take_used`].
    pub fn take_within(&mut self, timeout: Duration) -> Result<Option<Used>, QueueError> {
        if let Some(used) = self.ring.take_used()? {
            return Ok(Some(used));
        }
        let deadline = Instant::now() + timeout;
        match self.waiting {
            Waiting::Poll => self.poll_until(deadline),
            Waiting::Interrupt => self.sleep_until(deadline),
        }
    }

    fn poll_until(&mut self, deadline: Instant) -> Result<Option<Used>, QueueError> {
        let mut looks = 0;
        loop {
            if let Some(used) = self.ring.take_used()? {
                return Ok(Some(used));
            }
            if looks < LOOKS {
                looks += 1;
                pause(if looks < CLOSE_LOOKS { 1 } else { LATER_PAUSES });
            } else if Instant::now() >= deadline {
                return Ok(None);
            } else {
                std::thread::yield_now();
                pause(4 * LATER_PAUSES);
            }
        }
    }

    fn sleep_until(&mut self, deadline: Instant) -> Result<Option<Used>, QueueError> {
        loop {
            if !self.ring.enable_interrupts()? {
                let left = deadline.saturating_duration_since(Instant::now());
                if !self.doorbell.wait(left)? && Instant::now() >= deadline {
                    return self.ring.take_used();
                }
            }
            if let Some(used) = self.ring.take_used()? {
                return Ok(Some(used));
            }
        }
    }

    fn apply_waiting(&mut self) -> Result<(), QueueError> {
        match self.waiting {
            Waiting::Poll => self.ring.disable_interrupts(),
            Waiting::Interrupt => self.ring.enable_interrupts().map(drop),
        }
    }
}
