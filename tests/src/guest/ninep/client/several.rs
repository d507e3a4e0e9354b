//! What is done for several requests at the same time.

use std::sync::Arc;

use super::{NinepClient, Tag};
use crate::guest::dma::Reach;
use crate::guest::ninep::call::Call;
use crate::guest::ninep::envelope::NinepError;
use crate::guest::ninep::slot::SlotState;
use crate::guest::queue::Used;

impl NinepClient {
    /// Put several requests into the ring, in their order, and add their tags to `tags`. A driver on as many processors makes
    /// them: their MAPs are under way at the same time, and each is in the ring when its own are done.
    ///
    /// # Errors
    /// As [`NinepClient::submit`]; those whose tags were added are in the ring.
    pub fn submit_all(&mut self, calls: impl Iterator<Item = Call>, tags: &mut Vec<Tag>) -> Result<(), NinepError> {
        let mut slots = std::mem::take(&mut self.together);
        slots.clear();
        let mut outcome = Ok(());
        for call in calls {
            match self.draft(call) {
                Ok(slot) => slots.push(slot),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        let mapper = Arc::clone(&self.mapper);
        let mapped = self.with_reaches(&slots, |reaches| mapper.map_requests(reaches));
        outcome = outcome.and(mapped.map_err(NinepError::from));
        for slot in &slots {
            if outcome.is_ok() {
                outcome = self.offer(*slot);
            }
            match outcome {
                Ok(()) => tags.push(Tag(*slot)),
                Err(_) => self.take_back(*slot)?,
            }
        }
        self.together = slots;
        outcome
    }

    /// Do something with what `slots` reach.
    fn with_reaches<T>(&mut self, slots: &[u16], act: impl FnOnce(&mut [Reach]) -> T) -> T {
        let mut reaches = std::mem::take(&mut self.reaches);
        reaches.extend(slots.iter().map(|slot| std::mem::take(&mut self.slots[usize::from(*slot)].reach)));
        let outcome = act(&mut reaches);
        for (slot, reach) in slots.iter().zip(reaches.drain(..)) {
            self.slots[usize::from(*slot)].reach = reach;
        }
        self.reaches = reaches;
        outcome
    }

    /// Note a request as done, and all others that are, and unmap their buffers at once, as Linux does.
    pub(super) fn settle(&mut self, first: Used) -> Result<(), NinepError> {
        let mut ended = std::mem::take(&mut self.together);
        ended.clear();
        let mut next = Ok(Some(first));
        while let Ok(Some(Used { head, bytes })) = next {
            let slot = self.slot_of_head[usize::from(head)];
            self.sequence += 1;
            let buffers = &mut self.slots[usize::from(slot)];
            buffers.state = SlotState::Done { used: bytes, sequence: self.sequence };
            self.done.push_back(slot);
            ended.push(slot);
            next = self.queue.try_take();
        }
        let released = if let [slot] = ended[..] {
            self.slots[usize::from(slot)].release(self.mapper.as_ref())
        } else {
            let mapper = Arc::clone(&self.mapper);
            let unmapped = self.with_reaches(&ended, |reaches| mapper.unmap_requests(reaches));
            ended.iter().for_each(|slot| self.slots[usize::from(*slot)].let_go());
            unmapped
        };
        self.together = ended;
        released?;
        next?;
        Ok(())
    }
}
