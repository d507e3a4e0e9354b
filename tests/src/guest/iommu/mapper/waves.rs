//! Buffers of several requests at the same time, as drivers on as many processors map and unmap them.
//!
//! Each request waits for its own pages alone: in the strictest way for one after the other, so the first pages of all
//! requests make a wave, then the second ones.

use super::super::requests::Kicks;
use super::{DomainMapper, Mapping};
use crate::guest::dma::{Buffer, DmaError, Mapped, Reach, map_requests_each, unmap_requests_each};

/// What is mapped or unmapped at the same time, reused.
#[derive(Debug, Default)]
pub(super) struct Wave {
    buffers: Vec<Buffer>,
    mapped: Vec<Mapped>,
}

/// How the pages of a request follow each other.
#[derive(Clone, Copy)]
struct Pace {
    /// Those that are waited for together.
    pages: usize,
    kicks: Kicks,
}

impl Pace {
    /// Those of `list` from the `at`-th on that are waited for together.
    fn part<T>(self, list: &[T], at: usize) -> &[T] {
        let rest = list.get(at..).unwrap_or_default();
        &rest[..rest.len().min(self.pages)]
    }
}

impl DomainMapper {
    /// Nothing if one request is mapped after the other.
    fn pace(&self) -> Option<Pace> {
        match self.mapping {
            Mapping::Strict => Some(Pace { pages: 1, kicks: Kicks::Each }),
            Mapping::StrictTogether | Mapping::StrictData => Some(Pace { pages: usize::MAX, kicks: Kicks::Together }),
            Mapping::Lazy | Mapping::Kept => None,
        }
    }

    pub(super) fn map_in_waves(&self, requests: &mut [Reach]) -> Result<(), DmaError> {
        let Some(pace) = self.pace() else { return map_requests_each(self, requests) };
        let state = &mut *self.state();
        let mut wave = std::mem::take(&mut state.wave);
        let longest = requests.iter().map(|request| request.buffers.len()).max().unwrap_or(0);
        let mut outcome = Ok(());
        for at in (0..longest).step_by(pace.pages) {
            wave.buffers.clear();
            requests.iter().for_each(|request| wave.buffers.extend(pace.part(&request.buffers, at)));
            outcome = self.map_together(state, &wave.buffers, &mut wave.mapped, pace.kicks);
            // Which of them failed nobody asks: all that are mapped are to be unmapped then.
            let mut mapped = wave.mapped.drain(..);
            for Reach { buffers, mapped: to } in requests.iter_mut() {
                to.extend(mapped.by_ref().take(pace.part(buffers, at).len()));
            }
            if outcome.is_err() {
                break;
            }
        }
        state.wave = wave;
        outcome
    }

    pub(super) fn unmap_in_waves(&self, requests: &mut [Reach]) -> Result<(), DmaError> {
        let Some(pace) = self.pace() else { return unmap_requests_each(self, requests) };
        let state = &mut *self.state();
        let mut wave = std::mem::take(&mut state.wave);
        let longest = requests.iter().map(|request| request.mapped.len()).max().unwrap_or(0);
        let mut outcome = Ok(());
        for at in (0..longest).step_by(pace.pages) {
            wave.mapped.clear();
            requests.iter().for_each(|request| wave.mapped.extend(pace.part(&request.mapped, at)));
            outcome = outcome.and(self.unmap_together(state, &mut wave.mapped, pace.kicks));
        }
        requests.iter_mut().for_each(|request| request.mapped.clear());
        state.wave = wave;
        outcome
    }
}
