//! The device's half of a split virtqueue (virtio 1.2 §2.7), at addresses that may be IOVAs.
//!
//! The addresses, the size and the negotiated features come from the transport (for vhost-user: from the
//! `virtio_queue::Queue` that the front end configured); the accesses are ours, because each goes through a
//! [`Window`] and because a malformed chain must be told from a short one.

mod chain;
mod host;
#[cfg(test)]
mod tests;

pub use chain::{Buffer, Chain, ChainError};

use frontend_spec::virtio::{AVAIL_NO_INTERRUPT, USED_NO_NOTIFY};

use iommu_calgary::Access;

use self::host::HostRing;
use crate::dma::{DmaFault, Window};

/// Offset of the ring of heads in the available ring, and of elements in the used ring.
const RING_OFFSET: u64 = 4;

/// Where a virtqueue lies and how it was negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingLayout {
    /// Descriptor table, in the device's address space.
    pub descriptors: u64,
    /// Available ring (driver area).
    pub avail: u64,
    /// Used ring (device area).
    pub used: u64,
    /// Entries, a power of two.
    pub size: u16,
    /// `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_idx: bool,
}

impl RingLayout {
    /// Whether a device can run this ring: §2.7 alignments, a size that is a power of two, no wrap of the address space.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let fits = |base: u64, len: u64| base.checked_add(len).is_some();
        let size = u64::from(self.size);
        self.size.is_power_of_two()
            && self.descriptors.is_multiple_of(16)
            && self.avail.is_multiple_of(2)
            && self.used.is_multiple_of(4)
            && fits(self.descriptors, 16 * size)
            && fits(self.avail, RING_OFFSET + 2 * size + 2)
            && fits(self.used, RING_OFFSET + 8 * size + 2)
    }
}

/// A ring that cannot be used further until the driver starts it anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The available index is further ahead than the ring has entries.
    #[error("the driver's available index {avail} is more than the ring's size ahead of {next}")]
    AvailIndex {
        /// What the driver published.
        avail: u16,
        /// What the device would take next.
        next: u16,
    },
    /// The ring's own memory is not reachable.
    #[error("the ring at {:#x} is not reachable: {:?}", .0.address, .0.reason)]
    Fault(DmaFault),
}

impl From<DmaFault> for RingError {
    fn from(fault: DmaFault) -> Self {
        Self::Fault(fault)
    }
}

/// A running virtqueue, device side.
#[derive(Debug)]
pub struct Ring {
    layout: RingLayout,
    /// The ring's memory, where it can be reached by pointer.
    host: Option<HostRing>,
    next_avail: u16,
    next_used: u16,
    /// `next_used` when the driver was last considered for an interrupt.
    signalled: u16,
}

impl Ring {
    /// A ring whose layout [is valid](RingLayout::is_valid) and whose first `base` entries were consumed and completed before.
    ///
    /// The used index equals the available index there, because a device completes everything it has taken before
    /// it lets a ring be stopped.
    #[must_use]
    pub fn new(layout: RingLayout, base: u16) -> Self {
        Self { layout, host: None, next_avail: base, next_used: base, signalled: base }
    }

    /// Resolves the ring's memory once, so that its words are reached by pointer. Without effect behind an IOMMU.
    pub fn resolve_host(&mut self, window: &Window<'_>) {
        if self.host.is_none() {
            self.host = HostRing::resolve(window, &self.layout);
        }
    }

    /// Forgets what [`Ring::resolve_host`] found. Call it before guest memory is replaced.
    pub fn forget_host(&mut self) {
        self.host = None;
    }

    /// Where the ring lies.
    #[must_use]
    pub fn layout(&self) -> RingLayout {
        self.layout
    }

    /// Index of the next entry to take; what a transport reports when the ring stops.
    #[must_use]
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// How many entries the driver has made available and the device has not taken.
    ///
    /// # Errors
    /// The ring is not reachable, or the index is impossible.
    #[inline]
    pub fn pending(&self, window: &Window<'_>) -> Result<u16, RingError> {
        let avail = match &self.host {
            Some(host) => host.avail_index(),
            None => window.load_u16(self.layout.avail + 2)?,
        };
        let pending = avail.wrapping_sub(self.next_avail);
        if pending > self.layout.size {
            return Err(RingError::AvailIndex { avail, next: self.next_avail });
        }
        Ok(pending)
    }

    /// Takes the next head. Call only while [`Ring::pending`] says there is one.
    ///
    /// # Errors
    /// The ring is not reachable; nothing is taken then.
    #[inline]
    pub fn take(&mut self, window: &Window<'_>) -> Result<u16, RingError> {
        let slot = u64::from(self.next_avail & (self.layout.size - 1));
        let head = match &self.host {
            Some(host) => host.head(self.next_avail),
            None => window.load_u16(self.layout.avail + RING_OFFSET + 2 * slot)?,
        };
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(head)
    }

