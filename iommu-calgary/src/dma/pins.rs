//! Ranges that long accesses still use.
//!
//! A short copy stays inside an epoch. File I/O into guest pages may take long, so it pins the IOVAs it goes to and
//! leaves the epoch; only a removal that overlaps the pin waits for it. In the chip's terms each is a split that has not
//! completed.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use super::phb::Phb;
use super::protocol::PinSlot;
use crate::addr::EndpointId;
use crate::range::IovaRange;

/// Ranges that one pin set remembers one by one, enough for every page of a 2 MiB transfer. What comes beyond is pinned as
/// one range: removals nearby then may wait although they had no need.
const PINNED_RANGES: usize = 512;

/// The pins of one request in flight. Reusable: after [`PinSet::release`] it is empty and can serve the next request.
///
/// Made by [`Phb::new_pins`], filled by [`Epoch::pin`](crate::Epoch::pin). While ranges are pinned, a commit that removes
/// a translation inside them waits. Release them as soon as the access is over, before the request is reported
/// complete: a guest that unmaps at once then finds nothing to wait for.
///
/// It goes from thread to thread, but serves one at a time: pinning and releasing takes neither a lock nor a fence.
#[derive(Debug)]
pub struct PinSet {
    phb: Arc<Phb>,
    slot: Arc<PinSlot>,
    _one_thread: PhantomData<Cell<()>>,
}

impl PinSet {
    pub(crate) fn new(phb: Arc<Phb>) -> Self {
        let slot = Arc::new(PinSlot::new(PINNED_RANGES));
        phb.pins().add(Arc::clone(&slot));
        Self { phb, slot, _one_thread: PhantomData }
    }

    /// Ends all pins of the set: from here on nothing reached through them may be touched.
    #[inline]
    pub fn release(&self) {
        self.slot.release();
    }

    /// The endpoint whose DMA the set belongs to.
    #[must_use]
    pub fn endpoint(&self) -> EndpointId {
        self.phb.endpoint()
    }

    #[inline]
    pub(crate) fn belongs_to(&self, phb: &Arc<Phb>) -> bool {
        Arc::ptr_eq(&self.phb, phb)
    }

    #[inline]
    pub(crate) fn pin(&self, range: IovaRange) {
        self.slot.pin(range);
    }
}

impl Drop for PinSet {
    fn drop(&mut self) {
        self.release();
        self.phb.pins().remove(&self.slot);
    }
}
