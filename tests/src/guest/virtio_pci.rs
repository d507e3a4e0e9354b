//! The driver's side of virtio over PCI (virtio 1.2 §4.1), whatever carries the accesses to the function.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::queue::RingPlacement;
use super::transport::{Doorbell, Transport, TransportError, message};

/// How long a device may take for a reset.
const RESET_LIMIT: Duration = Duration::from_secs(20);

/// A PCI function as its driver reaches it.
pub trait PciFunction: Debug + Send + Sync {
    /// Reads the 32 bits of configuration space at `register`, rounded down to a multiple of 4.
    ///
    /// # Errors
    /// What the carrier says.
    fn read_config(&self, register: u8) -> io::Result<u32>;

    /// Writes them.
    ///
    /// # Errors
    /// What the carrier says.
    fn write_config(&self, register: u8, value: u32) -> io::Result<()>;

    /// Gives the memory BAR `index` an address, and returns it.
    ///
    /// # Errors
    /// What the carrier says.
    fn place_bar(&self, index: u8) -> io::Result<u64>;

    /// Reads a register of `bytes` bytes (1, 2, 4) at `address`.
    ///
    /// # Errors
    /// What the carrier says.
    fn read(&self, address: u64, bytes: u64) -> io::Result<u64>;

    /// Writes it.
    ///
    /// # Errors
    /// What the carrier says.
    fn write(&self, address: u64, bytes: u64, value: u64) -> io::Result<()>;

    /// Reads any number of bytes at `address`.
    ///
    /// # Errors
    /// What the carrier says.
    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// The interrupt vector for queue `queue`, if there are interrupts.
    fn vector(&self, _queue: u16) -> Option<u16> {
        None
    }

    /// What kicks queue `queue`, whose doorbell is at `address`, and waits for its interrupt.
    ///
    /// # Errors
    /// What the carrier says.
    fn doorbell(&self, queue: u16, address: u64) -> io::Result<Arc<dyn Doorbell>>;

    /// Loses the connection and makes a new one, where the connection is the device's own.
    ///
    /// # Errors
    /// What the carrier says.
    fn reconnect(&mut self) -> Result<(), TransportError> {
        Ok(())
    }
}

/// Register blocks of a virtio-pci device.
#[derive(Clone, Copy, Debug, Default)]
struct Blocks {
    common: u64,
    notify: u64,
    notify_multiplier: u64,
    device: u64,
}

/// Offsets in the common configuration block (virtio 1.2 §4.1.4.3).
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(super) const DEVICE_FEATURE: u64 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const NUM_QUEUES: u64 = 0x12;
    pub(super) const STATUS: u64 = 0x14;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_VECTOR: u64 = 0x1a;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub(super) const QUEUE_DESC: u64 = 0x20;
    pub(super) const QUEUE_DRIVER: u64 = 0x28;
    pub(super) const QUEUE_DEVICE: u64 = 0x30;
}

const STATUS_ACKNOWLEDGE: u64 = 1;
const STATUS_DRIVER: u64 = 2;
const STATUS_DRIVER_OK: u64 = 4;
const STATUS_FEATURES_OK: u64 = 8;

/// PCI vendor of virtio devices.
const VIRTIO_VENDOR: u32 = 0x1af4;
/// The PCI capability that a vendor defines for itself.
const VENDOR_CAPABILITY: u8 = 0x09;

/// A modern virtio device that is the function `F`.
#[derive(Debug)]
pub struct VirtioPci<F> {
    function: F,
    blocks: Blocks,
    offered: u64,
    negotiated: u64,
    queues: usize,
    running: bool,
}

impl<F: PciFunction> VirtioPci<F> {
    /// Finds the device's registers and resets it.
    ///
    /// # Errors
    /// [`TransportError::Missing`] when there is no modern virtio device, [`TransportError::Message`] when an access fails.
    pub fn begin_with(function: F) -> Result<Self, TransportError> {
        let blocks = message("finding a device", find_blocks(&function))?
            .ok_or(TransportError::Missing("virtio 1.0 over PCI at this address"))?;
        let mut device = Self { function, blocks, offered: 0, negotiated: 0, queues: 0, running: false };
        message("reading a device's features", device.begin())?;
        Ok(device)
    }

    /// The function.
    pub fn function(&self) -> &F {
        &self.function
    }

    fn get(&self, offset: u64, bytes: u64) -> io::Result<u64> {
        self.function.read(self.blocks.common + offset, bytes)
    }

    fn set(&self, offset: u64, bytes: u64, value: u64) -> io::Result<()> {
        self.function.write(self.blocks.common + offset, bytes, value)
    }

