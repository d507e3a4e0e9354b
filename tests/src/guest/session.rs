//! A whole guest: its memory, its IOMMU and its shares.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use frontend_spec::TransportKind;

use super::dma::{Direct, DmaError, DmaMapper};
use super::iommu::{
    ATTACH_F_BYPASS, DomainMapper, F_BYPASS_CONFIG, F_PROBE, Iommu, IommuError, IommuOptions, IovaAllocator, IovaOrder,
    Mapping,
};
use super::memory::{GuestMemory, MemoryError};
use super::ninep::{ClientOptions, LINUX_MAX_MSIZE, NONUNAME, NinepClient, NinepError, Qid};
use super::transport::{Transport, TransportError};
use super::vfio_user::VfioUserDevice;
use super::vhost_user::{VhostUserDevice, VhostUserOptions};

/// The fid of each share's root after [`Session::boot`].
pub const ROOT_FID: u32 = 0;

/// Why a guest did not come up, or fell over.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Its memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A connection.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Its IOMMU.
    #[error("virtio-iommu: {0}")]
    Iommu(#[from] IommuError),
    /// A share.
    #[error("share {share}: {cause}")]
    Share {
        /// Number of the share, from 0.
        share: usize,
        /// What failed.
        cause: NinepError,
    },
    /// A mapping.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// A share is to be translated, but there is nothing to translate it.
    #[error("share {0} is translated but the guest has no IOMMU: give its socket, or do not translate")]
    NoIommu(usize),
    /// The IOMMU has fewer domains than the guest has translated shares.
    #[error("the IOMMU's domain range has no room for share {0}")]
    NoDomain(usize),
}

/// One 9P device of the guest.
#[derive(Clone, Debug)]
pub struct ShareOptions {
    /// The device's socket.
    pub socket: PathBuf,
    /// Its endpoint id at the IOMMU.
    pub endpoint: u32,
    /// Whether its DMA is translated.
    pub translated: bool,
}

/// What the guest is made of.
#[derive(Clone, Debug)]
pub struct GuestOptions {
    /// RAM in MiB.
    pub memory_mib: u64,
    /// The IOMMU's socket, if the guest has one.
    pub iommu_socket: Option<PathBuf>,
    /// What is spoken there.
    pub iommu_transport: TransportKind,
    /// The 9P devices.
    pub shares: Vec<ShareOptions>,
    /// What is spoken on their sockets.
    pub transport: TransportKind,
    /// When the drivers map and unmap.
    pub mapping: Mapping,
    /// Nothing is mapped: translated shares are attached to bypass domains (`iommu.passthrough=1`).
    pub passthrough: bool,
    /// From which end IOVAs are taken.
    pub iova_order: IovaOrder,
    /// How the IOMMU is driven.
    pub iommu: IommuOptions,
    /// How the 9P devices are driven; `translated` is set for each share.
    pub client: ClientOptions,
    /// The largest 9P message to propose, in bytes. With 0 no session is opened.
    pub msize: u32,
}

impl Default for GuestOptions {
    /// 64 MiB, no device, strict mapping, and otherwise what Linux does.
    fn default() -> Self {
        Self {
            memory_mib: 64,
            iommu_socket: None,
            iommu_transport: TransportKind::VhostUser,
            shares: Vec::new(),
            transport: TransportKind::VhostUser,
            mapping: Mapping::Strict,
            passthrough: false,
            iova_order: IovaOrder::TopDown,
            iommu: IommuOptions::default(),
            client: ClientOptions::default(),
            msize: LINUX_MAX_MSIZE,
        }
    }
}

/// A share in use.
#[derive(Debug)]
pub struct Share {
    /// Its client; [`ROOT_FID`] is attached to the root.
    pub client: NinepClient,
    /// Its endpoint id.
    pub endpoint: u32,
    /// Its domain, if it is translated.
    pub domain: Option<u32>,
    /// The root, unless no session was opened.
    pub root: Option<Qid>,
}

/// A guest that is up.
#[derive(Debug)]
pub struct Session {
    // Shares before the IOMMU: they are dropped first, while their mappings still exist.
    /// The shares, in the order of the options.
    pub shares: Vec<Share>,
    /// The IOMMU.
    pub iommu: Option<Arc<Iommu>>,
    /// The RAM.
    pub memory: Arc<GuestMemory>,
    options: GuestOptions,
}

/// Where each queue of a paused guest stopped.
#[derive(Clone, Debug)]
pub struct Paused {
    iommu: Option<[u16; 2]>,
    shares: Vec<u16>,
}

