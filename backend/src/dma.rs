//! How a device reaches guest memory: directly, or through the TCE table of its endpoint.
//!
//! [`Dma`] belongs to one worker. Every access happens inside a [`Window`], which for a translated device is an epoch
//! of its [`DmaPort`]: whoever removes a translation waits until the window is closed. Windows are short, and nothing
//! inside one may block. Memory that is used for longer, such as the buffers of a file read, is *pinned* while a
//! window is open and stays good until [`Dma::unpin`].

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use iommu_calgary::{Access, DmaPort, Epoch, Fault, FaultReason, Iova, Phb, PinSet};
use virtio_9p::Segment;

use crate::memory::{GuestRam, host_len};
use crate::prefetch::{prefetch_read, prefetch_write};

/// An access that moved no byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaFault {
    /// Address as the device issued it.
    pub address: u64,
    /// Direction, seen from the device.
    pub access: Access,
    /// Why.
    pub reason: DmaFaultReason,
}

/// Why an access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaFaultReason {
    /// The endpoint's tables refuse it.
    Table(FaultReason),
    /// The translation, or the untranslated address, is not guest RAM.
    NotRam,
}

impl From<Fault> for DmaFault {
    fn from(fault: Fault) -> Self {
        Self { address: fault.iova.0, access: fault.access, reason: DmaFaultReason::Table(fault.reason) }
    }
}

/// Bytes of a cache line, for hints only.
const CACHE_LINE: u64 = 64;

/// The translated half of a [`Dma`].
struct Translation {
    port: DmaPort,
    pins: PinSet,
}

/// One worker's way into guest memory.
pub struct Dma {
    ram: Arc<GuestRam>,
    translation: Option<Translation>,
}

impl Dma {
    /// A device outside the IOMMU: its addresses are guest-physical.
    #[must_use]
    pub fn direct() -> Self {
        Self { ram: GuestRam::empty(), translation: None }
    }

    /// A device behind `phb`: its addresses are IOVAs.
    #[must_use]
    pub fn translated(phb: &Arc<Phb>) -> Self {
        let translation = Translation { port: phb.new_port(), pins: phb.new_pins() };
        Self { ram: GuestRam::empty(), translation: Some(translation) }
    }

    /// Uses `ram` from now on. The caller makes sure that no segment of the old snapshot is in use.
    pub fn set_memory(&mut self, ram: Arc<GuestRam>) {
        self.ram = ram;
    }

    /// Opens a window. See the module for what may happen inside.
    #[inline]
    pub fn enter(&mut self) -> Window<'_> {
        match &mut self.translation {
            None => Window { ram: &self.ram, table: None },
            Some(Translation { port, pins }) => Window { ram: &self.ram, table: Some((port.enter(), &*pins)) },
        }
    }

    /// Lets go of everything that [`Window::pin_segments`] pinned.
    #[inline]
    pub fn unpin(&mut self) {
        if let Some(translation) = &self.translation {
            translation.pins.release();
        }
    }
}

/// A moment in which guest memory may be touched.
pub struct Window<'a> {
    ram: &'a GuestRam,
    table: Option<(Epoch<'a>, &'a PinSet)>,
}

