//! The PCI function that a client sees: its regions, and what a write to them sets in motion.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use log::{error, info};
use vfio_bindings::bindings::vfio::{VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_NUM_REGIONS};

use super::config_space::{CONFIG_SIZE, ConfigSpace};
use super::dma_maps::DmaMaps;
use super::doorbells::Doorbells;
use super::interrupts::Interrupts;
use super::lane::{Job, Lane, Reply};
use super::layout::{BAR_SIZES, MSIX_BAR, MSIX_ENTRY, MSIX_PBA, NOTIFY_MULTIPLIER, Place, VIRTIO_BAR};
use super::registers::{Change, REGISTERS_SIZE, Registers, status};
use super::wire::{DmaMap, DmaUnmap, Errno, IoFd};
use crate::transport::Device;

/// Regions of a PCI function, numbered as VFIO does: six BARs, ROM, configuration space, VGA.
pub(super) const REGIONS: u32 = VFIO_PCI_NUM_REGIONS;
/// Number of the region that is configuration space.
pub(super) const CONFIG_REGION: u32 = VFIO_PCI_CONFIG_REGION_INDEX;

/// How a command is answered.
pub(super) enum Outcome {
    /// It is done.
    Done,
    /// The lane answers when it is done.
    Later,
}

/// The function of one connection.
pub(super) struct Function {
    device: Arc<dyn Device>,
    registers: Registers,
    config: ConfigSpace,
    interrupts: Arc<Interrupts>,
    doorbells: Arc<Doorbells>,
    maps: DmaMaps,
    /// The MSI-X table is kept for a client that forwards it; vectors are masked by taking their descriptors away.
    msix_table: Vec<u8>,
    /// What the status reads as while a reset is on its way, unless it is 0.
    status_before: u8,
    needs_reset: bool,
    lane: Lane,
}

impl Function {
    pub(super) fn new(
        device: Arc<dyn Device>,
        interrupts: Arc<Interrupts>,
        doorbells: Arc<Doorbells>,
        lane: Lane,
    ) -> Self {
        let identity = device.identity();
        let queues = u16::try_from(identity.queue_sizes.len()).unwrap_or(u16::MAX);
        let virtio_id = u16::try_from(identity.virtio_id).unwrap_or(u16::MAX);
        Self {
            registers: Registers::new(device.features(), &identity.queue_sizes),
            config: ConfigSpace::new(virtio_id, queues, queues + 1),
            maps: DmaMaps::new(&identity.name),
            msix_table: vec![0; MSIX_ENTRY * (usize::from(queues) + 1)],
            status_before: 0,
            needs_reset: false,
            interrupts,
            doorbells,
            lane,
            device,
        }
    }

    pub(super) fn interrupts(&self) -> &Interrupts {
        &self.interrupts
    }

    /// Bytes of region `index`; 0 if there is none of this number.
    pub(super) fn region_size(index: u32) -> u64 {
        match usize::try_from(index).ok().and_then(|index| BAR_SIZES.get(index)) {
            Some(size) => *size,
            None if index == CONFIG_REGION => CONFIG_SIZE as u64,
            None => 0,
        }
    }

    /// Whether `len` bytes at `offset` lie in region `index`.
    fn check(index: u32, offset: u64, len: usize) -> Result<usize, Errno> {
        let end = offset.checked_add(len as u64).ok_or(Errno::INVALID)?;
        if end > Self::region_size(index) {
            return Err(Errno::INVALID);
        }
        usize::try_from(offset).map_err(|_| Errno::INVALID)
    }

    /// Fills `buffer` from `offset` of region `index`.
    ///
    /// # Errors
    /// The region does not reach so far.
    pub(super) fn read(&mut self, index: u32, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let at = Self::check(index, offset, buffer.len())?;
        match index {
            VIRTIO_BAR => self.read_virtio(offset, buffer),
            MSIX_BAR => self.read_msix(at, buffer),
            _ => {
                if let Some(access) = self.config.bar_access(at, buffer.len()) {
                    let mut data = [0; 4];
                    let data = &mut data[..access.len];
                    if access.bar != CONFIG_REGION && self.read(access.bar, access.offset, data).is_ok() {
                        self.config.access_data()[..access.len].copy_from_slice(data);
                    }
                }
                self.config.read(at, buffer, self.interrupts.line_is_raised());
            }
        }
        Ok(())
    }

    /// Writes `data` at `offset` of region `index`; `reply` is for the lane, should it be the one to answer.
    ///
    /// # Errors
    /// The region does not reach so far.
    pub(super) fn write(&mut self, index: u32, offset: u64, data: &[u8], reply: Reply) -> Result<Outcome, Errno> {
        let at = Self::check(index, offset, data.len())?;
        match index {
            VIRTIO_BAR => return Ok(self.write_virtio(offset, data, reply)),
            MSIX_BAR => {
                for (index, byte) in (at..).zip(data) {
                    if let Some(slot) = self.msix_table.get_mut(index) {
                        *slot = *byte;
                    }
                }
            }
            _ => {
                self.config.write(at, data);
                self.interrupts.enable_msix(self.config.msix_enabled());
                if let Some(access) = self.config.bar_access(at, data.len())
                    && access.bar != CONFIG_REGION
                {
                    let data = self.config.access_data()[..access.len].to_vec();
                    // An access outside the BAR has no effect, as on a bus.
                    let _ = self.write(access.bar, access.offset, &data, None);
                }
            }
        }
        Ok(Outcome::Done)
    }

