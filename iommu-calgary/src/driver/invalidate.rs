//! Dropping the cached entries of a PHB.
//!
//! ```text
//! Calgary                                   CalIOC2
//! AER      read, kept; write 0              PMCR   |= SoftStop
//! PLSSR    read: the write has arrived
//! split    read until idle                  split  read until idle
//!                                           PMDR   read: SoftStopFault? then again from the start
//!                                           PMCR   read, which enters HardStop;  PMDR read again
//! TAR      write: drops the cache           TAR    write: drops the cache;  PMCR read
//! AER      write what was kept; read back   PMCR   write 0; read back
//! ```
//!
//! Linux's forms have three defects that are not here. On Calgary it writes the TAR also when the splits did not end,
//! with no more than a warning. On CalIOC2 it does not start the count of polls again for a new attempt, so that after a
//! hundred polls in all every attempt polls once; and when it gives up, it leaves SoftStop set, so the bus hangs.

use std::sync::Arc;

use super::Patience;
use super::bridge::{Bridge, read_back, set32};
use crate::chip::{PhysicalTable, Progress};
use crate::registers::PhbRegister as R;
use crate::registers::bits::{pmcr, pmdr, split};
use crate::registers::{RegisterWindow, Variant};

/// A PHB whose bus is stopped.
#[derive(Debug)]
pub(super) struct Stop {
    /// What AER held.
    aer: u32,
    /// Polls in this attempt.
    polls: u32,
    /// Attempts that failed.
    failed: u32,
}

impl<T: PhysicalTable> Bridge<T> {
    /// No new access starts from here on.
    pub(super) fn stop(&mut self, hardware: &mut impl RegisterWindow) {
        let mut aer = 0;
        match self.variant {
            Variant::Calgary => {
                aer = hardware.read32(self.phb.register(R::Aer));
                hardware.write32(self.phb.register(R::Aer), 0);
                read_back(hardware, self.phb, R::Plssr);
            }
            Variant::CalIoc2 => set32(hardware, self.phb, R::Pmcr, pmcr::SOFT_STOP),
        }
        self.stop = Some(Stop { aer, polls: 0, failed: 0 });
    }

    /// Looks once whether the splits are over.
    pub(super) fn poll(&mut self, hardware: &mut impl RegisterWindow, patience: Patience) -> Progress {
        let Some(stop) = &mut self.stop else {
            return Progress::Idle;
        };
        if !split::is_idle(hardware.read64(self.phb.split_queue())) {
            stop.polls += 1;
            if stop.polls < patience.polls {
                return Progress::Busy;
            }
        } else if self.variant == Variant::Calgary {
            return Progress::Idle;
        } else {
            let slipped_in = |hardware: &mut dyn RegisterWindow| {
                hardware.read32(self.phb.register(R::Pmdr)) & pmdr::SOFT_STOP_FAULT != 0
            };
            if !slipped_in(hardware) {
                read_back(hardware, self.phb, R::Pmcr);
                if !slipped_in(hardware) {
                    return Progress::Idle;
                }
            }
        }
        stop.failed += 1;
        stop.polls = 0;
        if stop.failed >= patience.attempts {
            return Progress::Stuck;
        }
        if self.variant == Variant::CalIoc2 {
            hardware.write32(self.phb.register(R::Pmcr), pmcr::SOFT_STOP);
        }
        Progress::Busy
    }

    /// Drops the cache of a quiet PHB and lets its bus go on.
    pub(super) fn invalidate_and_resume(&mut self, hardware: &mut impl RegisterWindow, parking: &Arc<T>) {
        self.drop_cache(hardware, parking);
        if self.variant == Variant::CalIoc2 {
            read_back(hardware, self.phb, R::Pmcr);
        }
        self.resume(hardware);
    }

    /// The PHB is not quiet: nothing is known of its cache, so its slots are disabled before the bus goes on. A table
    /// that it may still walk is kept, and the next invalidation will be tried anew.
    pub(super) fn give_up(&mut self, hardware: &mut impl RegisterWindow) {
        self.disable_slots(hardware);
        self.resume(hardware);
    }

    fn resume(&mut self, hardware: &mut impl RegisterWindow) {
        let Some(Stop { aer, .. }) = self.stop.take() else {
            return;
        };
        let (register, value) = match self.variant {
            Variant::Calgary => (R::Aer, aer),
            Variant::CalIoc2 => (R::Pmcr, pmcr::RUN),
        };
        hardware.write32(self.phb.register(register), value);
        read_back(hardware, self.phb, register);
    }
}
