//! cloud-hypervisor's `--user-device`: the crate `vfio_user`'s client, which is the one it has, in the order and widths of
//! its PCI device. That client waits for every answer and takes a refusal for the beginning of a longer answer, so a server
//! that refuses anything of this stops the VMM.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use calgary_tests::guest::ninep::NONUNAME;
use calgary_tests::guest::virtio_pci::{PciFunction, VirtioPci};
use calgary_tests::guest::{ClientOptions, Direct, Doorbell, GuestMemory, GuestPhys, NinepClient, ROOT_FID};
use calgaryd::transport::TransportKind::VfioUser;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vfio_user::Client;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{NOTE, Served, serve};

/// A bound, not an expectation.
const PATIENCE: Duration = Duration::from_secs(60);
/// Regions as VFIO numbers them: BARs, the ROM, configuration space, VGA.
const ROM: u32 = 6;
const CONFIG: u32 = 7;
/// Kinds of interrupts as VFIO numbers them.
const INTX: u32 = 0;
const MSIX: u32 = 2;
/// `VFIO_REGION_INFO_FLAG_READ` and `_WRITE`; `_MMAP` would be 4.
const READ_WRITE: u32 = 3;
/// `VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER`.
const CONNECT: u32 = 1 << 2 | 1 << 5;
/// `VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER`.
const DISCONNECT: u32 = 1 << 0 | 1 << 5;
/// `VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK`.
const UNMASK: u32 = 1 << 0 | 1 << 4;
const MSIX_CAPABILITY: u32 = 0x11;
/// Enable, in the word behind the capability's head.
const MSIX_ENABLE: u32 = 1 << 15;
/// Where BAR 0 has the interrupt status (SPEC.md 15.4).
const ISR: u64 = 0x1000;
/// An address is the number of a BAR above this many bits of offset.
const BAR_SHIFT: u32 = 32;

/// The VMM's PCI device.
struct Device {
    client: Client,
    intx: EventFd,
    intx_in_use: bool,
    msix_at: u32,
    vectors: Vec<EventFd>,
}

impl Device {
    /// Attaches the device, as far as the VMM does before its guest runs.
    fn attach(served: &Served, memory: &GuestMemory) -> Self {
        let mut client = Client::new(&served.socket).unwrap();
        if client.resettable() {
            client.reset().unwrap();
        }
        let intx = EventFd::new(EFD_NONBLOCK).unwrap();
        let mut device = Self { client, intx, intx_in_use: false, msix_at: 0, vectors: Vec::new() };
        device.parse_capabilities();
        assert_eq!(device.client.get_irq_info(INTX).unwrap().count, 1);
        device.enable_intx();
        device.allocate_bars();
        for region in memory.regions() {
            let file = memory.file().as_raw_fd();
            device.client.dma_map(region.file_offset, region.base.0, region.bytes, file).unwrap();
        }
        device
    }

    /// Takes it from the guest again.
    fn detach(mut self, memory: &GuestMemory) {
        for region in memory.regions() {
            self.client.dma_unmap(region.base.0, region.bytes).unwrap();
        }
        self.client.shutdown().unwrap();
    }

    fn config(&mut self, offset: u32, width: usize) -> u32 {
        let mut bytes = [0; 4];
        self.client.region_read(CONFIG, offset.into(), &mut bytes[..width]).unwrap();
        u32::from_le_bytes(bytes)
    }

    fn set_config(&mut self, offset: u32, width: usize, value: u32) {
        self.client.region_write(CONFIG, offset.into(), &value.to_le_bytes()[..width]).unwrap();
    }

