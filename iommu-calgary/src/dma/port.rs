//! The data plane: a device thread's way through the tables.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use thiserror::Error;

use super::phb::Phb;
use super::pins::PinSet;
use super::protocol::EpochSlot;
use crate::addr::{Iova, PAGE_SIZE, REAL_LIMIT, RealAddr};
use crate::permissions::Access;
use crate::range::IovaRange;
use crate::registers::{Tar, config_rw};
use crate::table::{Tce, entries_of};

/// One thread's access to the memory behind a PHB. Made by [`Phb::new_port`].
#[derive(Debug)]
pub struct DmaPort {
    phb: Arc<Phb>,
    slot: Arc<EpochSlot>,
    /// What the slot holds outside of every epoch: even. If an [`Epoch`] was leaked, the slot was left odd and below it.
    outside: u64,
}

impl DmaPort {
    pub(crate) fn new(phb: Arc<Phb>) -> Self {
        let slot = Arc::new(EpochSlot::new());
        phb.ports().add(Arc::clone(&slot));
        Self { phb, slot, outside: 0 }
    }

    /// Enters an epoch: what it translates stays true until it is dropped.
    ///
    /// A commit waits for it, with the guest waiting behind, so keep it short: copy, do not call what may block. The
    /// thread that commits must not be inside an epoch, it would wait for itself until its bound.
    #[must_use]
    #[inline]
    pub fn enter(&mut self) -> Epoch<'_> {
        let inside = self.outside + 1;
        self.outside = inside + 1;
        self.slot.announce(inside);
        self.phb.fences().in_port();
        Epoch { port: self }
    }

    /// The PHB that the port leads through.
    #[must_use]
    pub fn phb(&self) -> &Arc<Phb> {
        &self.phb
    }
}

impl Drop for DmaPort {
    fn drop(&mut self) {
        self.phb.ports().remove(&self.slot);
        // A commit that found a leaked epoch may still look at the slot.
        self.slot.leave(self.outside);
    }
}

/// A time in which translations stay true. Made by [`DmaPort::enter`], left by dropping it.
#[derive(Debug)]
pub struct Epoch<'a> {
    port: &'a DmaPort,
}

/// Contiguous real memory behind a contiguous IOVA range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Where it starts.
    pub real: RealAddr,
    /// How long it is, in bytes.
    pub len: u64,
}

/// An access that the PHB refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("{access:?} of {iova}: {reason}")]
pub struct Fault {
    /// The first address that was refused.
    pub iova: Iova,
    /// What the device wanted to do.
    pub access: Access,
    /// Why it was refused.
    pub reason: FaultReason,
}

/// Why an access was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
pub enum FaultReason {
    /// The endpoint is in no domain, and bypass is off.
    #[error("the endpoint is not attached to a domain")]
    NotAttached,
    /// No mapping holds the address.
    #[error("not mapped")]
    NotMapped,
    /// The mapping does not permit this access.
    #[error("not permitted")]
    Denied,
    /// The PHB was switched off because an access did not end in time; a reset switches it on.
    #[error("the slot is disabled until the next reset")]
    SlotDisabled,
}

impl Epoch<'_> {
    /// Counts what was taken away from the PHB. What was translated in one epoch, after this was read there, holds in every
    /// later one that finds the same number here.
    #[must_use]
    #[inline]
    pub fn generation(&self) -> u64 {
        self.port.phb.generation().current()
    }

    /// Translates the longest contiguous run that starts at `iova`, is no longer than `len` bytes, and permits `access`
    /// throughout. The run may be shorter than `len`: ask again from its end.
    ///
    /// The real address may be used until the epoch ends, and beyond it while the range is pinned. A `len` of 0 is
    /// checked like 1 and gives an empty run.
    ///
    /// # Errors
    /// The fault of the first byte. It is a guest's mistake, to be reported to the guest.
    #[inline]
    pub fn translate(&self, iova: Iova, len: u64, access: Access) -> Result<Run, Fault> {
        let fault = |reason| Err(Fault { iova, access, reason });
        let config = self.port.phb.config_rw();
        if config & (config_rw::SLOT_DISABLE | config_rw::TCE_ENABLE) != config_rw::TCE_ENABLE {
            if config & config_rw::SLOT_DISABLE != 0 {
                return fault(FaultReason::SlotDisabled);
            }
            return match REAL_LIMIT.checked_sub(iova.0) {
                None | Some(0) => fault(FaultReason::NotMapped),
                Some(room) => Ok(Run { real: RealAddr(iova.0), len: len.min(room) }),
            };
        }
        let tar = self.port.phb.tar();
        if tar.base() == 0 {
            return fault(FaultReason::NotAttached);
        }
        self.walk(tar, iova, len, access).or_else(fault)
    }

    /// Keeps what `iova..iova + len` translates to good after the epoch, until `pins` is released or dropped.
    ///
    /// Pin in the same epoch as you translate, in either order. The whole range is pinned, mapped or not.
    ///
    /// # Panics
    /// If `pins` was made by another PHB, where no commit would look for it.
    #[inline]
    pub fn pin(&self, pins: &PinSet, iova: Iova, len: u64) {
        assert!(pins.belongs_to(&self.port.phb), "a pin set serves only the PHB that made it");
        let Some(beyond_first) = len.checked_sub(1) else {
            return;
        };
        if let Some(range) = IovaRange::new(iova, Iova(iova.0.saturating_add(beyond_first))) {
            pins.pin(range);
        }
    }

    /// The table walk, with bounds by the size code in the TAR.
    fn walk(&self, tar: Tar, iova: Iova, len: u64, access: Access) -> Result<Run, FaultReason> {
        // SAFETY: `tar` was loaded inside this epoch, so the PHB keeps its table alive until the epoch is left.
        let entries = unsafe { entries_of(tar) };
        let Some((first, following)) = entries.get(iova.page()..).and_then(<[_]>::split_first) else {
            return Err(FaultReason::NotMapped);
        };
        let first = Tce::from_memory(first.load(Ordering::Acquire));
        if !first.permissions().allows(access) {
            return Err(match first {
                Tce::FREE => FaultReason::NotMapped,
                _ => FaultReason::Denied,
            });
        }
        let mut run = PAGE_SIZE - iova.offset_in_page();
        let mut page = first.real().0;
        for entry in following {
            if run >= len {
                break;
            }
            page += PAGE_SIZE;
            let tce = Tce::from_memory(entry.load(Ordering::Acquire));
            if tce.real().0 != page || !tce.permissions().allows(access) {
                break;
            }
            run += PAGE_SIZE;
        }
        Ok(Run { real: RealAddr(first.real().0 | iova.offset_in_page()), len: run.min(len) })
    }
}

impl Drop for Epoch<'_> {
    #[inline]
    fn drop(&mut self) {
        self.port.slot.leave(self.port.outside);
    }
}
