//! The device's half of a split virtqueue (virtio 1.2 §2.7), at addresses that may be IOVAs.
//!
//! The addresses, the size and the negotiated features come from the transport (for vhost-user: from the
//! `virtio_queue::Queue` that the front end configured); the accesses are ours, because each goes through a
//! [`Window`] and because a malformed chain must be told from a short one. A part of the ring that is one piece of this
//! process's memory is reached by pointer, any other word by word.

mod chain;
mod host;
mod pair;
#[cfg(test)]
mod tests;

pub use chain::{Buffer, Chain, ChainError};
pub use pair::{Pair, Pairs, Place};

use frontend_spec::virtio::{AVAIL_NO_INTERRUPT, USED_NO_NOTIFY};

use self::host::{Part, Parts};
use crate::dma::{DmaFault, Window};
use crate::memory::host_len;

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
    parts: Parts,
    next_avail: u16,
    next_used: u16,
    /// The head that was taken last, for hints.
    last_head: u16,
    /// `next_used` when the driver was last considered for an interrupt.
    signalled: u16,
    /// What the driver was last told in the used ring's flags.
    used_flags: Option<u16>,
}

impl Ring {
    /// A ring whose layout [is valid](RingLayout::is_valid) and whose first `base` entries were consumed and completed before.
    ///
    /// The used index equals the available index there, because a device completes everything it has taken before
    /// it lets a ring be stopped.
    #[must_use]
    pub fn new(layout: RingLayout, base: u16) -> Self {
        Self {
            layout,
            parts: Parts::default(),
            next_avail: base,
            next_used: base,
            signalled: base,
            used_flags: None,
            last_head: 0,
        }
    }