    fn parse_capabilities(&mut self) {
        assert_ne!(self.config(6, 2) & 1 << 4, 0, "the function lists no capabilities");
        let mut at = self.config(0x34, 1) & 0xfc;
        while at != 0 {
            if self.config(at, 1) == MSIX_CAPABILITY {
                assert_eq!(self.client.get_irq_info(MSIX).unwrap().count, 2);
                let (control, table, pending) =
                    (self.config(at + 2, 2), self.config(at + 4, 4), self.config(at + 8, 4));
                // Both in BAR 1, the table at a page's beginning, where the VMM need not move it.
                assert_eq!((control & 0x7ff, table, pending & 7), (1, 1, 1));
                let vectors = (0..=control & 0x7ff).map(|_| EventFd::new(EFD_NONBLOCK).unwrap());
                (self.msix_at, self.vectors) = (at, vectors.collect());
            }
            at = self.config(at + 1, 1) & 0xfc;
        }
        assert_ne!(self.msix_at, 0, "the function has no MSI-X");
    }

    /// Finds each BAR's size in configuration space, and compares it with the region's.
    fn allocate_bars(&mut self) {
        let mut bar = 0;
        while bar <= ROM {
            let register = if bar == ROM { 0x30 } else { 0x10 + 4 * bar };
            let is_64_bit = bar != ROM && self.config(register, 4) & 4 != 0;
            assert_eq!(self.config(register, 4) & 1, 0, "an I/O BAR");
            self.set_config(register, 4, u32::MAX);
            let mut mask = u64::from(self.config(register, 4) & !0xf);
            if is_64_bit {
                self.set_config(register + 4, 4, u32::MAX);
                mask |= u64::from(self.config(register + 4, 4)) << 32;
            } else if mask != 0 {
                mask |= u64::from(u32::MAX) << 32;
            }
            let region = self.client.region(bar).unwrap();
            assert_eq!(region.size, mask.wrapping_neg(), "BAR {bar}");
            if region.size != 0 {
                assert_eq!((region.flags, region.sparse_areas.len()), (READ_WRITE, 0), "BAR {bar} can be mapped");
            }
            bar += if is_64_bit { 2 } else { 1 };
        }
    }

    fn enable_intx(&mut self) {
        self.client.set_irqs(INTX, CONNECT, 0, 1, &[self.intx.as_raw_fd()]).unwrap();
        self.intx_in_use = true;
    }

    fn disable(&mut self, kind: u32) {
        self.client.set_irqs(kind, DISCONNECT, 0, 0, &[]).unwrap();
    }

    /// The guest switches MSI-X: vectors first, then the register.
    fn switch_msix(&mut self, on: bool) {
        if on {
            self.disable(INTX);
            self.intx_in_use = false;
            let fds: Vec<_> = self.vectors.iter().map(AsRawFd::as_raw_fd).collect();
            let count = u32::try_from(fds.len()).unwrap();
            self.client.set_irqs(MSIX, CONNECT, 0, count, &fds).unwrap();
        } else {
            self.disable(MSIX);
            self.enable_intx();
        }
        let control = self.config(self.msix_at + 2, 2) & !MSIX_ENABLE;
        self.set_config(self.msix_at + 2, 2, control | if on { MSIX_ENABLE } else { 0 });
    }

    /// The guest has accessed a BAR, which may have ended a level interrupt.
    fn end_of_interrupt(&mut self) {
        if self.intx_in_use {
            self.client.set_irqs(INTX, UNMASK, 0, 1, &[]).unwrap();
        }
    }
}

/// The function as the guest's driver has it.
#[derive(Clone)]
struct Function(Arc<Mutex<Device>>);

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Function")
    }
}

impl Function {
    fn device(&self) -> MutexGuard<'_, Device> {
        self.0.lock().unwrap()
    }
}

fn place(address: u64) -> (u32, u64) {
    (u32::try_from(address >> BAR_SHIFT).unwrap(), address & ((1 << BAR_SHIFT) - 1))
}

impl PciFunction for Function {
    fn read_config(&self, register: u8) -> io::Result<u32> {
        Ok(self.device().config(u32::from(register & 0xfc), 4))
    }

    fn write_config(&self, register: u8, value: u32) -> io::Result<()> {
        self.device().set_config(u32::from(register & 0xfc), 4, value);
        Ok(())
    }

    fn place_bar(&self, index: u8) -> io::Result<u64> {
        Ok(u64::from(index) << BAR_SHIFT)
    }

