//! The two devices on a [`Gate`], and a guest with its file open.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use calgary_tests::guest::iommu::{MAP_F_READ, MAP_F_WRITE, Request, Status};
use calgary_tests::guest::queue::Descriptor;
use calgary_tests::guest::{
    DeviceAddr, GuestOptions, GuestPhys, Iommu as Driver, Mapping, ROOT_FID, Session, ShareOptions,
};
use calgaryd::device::iommu::{Iommu, IommuDevice};
use calgaryd::device::share::{Attachment, ShareDevice};
use calgaryd::device::{PollPolicy, SideCore};
use calgaryd::supervisor::{Port, Supervisor};
use calgaryd::transport::socket::BoundSocket;
use iommu_calgary::TableSize;
use virtio_9p::{Options, Server};

use crate::TRANSPORT;
use crate::gate::{Gate, Stop, protocol};

/// Endpoint id of the share.
pub(crate) const ENDPOINT: u32 = 6 << 3;
/// Where a request lies that [`Bench::offer`] maps by hand.
pub(crate) const REQUEST: u64 = 0x10_0000;
/// Where its reply goes.
pub(crate) const REPLY: u64 = 0x20_0000;

/// See the module.
pub(crate) struct Bench {
    pub(crate) guest: Session,
    pub(crate) domain: u32,
    pub(crate) share: Arc<ShareDevice<Gate>>,
    /// Tells of each read that has begun.
    pub(crate) begun: Receiver<()>,
    /// Lets one end.
    pub(crate) open: Sender<()>,
    /// What [`REPLY`] is mapped to.
    pub(crate) reply: GuestPhys,
    _stop: Stop,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// Serves a gate through the IOMMU, whose removals wait no longer than `limit`, on a device that `change` may adjust.
    pub(crate) fn new(
        (gate, begun, open): (Gate, Receiver<()>, Sender<()>),
        limit: Duration,
        change: impl FnOnce(ShareDevice<Gate>) -> ShareDevice<Gate>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let iommu = Arc::new(Iommu::with_quiesce_limit(TableSize::MiB64, false, limit).unwrap());
        let phb = iommu.add_endpoint(ENDPOINT).unwrap();
        let attachment = Attachment::Behind { iommu: Arc::clone(&iommu), endpoint: ENDPOINT, phb };
        let server = Server::new(gate, Options::default());
        let tag = "gate".parse().unwrap();
        let share = ShareDevice::new(&tag, server, 65536, attachment, PollPolicy::Auto).unwrap();
        // One thread polls for both, as in the daemon.
        let core = SideCore::new(PollPolicy::Auto);
        let share = change(share).joined(&core);
        let device = IommuDevice::new(iommu, PollPolicy::Auto).joined(&core);
        let sockets = ["iommu", "share"].map(|name| folder.path().join(name));
        let ports = vec![
            Port::new(device, BoundSocket::bind(&sockets[0]).unwrap(), protocol()).unwrap(),
            Port::new(share.clone(), BoundSocket::bind(&sockets[1]).unwrap(), protocol()).unwrap(),
        ];
        let (supervisor, stop) = Supervisor::new(ports, false, Box::new(|| {})).unwrap();
        std::thread::spawn(move || supervisor.run());
        let [iommu_socket, socket] = sockets;
        let mut guest = Session::boot(GuestOptions {
            iommu_socket: Some(iommu_socket),
            shares: vec![ShareOptions { socket, endpoint: ENDPOINT, translated: true }],
            mapping: Mapping::Strict,
            iommu_transport: TRANSPORT,
            transport: TRANSPORT,
            ..GuestOptions::default()
        })
        .unwrap();
        guest.shares[0].client.lopen(ROOT_FID, 0).unwrap();
        let domain = guest.shares[0].domain.unwrap();
        let reply = guest.memory.take_run(16 << 10).unwrap();
        Self { guest, domain, share, begun, open, reply, _stop: Stop(stop), _folder: folder }
    }

    /// Maps the `bytes` bytes of a request in a page and up to 16 KiB for its reply, and offers them as chain 0.
    pub(crate) fn offer(&mut self, request: GuestPhys, bytes: u32, reply_bytes: u32) {
        let iommu = self.guest.iommu.clone().unwrap();
        iommu.map(self.domain, REQUEST, REQUEST + 4095, request, MAP_F_READ).unwrap();
        iommu.map(self.domain, REPLY, REPLY + u64::from(reply_bytes) - 1, self.reply, MAP_F_WRITE).unwrap();
        let queue = self.guest.shares[0].client.queue();
        for (index, (at, bytes, flags)) in (0..).zip([(REQUEST, bytes, 1), (REPLY, reply_bytes, 2)]) {
            let descriptor = Descriptor { address: DeviceAddr(at), bytes, flags, next: 1 };
            queue.ring().raw_descriptor(index, descriptor).unwrap();
        }
        queue.ring().raw_offer(0, u64::from(reply_bytes)).unwrap();
        queue.publish().unwrap();
        queue.force_kick().unwrap();
    }

    /// Unmaps what begins at `at`.
    pub(crate) fn unmap(&self, at: u64, bytes: u32) -> Status {
        unmap(self.guest.iommu.as_ref().unwrap(), self.domain, at, bytes)
    }
}

/// Unmaps `bytes` bytes from `at`.
pub(crate) fn unmap(iommu: &Driver, domain: u32, at: u64, bytes: u32) -> Status {
    iommu.request(Request::Unmap { domain, first: at, last: at + u64::from(bytes) - 1 }).unwrap()
}