    /// Writes one used element; [`Ring::publish`] makes it visible.
    ///
    /// # Errors
    /// The ring is not reachable.
    #[inline]
    pub fn push_used(&mut self, window: &Window<'_>, head: u16, len: u32) -> Result<(), RingError> {
        if let Some(host) = &self.host {
            host.set_used_element(self.next_used, head, len);
        } else {
            let slot = u64::from(self.next_used & (self.layout.size - 1));
            let element = self.layout.used + RING_OFFSET + 8 * slot;
            window.store_u32(element, u32::from(head))?;
            window.store_u32(element + 4, len)?;
        }
        self.next_used = self.next_used.wrapping_add(1);
        Ok(())
    }

    /// Makes all pushed elements visible with one store of the used index.
    ///
    /// # Errors
    /// The ring is not reachable.
    #[inline]
    pub fn publish(&self, window: &Window<'_>) -> Result<(), RingError> {
        match &self.host {
            Some(host) => host.set_used_index(self.next_used),
            None => window.store_u16(self.layout.used + 2, self.next_used)?,
        }
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was published since the last call (§2.7.7, §2.7.10).
    ///
    /// # Errors
    /// The ring is not reachable.
    #[inline]
    pub fn wants_interrupt(&mut self, window: &Window<'_>) -> Result<bool, RingError> {
        let old = std::mem::replace(&mut self.signalled, self.next_used);
        if old == self.next_used {
            return Ok(false);
        }
        // The used index must be visible before the driver's wish is read, or both sides may go to sleep.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if !self.layout.event_idx {
            let flags = match &self.host {
                Some(host) => host.avail_flags(),
                None => window.load_u16(self.layout.avail)?,
            };
            return Ok(flags & AVAIL_NO_INTERRUPT == 0);
        }
        let used_event = match &self.host {
            Some(host) => host.used_event(),
            None => window.load_u16(self.layout.avail + RING_OFFSET + 2 * u64::from(self.layout.size))?,
        };
        Ok(self.next_used.wrapping_sub(used_event).wrapping_sub(1) < self.next_used.wrapping_sub(old))
    }

    /// Asks the driver not to kick. With EVENT_IDX the driver falls silent by itself after one kick.
    ///
    /// # Errors
    /// The ring is not reachable.
    #[inline]
    pub fn suppress_kicks(&self, window: &Window<'_>) -> Result<(), RingError> {
        if !self.layout.event_idx {
            self.set_used_flags(window, USED_NO_NOTIFY)?;
        }
        Ok(())
    }

    /// Asks for a kick at the next entry, and says how many entries came before the wish could be seen.
    ///
    /// # Errors
    /// The ring is not reachable, or the available index is impossible.
    #[inline]
    pub fn request_kicks(&self, window: &Window<'_>) -> Result<u16, RingError> {
        if self.layout.event_idx {
            match &self.host {
                Some(host) => host.set_avail_event(self.next_avail),
                None => {
                    let avail_event = self.layout.used + RING_OFFSET + 8 * u64::from(self.layout.size);
                    window.store_u16(avail_event, self.next_avail)?;
                }
            }
        } else {
            self.set_used_flags(window, 0)?;
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.pending(window)
    }

    fn set_used_flags(&self, window: &Window<'_>, flags: u16) -> Result<(), RingError> {
        match &self.host {
            Some(host) => host.set_used_flags(flags),
            None => window.store_u16(self.layout.used, flags)?,
        }
        Ok(())
    }

    /// Starts to fetch the next `count` used elements, to be written.
    #[inline]
    pub fn prefetch_used(&self, count: u16) {
        if let Some(host) = &self.host {
            for ahead in (0..count).step_by(8) {
                host.prefetch_used_element(self.next_used.wrapping_add(ahead));
            }
        }
    }

    /// Starts to fetch the first descriptor of the chain at `head`.
    #[inline]
    pub fn prefetch_head(&self, head: u16) {
        if let Some(host) = &self.host {
            host.prefetch_descriptor(head);
        }
    }

    /// Starts to fetch what the first descriptor of the chain at `head` points at: a table or a buffer. The look at the
    /// descriptor decides nothing else, so it is none of the one copy that [`Ring::load_chain`] makes.
    #[inline]
    pub fn prefetch_chain(&self, window: &Window<'_>, head: u16) {
        if let Some(descriptor) = self.host.as_ref().and_then(|host| host.descriptor(head)) {
            let _ = window.fetch(descriptor.addr.get(), descriptor.len.get(), Access::Read);
        }
    }

    /// Follows the chain that starts at `head` into `chain`.
    ///
    /// # Errors
    /// See [`ChainError`].
    #[inline]
    pub fn load_chain(&self, window: &Window<'_>, head: u16, chain: &mut Chain) -> Result<(), ChainError> {
        chain.load(window, &self.layout, self.host.as_ref(), head)
    }

    /// Whether a driver has ever received an element here: a ring that a driver has just laid out is all zero.
    ///
    /// # Errors
    /// The ring is not reachable.
    pub fn has_history(&self, window: &Window<'_>) -> Result<bool, RingError> {
        let mut element = [0; 8];
        for slot in 0..u64::from(self.layout.size) {
            window.copy_in(self.layout.used + RING_OFFSET + 8 * slot, &mut element)?;
            if element != [0; 8] {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