    fn read(&self, address: u64, bytes: u64) -> io::Result<u64> {
        let mut value = [0; 8];
        self.read_bytes(address, &mut value[..usize::try_from(bytes).unwrap()])?;
        Ok(u64::from_le_bytes(value))
    }

    fn write(&self, address: u64, bytes: u64, value: u64) -> io::Result<()> {
        let (bar, offset) = place(address);
        let mut device = self.device();
        device.client.region_write(bar, offset, &value.to_le_bytes()[..usize::try_from(bytes).unwrap()]).unwrap();
        device.end_of_interrupt();
        Ok(())
    }

    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        let (bar, offset) = place(address);
        let mut device = self.device();
        device.client.region_read(bar, offset, buffer).unwrap();
        device.end_of_interrupt();
        Ok(())
    }

    /// Vector 0 is for configuration changes.
    fn vector(&self, queue: u16) -> Option<u16> {
        (!self.device().intx_in_use).then_some(queue + 1)
    }

    fn doorbell(&self, queue: u16, address: u64) -> io::Result<Arc<dyn Doorbell>> {
        let device = self.device();
        let call = if device.intx_in_use { &device.intx } else { &device.vectors[usize::from(queue) + 1] };
        let call = call.try_clone()?;
        Ok(Arc::new(Bell { function: self.clone(), queue, address, call }))
    }
}

#[derive(Debug)]
struct Bell {
    function: Function,
    queue: u16,
    address: u64,
    call: EventFd,
}

impl Doorbell for Bell {
    fn ring(&self) -> io::Result<()> {
        self.function.write(self.address, 2, self.queue.into())
    }

    fn wait(&self, timeout: Duration) -> io::Result<bool> {
        // SAFETY: the event outlives the borrow.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.call.as_raw_fd()) };
        let limit = Timespec::try_from(timeout).map_err(io::Error::other)?;
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&limit))?;
        let called = self.call.read().is_ok();
        if called && self.function.device().intx_in_use {
            // The guest's handler asks whether it was this device.
            return Ok(self.function.read(ISR, 1)? & 1 != 0);
        }
        Ok(called)
    }
}

/// A guest's driver reads the note, woken by interrupts.
fn read_the_note(function: &Function, memory: &Arc<GuestMemory>) {
    let device = Box::new(VirtioPci::begin_with(function.clone()).unwrap());
    let mut client =
        NinepClient::start(device, Arc::clone(memory), Arc::new(Direct), ClientOptions::default()).unwrap();
    assert_eq!(client.mount_tag(), b"home");
    client.version(65_536).unwrap();
    client.attach(ROOT_FID, b"", NONUNAME).unwrap();
    client.walk(ROOT_FID, 1, &[b"note"]).unwrap();
    client.lopen(1, 0).unwrap();
    assert_eq!(client.read(1, 0, 4096).unwrap(), NOTE);
}

#[test]
fn cloud_hypervisors_vfio_user_client_serves_a_guest_with_intx_and_msix_twice() {
    let (done, wait) = channel();
    let sequence = std::thread::spawn(move || {
        let served = serve(VfioUser);
        // As that of a guest with RAM on both sides of the hole below 4 GiB.
        let regions = [(GuestPhys(0), 8 << 20), (GuestPhys(4 << 30), 8 << 20)];
        let memory = Arc::new(GuestMemory::with_regions(&regions).unwrap());
        for _ in 0..2 {
            let function = Function(Arc::new(Mutex::new(Device::attach(&served, &memory))));
            read_the_note(&function, &memory);
            function.device().switch_msix(true);
            read_the_note(&function, &memory);
            function.device().switch_msix(false);
            read_the_note(&function, &memory);
            let device = Arc::try_unwrap(function.0).ok().expect("the driver is gone").into_inner().unwrap();
            device.detach(&memory);
        }
        done.send(()).unwrap();
    });
    // A client that waits for an answer that does not come is not left to wait for ever.
    if wait.recv_timeout(PATIENCE) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        sequence.join().unwrap();
        return;
    }
    panic!("the client still waits for an answer");
}