impl Session {
    /// Bring a guest up: connect to the IOMMU, probe and attach the translated endpoints to a domain
    /// each, start the shares, and open a 9P session on each with [`ROOT_FID`] at the root.
    ///
    /// # Errors
    /// [`SessionError`] with the step that failed.
    pub fn boot(options: GuestOptions) -> Result<Self, SessionError> {
        let memory = Arc::new(GuestMemory::new(options.memory_mib)?);
        let iommu = match &options.iommu_socket {
            Some(socket) => {
                let device = connect(options.iommu_transport, socket, 2, &memory)?;
                let iommu = Iommu::start(device, Arc::clone(&memory), &options.iommu)?;
                Some(Arc::new(iommu))
            }
            None => None,
        };
        let mut session = Self { shares: Vec::new(), iommu, memory, options };
        for index in 0..session.options.shares.len() {
            let share = session.start_share(index)?;
            session.shares.push(share);
        }
        Ok(session)
    }

    /// Stop all queues, as a VMM does for a paused guest.
    ///
    /// # Errors
    /// [`SessionError`] when a device does not answer.
    pub fn pause(&mut self) -> Result<Paused, SessionError> {
        let mut shares = Vec::new();
        for (share, state) in self.shares.iter_mut().enumerate() {
            shares.push(state.client.stop().map_err(at(share))?);
        }
        let iommu = self.iommu.as_ref().map(|iommu| iommu.stop()).transpose()?;
        Ok(Paused { iommu, shares })
    }

    /// Start all queues where they stopped.
    ///
    /// # Errors
    /// [`SessionError`] when a device does not answer.
    pub fn resume(&mut self, paused: &Paused) -> Result<(), SessionError> {
        if let (Some(iommu), Some(bases)) = (&self.iommu, paused.iommu) {
            iommu.resume(bases)?;
        }
        for (share, (state, base)) in self.shares.iter_mut().zip(&paused.shares).enumerate() {
            state.client.resume(*base).map_err(at(share))?;
        }
        Ok(())
    }

    /// Reboot the guest with the connections kept: all queues stop and start again at base 0, and
    /// the new kernel attaches, maps and mounts as [`Session::boot`] does.
    ///
    /// # Errors
    /// [`SessionError`] with the step that failed.
    pub fn reboot(&mut self) -> Result<(), SessionError> {
        self.pause()?;
        self.start_again()
    }

    /// Lose all connections, make new ones and come up as after a reboot.
    ///
    /// # Errors
    /// [`SessionError`] with the step that failed.
    pub fn reconnect(&mut self) -> Result<(), SessionError> {
        for (share, state) in self.shares.iter_mut().enumerate() {
            state.client.reconnect().map_err(at(share))?;
        }
        if let Some(iommu) = &self.iommu {
            iommu.reconnect()?;
        }
        self.start_again()
    }

    fn start_again(&mut self) -> Result<(), SessionError> {
        if let Some(iommu) = &self.iommu {
            iommu.restart()?;
        }
        for index in 0..self.shares.len() {
            let (mapper, domain) = self.mapper(index)?;
            let msize = self.options.msize;
            let share = &mut self.shares[index];
            share.domain = domain;
            share.client.restart(mapper).map_err(at(index))?;
            share.root = mount(&mut share.client, msize).map_err(at(index))?;
        }
        Ok(())
    }

    fn start_share(&self, index: usize) -> Result<Share, SessionError> {
        let options = &self.options.shares[index];
        let device = connect(self.options.transport, &options.socket, 1, &self.memory)?;
        let (mapper, domain) = self.mapper(index)?;
        let client_options = ClientOptions { translated: options.translated, ..self.options.client };
        let memory = Arc::clone(&self.memory);
        let mut client = NinepClient::start(device, memory, mapper, client_options).map_err(at(index))?;
        let root = mount(&mut client, self.options.msize).map_err(at(index))?;
        Ok(Share { client, endpoint: options.endpoint, domain, root })
    }

