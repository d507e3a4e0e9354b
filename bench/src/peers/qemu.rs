//! QEMU's own devices, without a guest.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use calgary_tests::guest::address::GuestPhys;
use calgary_tests::guest::memory::RamRegion;
use calgary_tests::guest::{GuestMemory, QtestBus, QtestDevice};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::child::Server;
use super::programs::Programs;
use crate::failure::Failure;
use crate::measure::Cores;

/// A PC has firmware and video memory below 1 MiB.
const FIRST_RAM: u64 = 1 << 20;
/// How long QEMU may take to listen.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// What the machine has.
#[derive(Clone, Debug)]
pub(crate) struct QemuOptions<'a> {
    /// RAM in MiB, at most 2048.
    pub(crate) memory_mib: u64,
    /// Whether it has a virtio-iommu.
    pub(crate) iommu: bool,
    /// The folder of its virtio-9p, if it has one.
    pub(crate) folder: Option<&'a Path>,
    /// Whether the virtio-9p is behind the virtio-iommu.
    pub(crate) translated: bool,
}

/// A QEMU under `-accel qtest`.
#[derive(Debug)]
pub(crate) struct Qemu {
    /// The process.
    pub(crate) server: Server,
    /// The machine's RAM.
    pub(crate) memory: Arc<GuestMemory>,
    /// Its devices.
    pub(crate) bus: Arc<QtestBus>,
}

impl Qemu {
    /// Name in reports.
    pub(crate) const NAME: &'static str = "QEMU";

    /// PCI device number of the virtio-iommu.
    const IOMMU_SLOT: u8 = 5;
    /// PCI device number of the endpoint: a virtio-9p, or a virtio-rng where there is none.
    const ENDPOINT_SLOT: u8 = 6;
    /// Id of that endpoint at the IOMMU.
    pub(crate) const ENDPOINT: u32 = 0x30;

    /// Starts it with its socket in `work`.
    pub(crate) fn start(
        programs: &Programs,
        name: &'static str,
        options: &QemuOptions<'_>,
        cores: Cores,
        work: &Path,
    ) -> Result<Self, Failure> {
        let system = |cause| Failure::system("make guest memory", cause);
        let bytes = options.memory_mib << 20;
        let memfd = memfd_create("calgary-bench-guest", MemfdFlags::CLOEXEC).map_err(system)?;
        ftruncate(&memfd, bytes).map_err(system)?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), memfd.as_raw_fd());
        let region = RamRegion { base: GuestPhys(FIRST_RAM), bytes: bytes - FIRST_RAM, file_offset: FIRST_RAM };
        let memory = Arc::new(GuestMemory::from_file(memfd.into(), vec![region])?);
        let socket = work.join("qtest.sock");

        let mut command = programs.qemu();
        let mib = options.memory_mib;
        command.args(["-accel", "qtest", "-nodefaults", "-display", "none", "-M", "q35,memory-backend=mem"]);
        command.args(["-m", &format!("{mib}M")]);
        command.arg("-object").arg(format!("memory-backend-file,id=mem,size={mib}M,mem-path={path},share=on"));
        command.arg("-qtest").arg(format!("unix:{},server=on,wait=off", socket.display()));
        command.args(["-qtest-log", "none"]);
        // Without ioeventfd a kick is served where it arrives: one wake-up less for QEMU.
        if options.iommu {
            let slot = Self::IOMMU_SLOT;
            command.arg("-device").arg(format!("virtio-iommu-pci,addr={slot}"));
        }
        let slot = Self::ENDPOINT_SLOT;
        let platform = if options.translated { "on" } else { "off" };
        let endpoint = format!("addr={slot},disable-legacy=on,iommu_platform={platform},ioeventfd=off");
        match options.folder {
            Some(folder) => {
                let path = folder.display();
                command
                    .arg("-fsdev")
                    .arg(format!("local,id=share,path={path},security_model=passthrough,multidevs=remap"));
                command.arg("-device").arg(format!("virtio-9p-pci,fsdev=share,mount_tag=share,{endpoint}"));
            }
            None => {
                command.arg("-device").arg(format!("virtio-rng-pci,{endpoint}"));
            }
        }
        let mut server = Server::start(name, command, cores, work)?;
        server.wait_for(&socket)?;
        let bus = QtestBus::connect(&socket, CONNECT_LIMIT).map_err(|cause| server.did_not_start(cause.to_string()))?;
        Ok(Self { server, memory, bus })
    }

    /// The virtio-iommu.
    pub(crate) fn iommu(&self) -> Result<QtestDevice, Failure> {
        self.open(Self::IOMMU_SLOT)
    }

    /// The virtio-9p.
    pub(crate) fn share(&self) -> Result<QtestDevice, Failure> {
        self.open(Self::ENDPOINT_SLOT)
    }

    fn open(&self, slot: u8) -> Result<QtestDevice, Failure> {
        // A QEMU that dislikes its command line ends after it has begun to listen.
        QtestDevice::open(&self.bus, slot).map_err(|cause| self.server.did_not_start(cause.to_string()))
    }
}