    /// Resets the device and waits until it has done so.
    fn reset(&mut self) -> io::Result<()> {
        self.running = false;
        self.set(common::STATUS, 1, 0)?;
        let start = Instant::now();
        while self.get(common::STATUS, 1)? != 0 {
            if start.elapsed() > RESET_LIMIT {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Reset, and come as far as the choice of features.
    fn begin(&mut self) -> io::Result<()> {
        self.reset()?;
        self.set(common::STATUS, 1, STATUS_ACKNOWLEDGE | STATUS_DRIVER)?;
        self.offered = 0;
        for half in [0, 1] {
            self.set(common::DEVICE_FEATURE_SELECT, 4, half)?;
            self.offered |= self.get(common::DEVICE_FEATURE, 4)? << (32 * half);
        }
        self.queues = usize::try_from(self.get(common::NUM_QUEUES, 2)?).unwrap_or(0);
        Ok(())
    }

    fn accept(&mut self) -> io::Result<bool> {
        for half in [0, 1] {
            self.set(common::DRIVER_FEATURE_SELECT, 4, half)?;
            self.set(common::DRIVER_FEATURE, 4, self.negotiated >> (32 * half) & 0xffff_ffff)?;
        }
        self.set(common::STATUS, 1, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK)?;
        Ok(self.get(common::STATUS, 1)? & STATUS_FEATURES_OK != 0)
    }

    fn start(&mut self, index: u16, ring: &RingPlacement, size: u16) -> io::Result<Arc<dyn Doorbell>> {
        if !self.running && self.get(common::STATUS, 1)? & STATUS_FEATURES_OK == 0 {
            // A stop reset the device.
            self.begin()?;
            self.accept()?;
        }
        self.set(common::QUEUE_SELECT, 2, u64::from(index))?;
        self.set(common::QUEUE_SIZE, 2, u64::from(size))?;
        for (offset, part) in [
            (common::QUEUE_DESC, ring.descriptors),
            (common::QUEUE_DRIVER, ring.available),
            (common::QUEUE_DEVICE, ring.used),
        ] {
            self.set(offset, 4, part.device.0 & 0xffff_ffff)?;
            self.set(offset + 4, 4, part.device.0 >> 32)?;
        }
        let offset = self.get(common::QUEUE_NOTIFY_OFF, 2)?;
        let address = self.blocks.notify + offset * self.blocks.notify_multiplier;
        let doorbell = self.function.doorbell(index, address)?;
        if let Some(vector) = self.function.vector(index) {
            self.set(common::QUEUE_VECTOR, 2, u64::from(vector))?;
        }
        self.set(common::QUEUE_ENABLE, 2, 1)?;
        let status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;
        self.set(common::STATUS, 1, status)?;
        self.running = true;
        Ok(doorbell)
    }

    fn check(&self, index: usize) -> Result<u16, TransportError> {
        u16::try_from(index)
            .ok()
            .filter(|_| index < self.queues)
            .ok_or(TransportError::NoQueue { index, count: self.queues })
    }
}

fn read_config_byte(function: &impl PciFunction, register: u8) -> io::Result<u8> {
    Ok(function.read_config(register)?.to_le_bytes()[usize::from(register & 3)])
}

/// Find the blocks of a virtio device by its vendor capabilities, and give their BARs addresses.
fn find_blocks(function: &impl PciFunction) -> io::Result<Option<Blocks>> {
    if function.read_config(0)? & 0xffff != VIRTIO_VENDOR {
        return Ok(None);
    }
    let mut bars = [None; 6];
    let mut blocks = [None; 5];
    let mut notify_multiplier = 0;
    let mut at = read_config_byte(function, 0x34)? & 0xfc;
    // The list cannot be longer than the space it lies in.
    for _ in 0..48 {
        if at == 0 {
            break;
        }
        if read_config_byte(function, at)? == VENDOR_CAPABILITY {
            let kind = usize::from(read_config_byte(function, at + 3)?);
            let bar = read_config_byte(function, at + 4)?;
            let offset = u64::from(function.read_config(at + 8)?);
            if let (1..=4, Some(place)) = (kind, bars.get_mut(usize::from(bar))) {
                let base = match *place {
                    Some(base) => base,
                    None => *place.insert(function.place_bar(bar)?),
                };
                blocks[kind] = Some(base + offset);
                if kind == 2 {
                    notify_multiplier = u64::from(function.read_config(at + 16)?);
                }
            }
        }
        at = read_config_byte(function, at + 1)? & 0xfc;
    }
    // Memory space and bus mastering on.
    let command = function.read_config(4)? & 0xffff;
    function.write_config(4, command | 0x6)?;
    let [_, Some(common), Some(notify), _, device] = blocks else { return Ok(None) };
    Ok(Some(Blocks { common, notify, notify_multiplier, device: device.unwrap_or_default() }))
}

impl<F: PciFunction> Transport for VirtioPci<F> {
    fn offered(&self) -> u64 {
        self.offered
    }

    fn negotiate(&mut self, wanted: u64) -> Result<u64, TransportError> {
        self.negotiated = wanted & self.offered;
        if message("choosing a device's features", self.accept())? {
            Ok(self.negotiated)
        } else {
            Err(TransportError::Missing("this choice of features"))
        }
    }

    fn queue_count(&self) -> usize {
        self.queues
    }

    fn read_config(&mut self, offset: u32, buffer: &mut [u8]) -> Result<(), TransportError> {
        let address = self.blocks.device + u64::from(offset);
        message("reading a device's configuration", self.function.read_bytes(address, buffer))
    }

    fn write_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), TransportError> {
        let start = self.blocks.device + u64::from(offset);
        let mut each = bytes.iter().enumerate();
        let written = each.try_for_each(|(at, byte)| self.function.write(start + at as u64, 1, u64::from(*byte)));
        message("writing a device's configuration", written)
    }

    /// PCI cannot start a ring anywhere but at its beginning: `base` must be 0.
    fn start_queue(
        &mut self,
        index: usize,
        ring: &RingPlacement,
        size: u16,
        base: u16,
    ) -> Result<Arc<dyn Doorbell>, TransportError> {
        let index = self.check(index)?;
        if base != 0 {
            return Err(TransportError::Missing("a start in the middle of a ring, which PCI does not have"));
        }
        message("starting a queue", self.start(index, ring, size))
    }

    /// Resets the whole device, as a driver that leaves does; the answer is always 0.
    fn stop_queue(&mut self, index: usize) -> Result<u16, TransportError> {
        self.check(index)?;
        message("resetting a device", self.reset())?;
        Ok(0)
    }

    /// The device itself reads the registers.
    fn rings_are_in_ram(&self) -> bool {
        false
    }

    /// Makes a new connection, where there is one for each device, and resets the device.
    fn reconnect(&mut self) -> Result<(), TransportError> {
        self.function.reconnect()?;
        message("resetting a device", self.reset())
    }
}