    /// Attach a share's endpoint to a domain of its own, and make the mapper for it.
    fn mapper(&self, index: usize) -> Result<(Arc<dyn DmaMapper>, Option<u32>), SessionError> {
        let share = &self.options.shares[index];
        if !share.translated {
            return Ok((Arc::new(Direct), None));
        }
        let iommu = self.iommu.as_ref().ok_or(SessionError::NoIommu(index))?;
        let config = iommu.config();
        let reserved = if iommu.features() & F_PROBE == 0 { Vec::new() } else { iommu.probe(share.endpoint)? };
        // As in Linux, the first domain is kept for bypass where that exists.
        let first = u32::from(iommu.features() & F_BYPASS_CONFIG != 0);
        let domain = u32::try_from(index)
            .ok()
            .and_then(|index| config.domain_first.checked_add(first)?.checked_add(index))
            .filter(|domain| *domain <= config.domain_last)
            .ok_or(SessionError::NoDomain(index))?;
        if self.options.passthrough {
            iommu.attach(domain, share.endpoint, ATTACH_F_BYPASS)?;
            return Ok((Arc::new(Direct), Some(domain)));
        }
        iommu.attach(domain, share.endpoint, 0)?;
        let iova = IovaAllocator::new(config.input_first, config.input_last, &reserved, self.options.iova_order);
        let mapper = DomainMapper::new(Arc::clone(iommu), domain, iova, self.options.mapping);
        Ok((Arc::new(mapper), Some(domain)))
    }
}

/// The device of `queues` queues behind `socket`.
fn connect(
    transport: TransportKind,
    socket: &Path,
    queues: usize,
    memory: &Arc<GuestMemory>,
) -> Result<Box<dyn Transport>, TransportError> {
    let memory = Arc::clone(memory);
    Ok(match transport {
        TransportKind::VhostUser => Box::new(VhostUserDevice::connect(memory, VhostUserOptions::new(socket, queues))?),
        TransportKind::VfioUser => Box::new(VfioUserDevice::connect(memory, socket)?),
    })
}

fn mount(client: &mut NinepClient, msize: u32) -> Result<Option<Qid>, NinepError> {
    if msize == 0 {
        return Ok(None);
    }
    client.version(msize)?;
    client.attach(ROOT_FID, b"", NONUNAME).map(Some)
}