impl Window<'_> {
    /// Host address of `address` and how many of `len` bytes are contiguous there. `len` must not be 0.
    #[inline]
    fn resolve(&self, address: u64, len: u64, access: Access) -> Result<(*mut u8, u64), DmaFault> {
        let not_ram = DmaFault { address, access, reason: DmaFaultReason::NotRam };
        match &self.table {
            None => self.ram.resolve(address, len, access).ok_or(not_ram),
            Some((epoch, _)) => {
                let run = epoch.translate(Iova(address), len, access)?;
                self.ram.resolve(run.real.0, run.len, access).ok_or(not_ram)
            }
        }
    }

    /// Resolves a short buffer and starts to fetch its cache lines, if translation has no say in it and it is one piece
    /// of RAM.
    #[inline]
    pub fn fetch(&self, address: u64, len: u32, access: Access) -> Option<Piece<'_>> {
        let fetch = if access == Access::Write { prefetch_write } else { prefetch_read };
        let len = u64::from(len);
        if self.table.is_some() || len == 0 {
            return None;
        }
        let (host, run) = self.ram.resolve(address, len, access)?;
        fetch(host);
        let last = host.wrapping_add(host_len(run.min(CACHE_LINE) - 1));
        if last.addr() / host_len(CACHE_LINE) != host.addr() / host_len(CACHE_LINE) {
            fetch(last);
        }
        (run == len).then_some(Piece { host, len: host_len(len), _window: PhantomData })
    }

    /// Host address of `[address, address + len)` if that is one piece of RAM and translation has no say in it.
    #[must_use]
    pub fn contiguous(&self, address: u64, len: u64) -> Option<*mut u8> {
        match self.ram.resolve(address, len, Access::Write)? {
            (host, run) if run == len && self.table.is_none() => Some(host),
            _ => None,
        }
    }

    /// Host address of a whole word of `len` bytes. Words are aligned, so they lie on one page.
    #[inline]
    fn resolve_word(&self, address: u64, len: u64, access: Access) -> Result<*mut u8, DmaFault> {
        match self.resolve(address, len, access)? {
            (host, run) if run == len && (host as usize as u64).is_multiple_of(len) => Ok(host),
            _ => Err(DmaFault { address, access, reason: DmaFaultReason::NotRam }),
        }
    }

    /// Reads a little-endian `u16` with acquire ordering.
    ///
    /// # Errors
    /// The address is not reachable for reading, or not aligned to 2.
    #[inline]
    pub fn load_u16(&self, address: u64) -> Result<u16, DmaFault> {
        let host = self.resolve_word(address, 2, Access::Read)?;
        // SAFETY: `resolve_word` returned two mapped, aligned bytes; other parties use single-copy atomic accesses.
        let word = unsafe { AtomicU16::from_ptr(host.cast()) };
        Ok(u16::from_le(word.load(Ordering::Acquire)))
    }

    /// Writes a little-endian `u16` with release ordering: all earlier writes are visible first.
    ///
    /// # Errors
    /// The address is not reachable for writing, or not aligned to 2.
    #[inline]
    pub fn store_u16(&self, address: u64, value: u16) -> Result<(), DmaFault> {
        let host = self.resolve_word(address, 2, Access::Write)?;
        // SAFETY: as in `load_u16`.
        let word = unsafe { AtomicU16::from_ptr(host.cast()) };
        word.store(value.to_le(), Ordering::Release);
        Ok(())
    }

    /// Writes a little-endian `u32`, relaxed.
    ///
    /// # Errors
    /// The address is not reachable for writing, or not aligned to 4.
    #[inline]
    pub fn store_u32(&self, address: u64, value: u32) -> Result<(), DmaFault> {
        let host = self.resolve_word(address, 4, Access::Write)?;
        // SAFETY: as in `load_u16`, with four bytes.
        let word = unsafe { AtomicU32::from_ptr(host.cast()) };
        word.store(value.to_le(), Ordering::Relaxed);
        Ok(())
    }

    /// Copies guest memory at `address` into `bytes`.
    ///
    /// # Errors
    /// Some byte is not reachable for reading; `bytes` may hold a part by then.
    #[inline]
    pub fn copy_in(&self, address: u64, bytes: &mut [u8]) -> Result<(), DmaFault> {
        let len = bytes.len();
        let mut done = 0;
        while done < len {
            let (host, run) = self.resolve(at(address, done, Access::Read)?, (len - done) as u64, Access::Read)?;
            let run = host_len(run);
            // SAFETY: `run` bytes from `host` are mapped and `run <= len - done`. The guest may write them meanwhile:
            // the copy then holds some mixture, which the caller treats as untrusted like everything a guest sends.
            unsafe { copy(host.cast_const(), bytes.as_mut_ptr().add(done), run) };
            done += run;
        }
        Ok(())
    }

    /// Copies `bytes` to guest memory at `address`.
    ///
    /// # Errors
    /// Some byte is not reachable for writing; a part may have been written by then.
    #[inline]
    pub fn copy_out(&self, address: u64, bytes: &[u8]) -> Result<(), DmaFault> {
        let len = bytes.len();
        let mut done = 0;
        while done < len {
            let (host, run) = self.resolve(at(address, done, Access::Write)?, (len - done) as u64, Access::Write)?;
            let run = host_len(run);
            // SAFETY: `run` bytes from `host` are mapped and `run <= len - done`.
            unsafe { copy(bytes.as_ptr().add(done), host, run) };
            done += run;
        }
        Ok(())
    }

    /// Appends the host memory of `[address, address + len)` to `segments`, merging neighbours, and pins it.
    ///
    /// # Errors
    /// Some byte is not reachable, or the result would exceed `max_segments` (reported as not RAM).
    #[inline]
    pub fn pin_segments(
        &self,
        address: u64,
        len: u64,
        access: Access,
        max_segments: usize,
        segments: &mut Vec<Segment>,
    ) -> Result<(), DmaFault> {
        if len == 0 {
            return Ok(());
        }
        if let Some((epoch, pins)) = &self.table {
            epoch.pin(pins, Iova(address), len);
        }
        let mut done = 0;
        while done < len {
            let next = address.checked_add(done).ok_or(DmaFault { address, access, reason: DmaFaultReason::NotRam })?;
            let (host, run) = self.resolve(next, len - done, access)?;
            let mut piece = (host, host_len(run));
            if let Some(last) = segments.last()
                && last.as_mut_ptr().wrapping_add(last.len()) == host
            {
                piece = (last.as_mut_ptr(), last.len() + piece.1);
                segments.pop();
            }
            if segments.len() == max_segments {
                return Err(DmaFault { address: next, access, reason: DmaFaultReason::NotRam });
            }
            // SAFETY: the run is mapped, and so is a neighbour it was joined with; the pin (or the snapshot that the
            // worker holds) keeps both so until `unpin`.
            segments.push(unsafe { Segment::new(piece.0, piece.1) });
            done += run;
        }
        Ok(())
    }
}