    fn read_msix(&self, at: usize, buffer: &mut [u8]) {
        let pending = self.interrupts.pending().to_le_bytes();
        let first_pending = usize::try_from(MSIX_PBA).unwrap_or(usize::MAX);
        for (index, byte) in (at..).zip(buffer) {
            let pending = index.checked_sub(first_pending).and_then(|index| pending.get(index));
            *byte = self.msix_table.get(index).or(pending).copied().unwrap_or(0);
        }
    }

    fn read_virtio(&mut self, offset: u64, buffer: &mut [u8]) {
        buffer.fill(0);
        let Some((place, at)) = Place::at(offset) else { return };
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        match place {
            Place::Common => {
                let image = self.registers.image(&self.interrupts, self.status());
                let tail = image.get(at..).unwrap_or_default();
                let len = tail.len().min(buffer.len());
                buffer[..len].copy_from_slice(&tail[..len]);
            }
            Place::Isr => {
                if at == 0
                    && let Some(byte) = buffer.first_mut()
                {
                    *byte = self.interrupts.take_isr();
                }
            }
            Place::Device => self.lane.progress.read_config(at, buffer),
            Place::Notify => {}
        }
    }

    fn write_virtio(&mut self, offset: u64, data: &[u8], reply: Reply) -> Outcome {
        let Some((place, at)) = Place::at(offset) else { return Outcome::Done };
        match place {
            Place::Common => {
                let at = usize::try_from(at).unwrap_or(REGISTERS_SIZE);
                let before = self.registers.status();
                for change in self.registers.write(at, data, &self.interrupts) {
                    self.follow(change, before);
                }
            }
            Place::Isr => {}
            Place::Device => {
                self.registers.next_generation();
                let Ok(at) = u32::try_from(at) else { return Outcome::Done };
                self.lane.put(Job::Configure(at, data.to_vec(), reply));
                return Outcome::Later;
            }
            Place::Notify => {
                let queue = at / u64::from(NOTIFY_MULTIPLIER);
                self.doorbells.ring(usize::try_from(queue).unwrap_or(usize::MAX));
            }
        }
        Outcome::Done
    }

    /// The status as the driver reads it: a reset is done when it reads 0 (virtio 1.2 §2.4). Where there was no driver
    /// before it, there is nothing to wait for.
    fn status(&self) -> u8 {
        if self.status_before != 0 && self.lane.progress.is_resetting() {
            return self.status_before;
        }
        let needs_reset = self.needs_reset || self.interrupts.has_broken_queue();
        self.registers.status() | if needs_reset { status::NEEDS_RESET } else { 0 }
    }

    fn follow(&mut self, change: Change, status_before: u8) {
        match change {
            Change::Reset => self.begin_reset(status_before, None),
            Change::Accepted(features) => self.lane.put(Job::Accept(features)),
            Change::Start(queue) => {
                let layout = self.registers.layout(queue);
                if !layout.is_valid() {
                    error!("{}: queue {queue} has an impossible layout: {layout:x?}", self.device.identity().name);
                    self.break_down();
                } else if !self.maps.is_usable() {
                    self.break_down();
                } else {
                    info!("{}: queue {queue} starts", self.device.identity().name);
                    self.lane.put(Job::Start(queue, layout));
                }
            }
        }
    }

    /// Tells the driver that nothing works until it resets the device (virtio 1.2 §2.1.2).
    fn break_down(&mut self) {
        self.needs_reset = true;
        self.interrupts.signal_config();
    }

    fn begin_reset(&mut self, status_before: u8, reply: Reply) {
        if !self.lane.progress.is_resetting() {
            self.status_before = status_before;
        }
        self.needs_reset = false;
        self.interrupts.reset();
        self.lane.put(Job::Reset(reply));
    }

    /// Resets the function, as a function level reset does; the lane answers.
    pub(super) fn reset(&mut self, reply: Reply) {
        let before = self.registers.status();
        self.registers.reset();
        self.msix_table.fill(0);
        let queues = u16::try_from(self.device.identity().queue_sizes.len()).unwrap_or(u16::MAX);
        let virtio_id = u16::try_from(self.device.identity().virtio_id).unwrap_or(u16::MAX);
        self.config = ConfigSpace::new(virtio_id, queues, queues + 1);
        self.interrupts.enable_msix(false);
        self.begin_reset(before, reply);
    }

    /// Adds guest memory; the lane answers.
    ///
    /// # Errors
    /// See [`DmaMaps::map`].
    pub(super) fn map(&mut self, request: &DmaMap, fd: Option<OwnedFd>, reply: Reply) -> Result<(), Errno> {
        self.maps.map(request, fd)?;
        self.lane.put(Job::Memory(self.maps.ram(), reply));
        Ok(())
    }

    /// Takes guest memory away; the lane answers once nothing uses it.
    ///
    /// # Errors
    /// See [`DmaMaps::unmap`].
    pub(super) fn unmap(&mut self, request: &DmaUnmap, reply: Reply) -> Result<(), Errno> {
        self.maps.unmap(request)?;
        self.lane.put(Job::Memory(self.maps.ram(), reply));
        Ok(())
    }

    /// The parts of region `index` that descriptors stand for, in the order of [`Doorbells::fds`].
    pub(super) fn io_fds(&self, index: u32) -> Vec<IoFd> {
        if index != VIRTIO_BAR {
            return Vec::new();
        }
        let first = u64::from(Place::Notify.offset());
        let part = |queue: u32| IoFd {
            offset: (first + u64::from(NOTIFY_MULTIPLIER * queue)).into(),
            size: 2.into(),
            fd_index: queue.into(),
            ..IoFd::default()
        };
        (0..).map(part).take(self.device.identity().queue_sizes.len()).collect()
    }

    pub(super) fn doorbells(&self) -> &Doorbells {
        &self.doorbells
    }
}
