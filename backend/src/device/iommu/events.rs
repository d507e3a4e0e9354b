//! The event queue: telling the guest of refused accesses (virtio 1.2 §5.13.6.9).

use zerocopy::IntoBytes;

use frontend_spec::iommu::{EVENT_QUEUE, FaultEvent, FaultFlags, FaultReason as EventReason};
use iommu_calgary::{Access, FaultReason};

use super::{FaultRecord, IommuDevice, Worker};
use crate::device::Queue;
use crate::device::throttle::warn_throttled;
use crate::dma::{Dma, DmaFaultReason};
use crate::ring::{Chain, RingError};

/// Used length of an event.
#[expect(clippy::cast_possible_truncation, reason = "24 bytes")]
const EVENT_BYTES: u32 = FaultEvent::SIZE as u32;

impl FaultRecord {
    /// The event as the guest reads it.
    fn event(&self) -> FaultEvent {
        let reason = match self.fault.reason {
            DmaFaultReason::Table(FaultReason::NotAttached) => EventReason::Domain,
            DmaFaultReason::Table(FaultReason::NotMapped | FaultReason::Denied) => EventReason::Mapping,
            DmaFaultReason::Table(FaultReason::SlotDisabled) | DmaFaultReason::NotRam => EventReason::Unknown,
        };
        let access = match self.fault.access {
            Access::Read => FaultFlags::READ,
            Access::Write => FaultFlags::WRITE,
        };
        FaultEvent::new(reason, self.endpoint, access, self.fault.address)
    }
}

impl Worker {
    /// Whether the driver has provided a buffer for an event.
    pub(super) fn has_room_for_events(&mut self) -> bool {
        let Self { dma, queues: [_, events], .. } = self;
        let events = events.as_ref().filter(|events| events.is_usable());
        events.is_some_and(|events| matches!(events.ring.pending(&dma.enter()), Ok(1..)))
    }
}

impl IommuDevice {
    /// Puts pending faults into the buffers that the driver has provided. Faults that find none wait.
    pub(super) fn deliver_events(&self, worker: &mut Worker) {
        let Some(queue) = worker.queues[EVENT_QUEUE].as_mut().filter(|queue| queue.is_usable()) else { return };
        match self.fill_events(queue, &mut worker.dma, &mut worker.batch.event_chain) {
            Ok(true) => queue.interrupt.signal(),
            Ok(false) => {}
            Err(cause) => self.set_aside(queue, "event", cause),
        }
    }

    fn fill_events(&self, queue: &mut Queue, dma: &mut Dma, chain: &mut Chain) -> Result<bool, RingError> {
        let faults = self.iommu.faults();
        let window = dma.enter();
        queue.ring.check(&window)?;
        // A driver can offer buffers that hold no event as fast as they go back: no more than a ring of them in one go.
        let mut room = queue.ring.layout().size;
        while let Some(record) = faults.next() {
            if room == 0 {
                faults.wake();
                break;
            }
            if queue.ring.pending(&window)? == 0 && queue.ring.request_kicks(&window)? == 0 {
                break;
            }
            room -= 1;
            let head = queue.ring.take(&window)?;
            let event = record.event();
            let usable = queue.ring.load_chain(&window, head, chain).is_ok()
                && chain.writable_len() >= FaultEvent::SIZE as u64
                && chain.copy_out(&window, event.as_bytes()).is_ok();
            if usable {
                faults.pop();
                queue.ring.push_used(&window, head, EVENT_BYTES)?;
            } else {
                warn_throttled!(
                    self.throttle,
                    "iommu: an event buffer cannot hold {} bytes; it goes back unused",
                    FaultEvent::SIZE
                );
                queue.ring.push_used(&window, head, 0)?;
            }
        }
        queue.ring.publish(&window)?;
        queue.ring.wants_interrupt(&window)
    }
}
