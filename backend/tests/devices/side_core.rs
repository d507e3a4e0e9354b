//! One thread polls for both devices: what it means for the guest's rings.

use std::sync::Arc;
use std::time::Duration;

use calgaryd::device::iommu::{Iommu, IommuDevice};
use calgaryd::device::share::{Attachment, ShareDevice};
use calgaryd::device::{PollPolicy, SideCore};
use calgaryd::memory::GuestRam;
use calgaryd::transport::Device;
use frontend_spec::iommu::{AttachFlags, AttachRequest, MapFlags, MapRequest, REQUEST_QUEUE, feature};
use iommu_calgary::TableSize;
use virtio_9p::{Options, Passthrough, PassthroughOptions, Server};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

use crate::driver::{Deaf, ENDPOINT, Ring, until};

const SHARE_RING: u64 = 0x2000;

/// A ring whose parts lie on the page at `place`.
fn ring(memory: &GuestMemoryMmap, place: u64, event_idx: bool) -> Ring {
    Ring::new(memory, [place, place + 0x400, place + 0x800], event_idx)
}

/// An IOMMU and a share behind it, with their rings started.
fn devices(policy: PollPolicy, event_idx: bool) -> (Arc<IommuDevice>, Arc<Iommu>, Arc<ShareDevice>, Ring) {
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let core = SideCore::new(policy);
    let iommu = Arc::new(Iommu::new(TableSize::MiB32, true).unwrap());
    let phb = iommu.add_endpoint(ENDPOINT).unwrap();
    let files = Passthrough::new(std::env::temp_dir().as_ref(), PassthroughOptions::default()).unwrap();
    let attachment = Attachment::Behind { iommu: Arc::clone(&iommu), endpoint: ENDPOINT, phb };
    let server = Server::new(files, Options::default());
    let share = ShareDevice::new(&"home".parse().unwrap(), server, 65536, attachment, policy).unwrap().joined(&core);
    let device = IommuDevice::new(Arc::clone(&iommu), policy).joined(&core);
    device.ack_features(feature::MAP_UNMAP);
    device.set_memory(GuestRam::new(&memory));
    share.set_memory(GuestRam::new(&memory));
    let requests = ring(&memory, 0x1000, event_idx);
    device.activate(REQUEST_QUEUE, requests.layout, 0, Arc::new(Deaf));
    share.activate(0, ring(&memory, SHARE_RING, event_idx).layout, 0, Arc::new(Deaf));
    (device, iommu, share, requests)
}

#[test]
fn a_map_is_served_while_only_the_thread_of_the_share_looks() {
    for event_idx in [true, false] {
        let (device, iommu, share, mut requests) = devices(PollPolicy::Always, event_idx);
        let thread = std::thread::spawn({
            let share = Arc::clone(&share);
            move || share.service(0)
        });
        // Comes back when the thread of the share polls, and not before.
        device.service(REQUEST_QUEUE);
        let attach = AttachRequest::new(1, ENDPOINT, AttachFlags::NONE);
        let map = |first| MapRequest::new(1, first, first + 0xfff, first, MapFlags::READ_WRITE);
        // The share's ring stays in its reach.
        requests.offer(&[attach.as_bytes(), map(SHARE_RING).as_bytes()]);
        until("ATTACH is answered", || requests.is_answered());
        for page in 1..20 {
            requests.offer(&[map(0x10_0000 + page * 0x1000).as_bytes()]);
            until("MAP is answered", || requests.is_answered());
            assert!(event_idx || !requests.wants_kicks());
        }
        let stats = iommu.stats().snapshot();
        assert_eq!((stats.kicks, stats.attaches, stats.maps, stats.polls, stats.ok), (1, 1, 20, 20, 21));
        assert_eq!(iommu.live_mappings(), 20);

        // The share goes: the IOMMU's requests are told of by kicks again, and by nothing else.
        share.stop(0);
        thread.join().unwrap();
        assert!(requests.wants_kicks());
        assert_eq!(iommu.stats().snapshot().sleeps, 1);
    }
}

#[test]
fn a_poller_that_goes_to_sleep_asks_for_the_kicks_of_both() {
    for event_idx in [true, false] {
        let (device, iommu, share, mut requests) = devices(PollPolicy::For(Duration::from_millis(1)), event_idx);
        for round in 1..=5 {
            requests.offer(&[&[]]);
            std::thread::scope(|scope| {
                scope.spawn(|| share.service(0));
                scope.spawn(|| device.service(REQUEST_QUEUE));
            });
            assert!(requests.is_answered() && requests.wants_kicks());
            let stats = iommu.stats().snapshot();
            assert_eq!((stats.kicks, stats.malformed), (round, round));
        }
    }
}