    /// The same where the last `owed` of the first `base` entries were not completed before: they are to be completed first.
    #[must_use]
    pub fn resuming(layout: RingLayout, base: u16, owed: u16) -> Self {
        let used = base.wrapping_sub(owed);
        Self { next_used: used, signalled: used, ..Self::new(layout, base) }
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

    /// Makes sure that the whole ring can be reached, so that what is taken from it can be given back.
    ///
    /// # Errors
    /// Some part is not reachable.
    #[inline]
    pub fn check(&self, window: &Window<'_>) -> Result<(), RingError> {
        for part in Part::ALL {
            if self.parts.get(window, &self.layout, part).is_none() {
                let (address, len, access) = part.place(&self.layout);
                window.check(address, len, access)?;
            }
        }
        Ok(())
    }

    /// The head that was taken last, which a driver with one request at a time uses again and again. For hints.
    #[inline]
    #[must_use]
    pub fn last_head(&self) -> u16 {
        self.last_head
    }

    /// How many entries the driver has made available and the device has not taken.
    ///
    /// # Errors
    /// The ring is not reachable, or the index is impossible.
    #[inline]
    pub fn pending(&self, window: &Window<'_>) -> Result<u16, RingError> {
        let avail = self.avail_word(window, 2)?;
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
        let head = self.avail_word(window, RING_OFFSET + 2 * self.slot(self.next_avail))?;
        self.next_avail = self.next_avail.wrapping_add(1);
        self.last_head = head;
        Ok(head)
    }

    /// The head that [`Ring::take`] will bring next, as far as it is known already, with its descriptor on the way. Call only
    /// while [`Ring::pending`] says there is one.
    #[inline]
    #[must_use]
    pub fn upcoming(&self, window: &Window<'_>) -> Option<u16> {
        let avail = self.parts.get(window, &self.layout, Part::Avail)?;
        let head = avail.load_u16(host_len(RING_OFFSET + 2 * self.slot(self.next_avail)))?;
        let descriptors = self.parts.get(window, &self.layout, Part::Descriptors)?;
        descriptors.prefetch_read(16 * usize::from(head));
        Some(head)
    }

    /// Starts to fetch what the next `count` entries take: their heads, the descriptor that the next one is likely to begin
    /// with, and the used elements that will take them back.
    ///
    /// # Errors
    /// As [`Ring::check`].
    #[inline]
    pub fn fetch_ahead(&self, window: &Window<'_>, count: u16) -> Result<(), RingError> {
        let parts = Part::ALL.map(|part| self.parts.get(window, &self.layout, part));
        let [Some(descriptors), Some(avail), Some(used)] = parts else { return self.check(window) };
        avail.prefetch_read(host_len(RING_OFFSET + 2 * self.slot(self.next_avail)));
        // A driver with one request at a time uses the same descriptor again and again.
        descriptors.prefetch_read(16 * usize::from(self.last_head));
        for ahead in (0..count).step_by(8) {
            used.prefetch_write(host_len(RING_OFFSET + 8 * self.slot(self.next_used.wrapping_add(ahead))));
        }
        Ok(())
    }

    /// Takes the next `count` heads, calls `visit` with each, and starts to fetch the first descriptor of each. Call only
    /// while [`Ring::pending`] says that there are so many.
    ///
    /// # Errors
    /// The ring is not reachable; those visited are taken then.
    #[inline]
    pub fn take_all(&mut self, window: &Window<'_>, count: u16, mut visit: impl FnMut(u16)) -> Result<(), RingError> {
        let parts = [Part::Avail, Part::Descriptors].map(|part| self.parts.get(window, &self.layout, part));
        let [Some(avail), Some(descriptors)] = parts else {
            for _ in 0..count {
                visit(self.take(window)?);
            }
            return Ok(());
        };
        for _ in 0..count {
            let offset = host_len(RING_OFFSET + 2 * self.slot(self.next_avail));
            // The offset is inside by the ring's size.
            let Some(head) = avail.load_u16(offset) else { break };
            descriptors.prefetch_read(16 * usize::from(head));
            self.next_avail = self.next_avail.wrapping_add(1);
            self.last_head = head;
            visit(head);
        }
        Ok(())
    }

    /// Writes the used elements of `completed`, heads and lengths; [`Ring::publish`] makes them visible.
    ///
    /// # Errors
    /// The ring is not reachable.
    #[inline]
    pub fn push_all(
        &mut self,
        window: &Window<'_>,
        completed: impl Iterator<Item = (u16, u32)>,
    ) -> Result<(), RingError> {
        let part = self.parts.get(window, &self.layout, Part::Used);
        for (head, len) in completed {
            let offset = RING_OFFSET + 8 * self.slot(self.next_used);
            let element = (u64::from(len) << 32 | u64::from(head)).to_le_bytes();
            if part.and_then(|part| part.write(host_len(offset), element)).is_none() {
                window.copy_out(self.layout.used + offset, &element)?;
            }
            self.next_used = self.next_used.wrapping_add(1);
        }
        Ok(())
    }

    /// Writes one used element, as [`Ring::push_all`].
    ///
    /// # Errors
    /// The ring is not reachable.
    #[inline]
    pub fn push_used(&mut self, window: &Window<'_>, head: u16, len: u32) -> Result<(), RingError> {
        self.push_all(window, std::iter::once((head, len)))
    }

    /// Makes all pushed elements visible with one store of the used index.
    ///
    /// # Errors
    /// The ring is not reachable.
    #[inline]
    pub fn publish(&self, window: &Window<'_>) -> Result<(), RingError> {
        self.set_used_word(window, 2, self.next_used)
    }

    /// Writes one used element and makes it visible.
    ///
    /// # Errors
    /// The ring is not reachable; the element was not given back then.
    #[inline]
    pub fn complete(&mut self, window: &Window<'_>, head: u16, len: u32) -> Result<(), RingError> {
        let before = self.next_used;
        let completed = self.push_used(window, head, len).and_then(|()| self.publish(window));
        if completed.is_err() {
            self.next_used = before;
        }
        completed
    }

    /// Whether the driver wants an interrupt for what was published since the last call that could say so (§2.7.7, §2.7.10).
    ///
    /// # Errors
    /// The ring is not reachable.
    #[inline]
    pub fn wants_interrupt(&mut self, window: &Window<'_>) -> Result<bool, RingError> {
        if self.signalled == self.next_used {
            return Ok(false);
        }
        // The used index must be visible before the driver's wish is read, or both sides may go to sleep.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let wants = self.interrupt_is_wished_for(window, self.signalled)?;
        self.signalled = self.next_used;
        Ok(wants)
    }

    /// The same for a device that has more to do at once: it does not wait until the used index is visible, so a wish that
    /// the driver makes at this moment may be missed. The next [`Ring::wants_interrupt`] finds that one.
    ///
    /// # Errors
    /// The ring is not reachable.
    #[inline]
    pub fn wants_interrupt_already(&mut self, window: &Window<'_>) -> Result<bool, RingError> {
        let wants = self.signalled != self.next_used && self.interrupt_is_wished_for(window, self.signalled)?;
        if wants {
            self.signalled = self.next_used;
        }
        Ok(wants)
    }

    /// Whether the driver wants to be told that the used index has gone on from `old`.
    #[inline]
    fn interrupt_is_wished_for(&self, window: &Window<'_>, old: u16) -> Result<bool, RingError> {
        if !self.layout.event_idx {
            return Ok(self.avail_word(window, 0)? & AVAIL_NO_INTERRUPT == 0);
        }
        let used_event = self.avail_word(window, RING_OFFSET + 2 * u64::from(self.layout.size))?;
        Ok(self.next_used.wrapping_sub(used_event).wrapping_sub(1) < self.next_used.wrapping_sub(old))
    }

    /// Asks the driver not to kick. With EVENT_IDX the driver falls silent by itself after one kick.
    ///
    /// # Errors
    /// The ring is not reachable.
    #[inline]
    pub fn suppress_kicks(&mut self, window: &Window<'_>) -> Result<(), RingError> {
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
    pub fn request_kicks(&mut self, window: &Window<'_>) -> Result<u16, RingError> {
        if self.layout.event_idx {
            self.set_used_word(window, RING_OFFSET + 8 * u64::from(self.layout.size), self.next_avail)?;
        } else {
            self.set_used_flags(window, 0)?;
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.pending(window)
    }

    /// Takes back what [`Ring::request_kicks`] asked for; a kick may be under way already.
    ///
    /// # Errors
    /// The ring is not reachable.
    pub fn retract_kicks(&mut self, window: &Window<'_>) -> Result<(), RingError> {
        if self.layout.event_idx {
            // An entry that was made available long ago: none that is to come has its index soon.
            let past = self.next_avail.wrapping_sub(1);
            return self.set_used_word(window, RING_OFFSET + 8 * u64::from(self.layout.size), past);
        }
        self.suppress_kicks(window)
    }

    /// Follows the chain that starts at `head` into `chain`.
    ///
    /// # Errors
    /// See [`ChainError`].
    #[inline]
    pub fn load_chain(&self, window: &Window<'_>, head: u16, chain: &mut Chain) -> Result<(), ChainError> {
        chain.load(window, &self.layout, self.parts.get(window, &self.layout, Part::Descriptors), head)
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

    /// Place of entry `index` in either ring.
    #[inline]
    fn slot(&self, index: u16) -> u64 {
        u64::from(index & (self.layout.size - 1))
    }

    /// The word at even `offset` of the available ring.
    #[inline]
    fn avail_word(&self, window: &Window<'_>, offset: u64) -> Result<u16, RingError> {
        let part = self.parts.get(window, &self.layout, Part::Avail);
        match part.and_then(|part| part.load_u16(host_len(offset))) {
            Some(word) => Ok(word),
            None => Ok(window.load_u16(self.layout.avail + offset)?),
        }
    }

    /// Writes the word at even `offset` of the used ring: all earlier writes are visible first.
    #[inline]
    fn set_used_word(&self, window: &Window<'_>, offset: u64, value: u16) -> Result<(), RingError> {
        let part = self.parts.get(window, &self.layout, Part::Used);
        match part.and_then(|part| part.store_u16(host_len(offset), value)) {
            Some(()) => Ok(()),
            None => Ok(window.store_u16(self.layout.used + offset, value)?),
        }
    }

    /// Tells the driver by the used ring's flags, unless it was told before: the driver reads that line all the time.
    fn set_used_flags(&mut self, window: &Window<'_>, flags: u16) -> Result<(), RingError> {
        if self.used_flags != Some(flags) {
            self.set_used_word(window, 0, flags)?;
            self.used_flags = Some(flags);
        }
        Ok(())
    }
}
