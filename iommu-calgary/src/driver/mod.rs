//! The PHB driver: Calgary's and CalIOC2's registers brought through the chip's own sequences.
//!
//! [`Driven`] makes a [`Chip`] of any [`Hardware`]. The sequences are those of
//! Linux's `pci-calgary_64.c`, the only public description of the chip. Where they differ, it says so at the place:
//!
//! - the polls of an invalidation are counted per attempt, and a success on the last one is a success;
//! - a PHB that does not come to quiet is never invalidated all the same: its slots are disabled, arbitration is
//!   restored, and the requests fail;
//! - several PHBs are stopped together, so that their waits overlap;
//! - one flush for each touched cache line, and a fence after the last one;
//! - an endpoint of no domain gets a table of free entries, not the untranslated bus;
//! - a driver that goes away leaves the slots disabled, not the bus untranslated;
//! - no "emergency pages" are reserved at IOVA 0: they guard Linux's own error value, and here the guest allocates.

mod bridge;
mod invalidate;
mod watchdog;

use std::io;
use std::sync::Arc;

use crate::addr::{EndpointId, Iova, RealAddr};
use crate::chip::{Chip, ENTRIES_PER_LINE, Hardware, Progress, Removed, Target, sealed};
use crate::control::Calgary;
use crate::error::Error;
use crate::registers::PhbIndex;
use crate::table::{TableSize, Tce};

use bridge::Bridge;

pub use watchdog::{CalIoc2Status, DmaError, WATCHDOG_PERIOD};

/// How long the driver waits for a PHB's splits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Reads of the split queue in one attempt. Linux: 100.
    pub polls: u32,
    /// Attempts before the PHB is given up. On Calgary an attempt that fails is followed by another, with the bus still
    /// stopped; on CalIOC2 an attempt also fails when a request slipped in, and the next one asks for the stop again.
    /// Linux: 1 on Calgary, 99 on CalIOC2.
    pub attempts: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { polls: 100, attempts: 99 }
    }
}

/// A chip behind a register window, with up to four PHBs in use.
#[derive(Debug)]
pub struct Driven<H: Hardware> {
    hardware: H,
    patience: Patience,
    bridges: [Option<Bridge<H::Table>>; PhbIndex::COUNT],
    /// A table of free entries: what PHBs translate through whose endpoint is in no domain.
    parking: Arc<H::Table>,
    /// Cache lines of the table in work that hold a new entry, as ranges.
    touched: Vec<(usize, usize)>,
}

type Parts<'a, H, T> = (&'a mut Bridge<T>, &'a mut H, &'a Arc<T>);

impl<H: Hardware> Driven<H> {
    /// A driver for a chip none of whose PHBs is in use.
    ///
    /// # Errors
    /// Memory for the table of free entries cannot be had.
    pub fn new(mut hardware: H) -> io::Result<Self> {
        let parking = Arc::new(hardware.allocate(TableSize::MiB32)?);
        let bridges = [const { None }; PhbIndex::COUNT];
        Ok(Self { hardware, patience: Patience::default(), bridges, parking, touched: Vec::new() })
    }

    /// Sets how long the driver waits for splits.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// The hardware.
    #[must_use]
    pub fn hardware(&self) -> &H {
        &self.hardware
    }

    /// The hardware. Nothing may be done to the PHBs in use that the driver does not know of.
    #[must_use]
    pub fn hardware_mut(&mut self) -> &mut H {
        &mut self.hardware
    }

    fn touch(&mut self, first: usize, last: usize) {
        self.touched.push((first / ENTRIES_PER_LINE, last / ENTRIES_PER_LINE));
    }

    /// The PHB's state and what its sequences need. PHBs get their number from `bring_up`, so there is one.
    fn parts(&mut self, phb: usize) -> Option<Parts<'_, H, H::Table>> {
        Some((self.bridges[phb].as_mut()?, &mut self.hardware, &self.parking))
    }
}

impl<H: Hardware> Calgary<Driven<H>> {
    /// Brings a PHB up and adds it as an endpoint: all devices behind it, since they go through one table. `bus` is its
    /// first bus number. The endpoint is attached to no domain, and the ranges that the PHB passes untranslated are
    /// reserved, for all domains.
    ///
    /// Look for errors with [`Calgary::watchdog`] at once, and then every [`WATCHDOG_PERIOD`].
    ///
    /// # Errors
    /// [`Error::DuplicateEndpoint`], [`Error::PhbInUse`], [`Error::NotACalgary`].
    pub fn bring_up(&mut self, id: EndpointId, phb: PhbIndex, bus: u8) -> Result<(), Error> {
        if self.has_endpoint(id) {
            return Err(Error::DuplicateEndpoint(id));
        }
        let Driven { hardware, bridges, parking, .. } = &mut self.chip;
        let slot = &mut bridges[phb.get()];
        if slot.is_some() {
            return Err(Error::PhbInUse(phb.get()));
        }
        *slot = Some(Bridge::bring_up(hardware, phb, bus, parking)?);
        self.insert_endpoint(id, phb.get());
        Ok(())
    }
}

