//! Chips: what the control plane needs of one, and the three that there are.
//!
//! ```text
//!                       Calgary<C>: domains, batches, commit
//!                                 │ Chip
//!               ┌─────────────────┴────────────────┐
//!             Soft                              Driven<H>: the PHB driver
//!   registers in memory; its splits                │ Hardware: registers, table memory
//!   are this process's own DMAs          ┌─────────┴─────────┐
//!                                   MappedChip             Model
//!                              a window of a file    the adversary of tests
//! ```
//!
//! The control plane is the same for all: it stores each changed entry once, makes the stores visible to the walk, brings
//! the PHBs concerned to quiet together, and gives up on those that do not come to quiet.
//!
//! [`Soft`] is not run by the PHB driver, because its invalidation goes the other way round. The chip caches entries, so
//! its driver first stops the bus, then waits, then drops the cache and lets the bus go on. In [`Soft`] nothing is
//! cached: it first changes the registers, so that new accesses take the new way without ever being stopped, and then
//! waits for the old ones. A disk that takes a second to fill one page would otherwise stop all others for that second.

mod hardware;
#[cfg(not(miri))]
pub mod mapped;
pub mod model;
mod soft;

pub use hardware::{ENTRIES_PER_LINE, Hardware, LINE_BYTES, PhysicalTable};
pub use soft::Soft;

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::addr::{Iova, RealAddr};
use crate::dma::Scope;
use crate::driver::DmaError;
use crate::table::{TableSize, Tce};

pub(crate) mod sealed {
    /// Keeps [`Chip`](super::Chip) to this crate. To attach other hardware, implement
    /// [`Hardware`](super::Hardware).
    pub trait Sealed {}
}

/// What [`Calgary`](crate::Calgary) needs of a chip. PHBs are named by small numbers.
///
/// A commit calls `fill`, `free` and then `publish` for each table; then for all PHBs that lost a translation `begin`,
/// and `poll` in turn until it is [`Progress::Idle`], which `finish` ends, or patience is at an end, which `give_up` ends.
pub trait Chip: sealed::Sealed {
    /// Memory that the chip can walk.
    type Table: fmt::Debug;

    /// A table whose entries are all free.
    ///
    /// # Errors
    /// Memory cannot be had.
    fn new_table(&mut self, size: TableSize) -> io::Result<Self::Table>;

    /// IOVA ranges, both ends inclusive, that a PHB passes untranslated.
    fn untranslated(&self, phb: usize) -> Vec<(Iova, Iova)>;

    /// Makes sure that `pages` real pages from `real` on can stand in a table.
    ///
    /// # Errors
    /// They cannot; the cause is for the log.
    fn admit(&mut self, real: RealAddr, pages: usize) -> io::Result<()>;

    /// Points entries `first..=last` at consecutive real pages, the first being that of `tce`. The pages were admitted.
    fn fill(&mut self, table: &Self::Table, first: usize, last: usize, tce: Tce);

    /// Frees entries `first..=last`.
    fn free(&mut self, table: &Self::Table, first: usize, last: usize);

    /// Makes what was stored in `table` visible to the table walk.
    fn publish(&mut self, table: &Self::Table);

    /// Has a PHB's accesses go to `target`: at once, or with the invalidation that follows. Returns whether one must.
    fn retarget(&mut self, phb: usize, target: Target<Self::Table>) -> bool;

    /// Starts to bring a PHB to quiet.
    fn begin(&mut self, phb: usize);

    /// Looks once whether a PHB is quiet as far as `removed` is concerned. That is the same at each call.
    fn poll(&mut self, phb: usize, removed: Removed<'_>) -> Progress;

    /// Ends the invalidation of a quiet PHB: no old translation is used from here on.
    fn finish(&mut self, phb: usize);

    /// Ends the invalidation of a PHB that did not come to quiet: its slots are disabled, and what may still be used is
    /// kept.
    fn give_up(&mut self, phb: usize);

    /// Enables the slots of a PHB again, after a [`Chip::finish`].
    fn revive(&mut self, phb: usize);

    /// Looks for a DMA error, and disables the slots if there is one.
    fn check(&mut self, phb: usize) -> Option<DmaError>;

    /// The unit goes away: every access of the PHB is refused from here on.
    fn shut_down(&mut self, phb: usize);

    /// Passes some time between two looks. `round` counts from 0.
    fn pause(&mut self, round: u32);
}

/// Where the accesses of a PHB go.
#[derive(Debug)]
pub enum Target<T> {
    /// Nowhere: all are refused.
    Nothing,
    /// To the address that the device issued.
    Identity,
    /// Through a table.
    Table(Arc<T>),
}

impl<T> Target<T> {
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nothing, Self::Nothing) | (Self::Identity, Self::Identity) => true,
            (Self::Table(table), Self::Table(other)) => Arc::ptr_eq(table, other),
            _ => false,
        }
    }
}

impl<T> Clone for Target<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Nothing => Self::Nothing,
            Self::Identity => Self::Identity,
            Self::Table(table) => Self::Table(Arc::clone(table)),
        }
    }
}

/// What a commit removed from the reach of a PHB.
#[derive(Clone, Copy, Debug)]
pub struct Removed<'a>(pub(crate) Scope<'a>);

/// How far an invalidation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// The PHB is quiet.
    Idle,
    /// Not yet.
    Busy,
    /// It will not be: the chip's own patience is at an end.
    Stuck,
}