fn at(share: usize) -> impl FnOnce(NinepError) -> SessionError {
    move |cause| SessionError::Share { share, cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::demo::transfer;
    use crate::guest::fake::{FakeDevice, FakeIommu, FakeServer};
    use crate::guest::transport::F_ACCESS_PLATFORM;

    const ENDPOINT: u32 = 0x30;

    struct Machine {
        iommu: FakeDevice<FakeIommu>,
        _share: FakeDevice<FakeServer>,
        session: Session,
    }

    fn boot(mapping: Mapping) -> Machine {
        let iommu = FakeDevice::start(FakeIommu::new());
        let server = FakeServer::new(Some((Arc::clone(&iommu.model), ENDPOINT)));
        let share = FakeDevice::start(server);
        let shares = vec![ShareOptions { socket: share.socket().to_path_buf(), endpoint: ENDPOINT, translated: true }];
        let options = GuestOptions {
            iommu_socket: Some(iommu.socket().to_path_buf()),
            shares,
            mapping,
            ..GuestOptions::default()
        };
        let session = Session::boot(options).unwrap();
        assert_eq!(share.acked() & F_ACCESS_PLATFORM, 0, "QEMU strips bit 33");
        assert_ne!(session.shares[0].client.features() & F_ACCESS_PLATFORM, 0);
        Machine { iommu, _share: share, session }
    }

    fn live_pages(machine: &Machine) -> usize {
        machine.iommu.model.state().domains.values().map(|pages| pages.len()).sum()
    }

    /// The ring stays mapped: two pages of 128 entries.
    const RING_PAGES: usize = 2;

    #[test]
    fn strict_mapping_leaves_nothing_mapped_but_the_ring() {
        let mut machine = boot(Mapping::Strict);
        assert_eq!(machine.session.shares[0].client.mount_tag(), b"share");
        let report = transfer(&mut machine.session.shares[0], b"transfer.bin", 2).unwrap();
        assert!(report.is_intact());
        assert_eq!(report.requests.maps, report.requests.unmaps);
        // 512 pages each way, and request, reply and table of each of 5 messages each way.
        assert_eq!(report.requests.maps, 2 * (512 + 5 * 3));
        assert_eq!(live_pages(&machine), RING_PAGES);
        let ring = *machine.session.shares[0].client.queue().ring().placement();
        assert_ne!(ring.descriptors.memory.0, ring.descriptors.device.0);
    }

    #[test]
    fn the_mappings_of_a_request_can_go_together() {
        let mut machine = boot(Mapping::StrictTogether);
        let kicks = |machine: &Machine| machine.session.iommu.as_ref().unwrap().with_requests(|queue| queue.kicks());
        let before = kicks(&machine);
        let report = transfer(&mut machine.session.shares[0], b"transfer.bin", 1).unwrap();
        assert!(report.is_intact());
        assert_eq!(report.requests.maps, report.requests.unmaps);
        assert_eq!(live_pages(&machine), RING_PAGES);
        // Three chunks each way and three other messages, each with one kick to map and one to unmap.
        assert!(kicks(&machine) - before <= 2 * (2 * 3 + 3), "{} kicks", kicks(&machine) - before);
        assert!(report.requests.maps > 512);
    }

    #[test]
    fn file_data_can_be_mapped_alone() {
        let mut machine = boot(Mapping::StrictData);
        transfer(&mut machine.session.shares[0], b"transfer.bin", 1).unwrap();
        let kept = live_pages(&machine);
        let report = transfer(&mut machine.session.shares[0], b"transfer.bin", 1).unwrap();
        assert!(report.is_intact());
        assert_eq!((report.requests.maps, report.requests.unmaps), (512, 512), "the data each way, and nothing else");
        assert_eq!(live_pages(&machine), kept, "messages stay mapped, data do not");
    }

    #[test]
    fn lazy_unmaps_are_all_done_after_a_flush() {
        let mut machine = boot(Mapping::Lazy);
        let report = transfer(&mut machine.session.shares[0], b"transfer.bin", 1).unwrap();
        assert!(report.is_intact());
        assert_eq!(report.requests.maps, report.requests.unmaps);
        machine.session.shares[0].client.mapper().flush().unwrap();
        assert_eq!(live_pages(&machine), RING_PAGES);
        let kicks = machine.session.iommu.as_ref().unwrap().with_requests(|queue| queue.kicks());
        let requests: u64 = machine.iommu.model.state().requests.values().sum();
        assert!(kicks < requests * 2 / 3, "{kicks} kicks for {requests} requests");
    }

    #[test]
    fn kept_mappings_are_made_once() {
        let mut machine = boot(Mapping::Kept);
        transfer(&mut machine.session.shares[0], b"transfer.bin", 1).unwrap();
        let report = transfer(&mut machine.session.shares[0], b"transfer.bin", 1).unwrap();
        assert!(report.is_intact());
        assert_eq!(report.requests.unmaps, 0);
        // Its buffer is made of the pages of the first one, which come out of the pool again.
        assert_eq!(report.requests.maps, 0);
    }

    #[test]
    fn a_pause_keeps_the_session_and_a_reboot_starts_anew() {
        let mut machine = boot(Mapping::Strict);
        let paused = machine.session.pause().unwrap();
        assert_ne!(paused.shares[0], 0);
        machine.session.resume(&paused).unwrap();
        assert_eq!(machine.iommu.model.state().resets, 0);
        machine.session.shares[0].client.walk(ROOT_FID, 7, &[]).unwrap();

        machine.session.reboot().unwrap();
        assert!(machine.iommu.model.state().resets > 0);
        assert_eq!(machine.session.shares[0].client.clunk(7).unwrap_err().errno(), Some(9));
        assert!(transfer(&mut machine.session.shares[0], b"transfer.bin", 1).unwrap().is_intact());
        assert_eq!(live_pages(&machine), RING_PAGES);
    }

    #[test]
    fn a_lost_connection_can_be_made_again() {
        let mut machine = boot(Mapping::Lazy);
        machine.session.reconnect().unwrap();
        assert!(transfer(&mut machine.session.shares[0], b"transfer.bin", 1).unwrap().is_intact());
    }

    #[test]
    fn a_ring_address_outside_ram_is_explained() {
        let iommu = FakeDevice::start(FakeIommu::new());
        let server = FakeServer::new(Some((Arc::clone(&iommu.model), ENDPOINT)));
        let share = FakeDevice::start(server);
        let memory = Arc::new(GuestMemory::new(16).unwrap());
        let mut device =
            VhostUserDevice::connect(Arc::clone(&memory), VhostUserOptions::new(share.socket(), 1)).unwrap();
        let run = memory.take_run(8192).unwrap();
        let outside = crate::guest::address::DeviceAddr(16 << 20);
        let ring = crate::guest::queue::RingPlacement::contiguous(run, outside, 128);
        let error = crate::guest::transport::Transport::start_queue(&mut device, 0, &ring, 128, 0).unwrap_err();
        assert!(error.to_string().contains("low RAM"), "{error}");
    }

    #[test]
    fn a_translated_share_needs_an_iommu() {
        let share = FakeDevice::start(FakeServer::new(None));
        let shares = vec![ShareOptions { socket: share.socket().to_path_buf(), endpoint: ENDPOINT, translated: true }];
        let error = Session::boot(GuestOptions { shares, ..GuestOptions::default() }).unwrap_err();
        assert!(matches!(error, SessionError::NoIommu(0)));
    }
}