impl<H: Hardware> sealed::Sealed for Driven<H> {}

impl<H: Hardware> Chip for Driven<H> {
    type Table = H::Table;

    fn new_table(&mut self, size: TableSize) -> io::Result<H::Table> {
        self.hardware.allocate(size)
    }

    fn untranslated(&self, phb: usize) -> Vec<(Iova, Iova)> {
        self.bridges[phb].as_ref().map_or(Vec::new(), |bridge| bridge.untranslated().to_vec())
    }

    fn admit(&mut self, real: RealAddr, pages: usize) -> io::Result<()> {
        let mut done = 0;
        while done < pages {
            let (_, contiguous) = self.hardware.resolve(RealAddr(real.0 + Tce::pages(done)), pages - done)?;
            done += contiguous;
        }
        Ok(())
    }

    fn fill(&mut self, table: &H::Table, first: usize, last: usize, tce: Tce) {
        let mut next = first;
        while next <= last {
            let real = RealAddr(tce.real().0 + Tce::pages(next - first));
            let (host, contiguous) = match self.hardware.resolve(real, last + 1 - next) {
                Ok(found) => found,
                Err(error) => {
                    // It was there when the MAP was accepted. A free entry refuses every access; this one may still be that of
                    // a mapping which the same batch removed.
                    log::error!("real page {real} is gone ({error}); entries {next}..={last} are free");
                    return self.free(table, next, last);
                }
            };
            let end = next + contiguous - 1;
            self.hardware.fill(table, next, end, Tce::new(host, tce.permissions()));
            self.touch(next, end);
            next = end + 1;
        }
    }

    /// Entries that are free already are left alone: a mapping that was made and removed in one batch never was stored.
    fn free(&mut self, table: &H::Table, first: usize, last: usize) {
        let mut next = first;
        while next <= last {
            let start = next;
            while next <= last && self.hardware.load(table, next) != Tce::FREE {
                next += 1;
            }
            if next > start {
                self.hardware.free(table, start, next - 1);
                self.touch(start, next - 1);
            }
            next += 1;
        }
    }

    /// One flush for each touched line. Linux flushes after each entry, so the line of eight neighbours eight times, and
    /// without a fence before the device is told of the address.
    fn publish(&mut self, table: &H::Table) {
        if self.touched.is_empty() {
            return;
        }
        self.touched.sort_unstable();
        let mut next = 0;
        for (first, last) in self.touched.drain(..) {
            for line in first.max(next)..=last {
                self.hardware.flush_line(table, line);
            }
            next = next.max(last + 1);
        }
        self.hardware.fence();
    }

    fn retarget(&mut self, phb: usize, target: Target<H::Table>) -> bool {
        self.bridges[phb].as_mut().is_some_and(|bridge| bridge.retarget(target))
    }

    fn begin(&mut self, phb: usize) {
        if let Some((bridge, hardware, _)) = self.parts(phb) {
            bridge.stop(hardware);
        }
    }

    /// A PHB has one split queue and one cache, so it is waited for as a whole, whatever was removed.
    fn poll(&mut self, phb: usize, _: Removed<'_>) -> Progress {
        let patience = self.patience;
        self.parts(phb).map_or(Progress::Idle, |(bridge, hardware, _)| bridge.poll(hardware, patience))
    }

    fn finish(&mut self, phb: usize) {
        if let Some((bridge, hardware, parking)) = self.parts(phb) {
            bridge.invalidate_and_resume(hardware, parking);
        }
    }

    fn give_up(&mut self, phb: usize) {
        if let Some((bridge, hardware, _)) = self.parts(phb) {
            bridge.give_up(hardware);
        }
    }

    fn revive(&mut self, phb: usize) {
        if let Some((bridge, hardware, _)) = self.parts(phb) {
            bridge.enable_slots(hardware);
        }
    }

    fn check(&mut self, phb: usize) -> Option<DmaError> {
        let (bridge, hardware, _) = self.parts(phb)?;
        bridge.check(hardware)
    }

    fn shut_down(&mut self, phb: usize) {
        if let Some((bridge, hardware, _)) = self.parts(phb) {
            bridge.tear_down(hardware);
        }
        self.bridges[phb] = None;
    }

    fn pause(&mut self, round: u32) {
        self.hardware.pause(round);
    }
}
