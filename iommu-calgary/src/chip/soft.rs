//! The chip that serves guests: registers in memory, no TCE cache.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{Chip, Progress, Removed, Target, sealed};
use crate::addr::{EndpointId, Iova, RealAddr};
use crate::dma::{Fences, Phb, Quiesce, Reprogrammed, Rosters};
use crate::driver::DmaError;
use crate::table::{TableSize, Tce, TceTable};

/// A chip in software, with as many PHBs as there are endpoints. Its splits are the DMAs of this process, which go through
/// the [`Phb`]s.
#[derive(Debug)]
pub struct Soft {
    phbs: Vec<SoftPhb>,
    fences: Fences,
}

#[derive(Debug)]
struct SoftPhb {
    phb: Arc<Phb>,
    rosters: Rosters,
    /// `None` if it is quiet.
    quiesce: Option<Quiesce>,
}

impl Soft {
    /// A chip without PHBs.
    pub(crate) fn new(fences: Fences) -> Self {
        Self { phbs: Vec::new(), fences: fences.register() }
    }

    /// Adds a PHB for one endpoint, and returns it with its number.
    pub(crate) fn add_phb(&mut self, endpoint: EndpointId) -> (usize, Arc<Phb>) {
        let phb = Arc::new(Phb::new(endpoint, self.fences));
        self.phbs.push(SoftPhb { phb: Arc::clone(&phb), rosters: Rosters::new(), quiesce: None });
        (self.phbs.len() - 1, phb)
    }
}

impl sealed::Sealed for Soft {}

impl Chip for Soft {
    type Table = TceTable;

    fn new_table(&mut self, size: TableSize) -> io::Result<TceTable> {
        TceTable::new(size)
    }

    fn untranslated(&self, _: usize) -> Vec<(Iova, Iova)> {
        Vec::new()
    }

    /// Real addresses are the guest's; whether there is memory behind them shows when they are used.
    fn admit(&mut self, _: RealAddr, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn fill(&mut self, table: &TceTable, first: usize, last: usize, tce: Tce) {
        table.fill(first, last, tce);
    }

    fn free(&mut self, table: &TceTable, first: usize, last: usize) {
        table.free(first, last);
    }

    /// Ports read the tables through coherent caches.
    fn publish(&mut self, _: &TceTable) {}

    fn retarget(&mut self, phb: usize, target: Target<TceTable>) -> bool {
        self.phbs[phb].phb.program(target) == Reprogrammed::Lost
    }

    fn begin(&mut self, phb: usize) {
        let phb = &mut self.phbs[phb];
        phb.quiesce = phb.phb.quiesce(&mut phb.rosters);
    }

    fn poll(&mut self, phb: usize, removed: Removed<'_>) -> Progress {
        let quiesce = &mut self.phbs[phb].quiesce;
        if quiesce.as_mut().is_none_or(|quiesce| quiesce.poll(removed.0)) { Progress::Idle } else { Progress::Busy }
    }

    fn finish(&mut self, phb: usize) {
        self.phbs[phb].quiesce = None;
    }

    fn give_up(&mut self, phb: usize) {
        let phb = &mut self.phbs[phb];
        phb.quiesce = None;
        phb.phb.disable_slots();
    }

    fn revive(&mut self, phb: usize) {
        self.phbs[phb].phb.enable_slots();
    }

    /// A refused access is a value that the port returns.
    fn check(&mut self, _: usize) -> Option<DmaError> {
        None
    }

    fn shut_down(&mut self, phb: usize) {
        let SoftPhb { phb, rosters, .. } = &mut self.phbs[phb];
        phb.program(Target::Nothing);
        // If it is not quiet yet, the PHB keeps its tables for as long as it lives.
        if let Some(mut quiesce) = phb.quiesce(rosters) {
            quiesce.poll(crate::dma::Scope::All);
        }
    }

    /// Most accesses are over within a microsecond or two; some wait for a disk.
    fn pause(&mut self, round: u32) {
        const SPINS: u32 = 64;
        const YIELDS: u32 = 64;
        const SLEEP: Duration = Duration::from_micros(50);
        if round < SPINS {
            std::hint::spin_loop();
        } else if round < SPINS + YIELDS {
            thread::yield_now();
        } else {
            thread::sleep(SLEEP);
        }
    }
}
