//! A driver that offers buffers which hold no event, as fast as they come back: it keeps the device for no longer than a ring
//! of them takes, or no queue of it could be stopped.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use calgaryd::device::PollPolicy;
use calgaryd::device::iommu::{FaultRecord, Iommu, IommuDevice};
use calgaryd::dma::{DmaFault, DmaFaultReason};
use calgaryd::memory::GuestRam;
use calgaryd::ring::RingLayout;
use calgaryd::transport::Device;
use frontend_spec::iommu::EVENT_QUEUE;
use iommu_calgary::{Access, TableSize};
use log::{LevelFilter, Log, Metadata, Record};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::driver::{Deaf, ENDPOINT, wake_if_asked};

const SIZE: u16 = 4;

thread_local! {
    /// What else this thread does whenever it logs something.
    static MEANWHILE: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
}

/// The log: the device says of the first useless buffers what it does with them, and at that moment a driver on another
/// processor may do anything.
struct Meanwhile;

impl Log for Meanwhile {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &Record<'_>) {
        MEANWHILE.with_borrow(|act| act.iter().for_each(|act| act()));
    }

    fn flush(&self) {}
}

#[test]
fn a_turn_takes_no_more_buffers_than_the_ring_has_entries() {
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    let iommu = Arc::new(Iommu::new(TableSize::MiB32, false).unwrap());
    let device = IommuDevice::new(Arc::clone(&iommu), PollPolicy::Off);
    device.set_memory(GuestRam::new(&memory));
    let layout = RingLayout { descriptors: 0x1000, avail: 0x2000, used: 0x3000, size: SIZE, event_idx: false };
    device.activate(EVENT_QUEUE, layout, 0, Arc::new(Deaf));
    let fault = DmaFault { address: 0x5000, access: Access::Read, reason: DmaFaultReason::NotRam };
    iommu.faults().record(FaultRecord { endpoint: ENDPOINT, fault });

    // All heads are 0, a descriptor of no bytes.
    let (driver, offered) = (memory.clone(), AtomicU16::new(SIZE));
    let offer = move |more: u16| {
        let index = offered.fetch_add(more, Ordering::Relaxed) + more;
        driver.store(index, GuestAddress(layout.avail + 2), Ordering::SeqCst).unwrap();
    };
    offer(0);
    log::set_logger(&Meanwhile).unwrap();
    log::set_max_level(LevelFilter::Warn);
    MEANWHILE.set(Some(Box::new(move || offer(1))));
    device.wake();
    MEANWHILE.set(None);
    let taken = || memory.load::<u16>(GuestAddress(layout.used + 2), Ordering::SeqCst).unwrap();
    assert_eq!(taken(), SIZE, "the turn went on with what was offered meanwhile");
    // The rest has its turn, though nobody kicks.
    wake_if_asked(&device);
    assert!(taken() > SIZE);
    assert_eq!(device.stop(EVENT_QUEUE), Some(taken()));
}
