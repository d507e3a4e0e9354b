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

    /// Asks for a kick at the next buffer for an event; says whether there is one by now.
    pub(super) fn ask_for_event_buffers(&mut self) -> bool {
        let Self { dma, queues: [_, events], .. } = self;
        let events = events.as_mut().filter(|events| events.is_usable());
        events.is_some_and(|events| matches!(events.ring.request_kicks(&dma.enter()), Ok(1..)))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use iommu_calgary::TableSize;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::super::Iommu;
    use super::*;
    use crate::device::PollPolicy;
    use crate::device::side_core::{Member, Rearmed};
    use crate::dma::DmaFault;
    use crate::memory::GuestRam;
    use crate::ring::RingLayout;
    use crate::transport::Device;
    use crate::transport::idle::Deaf;
    use frontend_spec::iommu::REQUEST_QUEUE;
    use frontend_spec::virtio::{Descriptor, descriptor_flag};

    #[test]
    fn whoever_goes_to_sleep_with_untold_faults_asks_for_buffers() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        let iommu = Arc::new(Iommu::new(TableSize::MiB32, false).unwrap());
        let device = IommuDevice::new(Arc::clone(&iommu), PollPolicy::Off);
        device.set_memory(GuestRam::new(&memory));
        let ring = |at| RingLayout { descriptors: at, avail: at + 0x400, used: at + 0x800, size: 8, event_idx: true };
        let events = ring(0x2000);
        device.activate(REQUEST_QUEUE, ring(0x1000), 0, Arc::new(Deaf));
        device.activate(EVENT_QUEUE, events, 0, Arc::new(Deaf));
        let room = Descriptor::new(0x8000, EVENT_BYTES, descriptor_flag::WRITE, 0);
        memory.write_slice(room.as_bytes(), GuestAddress(events.descriptors)).unwrap();
        let offer = |offered: u16| memory.write_obj(offered, GuestAddress(events.avail + 2)).unwrap();
        let told = || memory.read_obj::<u16>(GuestAddress(events.used + 2)).unwrap();
        let fault = |address| {
            let fault = DmaFault { address, access: Access::Read, reason: DmaFaultReason::NotRam };
            iommu.faults().record(FaultRecord { endpoint: 8, fault });
        };
        // One buffer for one fault, so that nothing is asked for.
        offer(1);
        fault(0x5000);
        device.wake();
        assert_eq!(told(), 1);
        // The device's own thread may find another one at the ring, which has no buffer to tell of the next fault either.
        fault(0x6000);
        assert_eq!(device.rearm(true), Rearmed::Asleep);
        let event = memory.read_obj::<u16>(GuestAddress(events.used + 4 + 8 * 8)).unwrap();
        assert_eq!(event, 1, "the driver would not kick for its next buffer");
        offer(2);
        assert_eq!(device.rearm(true), Rearmed::Pending);
    }
}