/// A buffer of a device outside the IOMMU: contiguous guest memory, for as long as the window that resolved it.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    host: *mut u8,
    len: usize,
    _window: PhantomData<&'a ()>,
}

impl Piece<'_> {
    /// Copies the first bytes into `bytes`; returns how many there were.
    #[inline]
    #[must_use]
    pub fn copy_in(&self, bytes: &mut [u8]) -> usize {
        let len = self.len.min(bytes.len());
        // SAFETY: `len` bytes are mapped at `host` and fit `bytes`; what others write meanwhile is untrusted anyway.
        unsafe { copy(self.host.cast_const(), bytes.as_mut_ptr(), len) };
        len
    }

    /// Copies `bytes` to the start; `None`, with nothing written, if they do not fit.
    #[inline]
    #[must_use]
    pub fn copy_out(&self, bytes: &[u8]) -> Option<usize> {
        if bytes.len() > self.len {
            return None;
        }
        // SAFETY: the piece is mapped and at least as long as `bytes`.
        unsafe { copy(bytes.as_ptr(), self.host, bytes.len()) };
        Some(bytes.len())
    }
}

/// `copy_nonoverlapping` that knows the sizes of the short structures of both devices, which are most of what is copied:
/// a few moves instead of a call.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`].
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: each arm copies `len` bytes under the caller's promise.
    unsafe {
        match len {
            4 => std::ptr::copy_nonoverlapping(from, to, 4),
            16 => std::ptr::copy_nonoverlapping(from, to, 16),
            20 => std::ptr::copy_nonoverlapping(from, to, 20),
            28 => std::ptr::copy_nonoverlapping(from, to, 28),
            36 => std::ptr::copy_nonoverlapping(from, to, 36),
            _ => std::ptr::copy_nonoverlapping(from, to, len),
        }
    }
}

/// `base + offset`, or a fault where that leaves the address space.
#[inline]
fn at(base: u64, offset: usize, access: Access) -> Result<u64, DmaFault> {
    base.checked_add(offset as u64).ok_or(DmaFault { address: base, access, reason: DmaFaultReason::NotRam })
}
