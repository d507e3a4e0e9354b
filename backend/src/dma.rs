//! How a device reaches guest memory: directly, or through the TCE table of its endpoint.
//!
//! [`Dma`] belongs to one worker. Every access happens inside a [`Window`], which for a translated device is an epoch
//! of its [`DmaPort`]: whoever removes a translation waits until the window is closed. Windows are short, and nothing
//! inside one may block. Memory that is used for longer, such as the buffers of a file read, is *pinned* while a
//! window is open and stays good until [`Dma::unpin`].

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use iommu_calgary::{Access, DmaPort, Epoch, Fault, FaultReason, Iova, PAGE_SIZE, Phb, PinSet};
use virtio_9p::Segment;

use crate::memory::{GuestRam, host_len};
use crate::prefetch::{Hint, prefetch_read, prefetch_write};

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
const CACHE_LINE: usize = 64;

/// The translated half of a [`Dma`].
struct Translation {
    port: DmaPort,
    pins: PinSet,
}

/// One worker's way into guest memory.
pub struct Dma {
    ram: Arc<GuestRam>,
    translation: Option<Translation>,
    /// Of the next window, but for its generation; steps with the snapshot.
    moment: Moment,
    coalescing: bool,
}

/// How long a pointer that a window gave is good: for the windows of one moment. It lasts as long as the snapshot of guest
/// RAM, and behind the IOMMU no longer than until something is taken away from the endpoint. No two workers share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    dma: u64,
    snapshot: u64,
    generation: u64,
}

impl Moment {
    /// The first one of a new worker.
    fn first() -> Self {
        static WORKERS: AtomicU64 = AtomicU64::new(0);
        Self { dma: WORKERS.fetch_add(1, Ordering::Relaxed), snapshot: 0, generation: 0 }
    }
}

impl Dma {
    /// A device outside the IOMMU: its addresses are guest-physical.
    #[must_use]
    pub fn direct() -> Self {
        Self { ram: GuestRam::empty(), translation: None, moment: Moment::first(), coalescing: true }
    }

    /// A device behind `phb`: its addresses are IOVAs.
    #[must_use]
    pub fn translated(phb: &Arc<Phb>) -> Self {
        let translation = Translation { port: phb.new_port(), pins: phb.new_pins() };
        Self { ram: GuestRam::empty(), translation: Some(translation), moment: Moment::first(), coalescing: true }
    }

    /// Uses `ram` from now on. The caller makes sure that no segment of the old snapshot is in use.
    pub fn set_memory(&mut self, ram: Arc<GuestRam>) {
        self.ram = ram;
        self.moment.snapshot += 1;
    }

    /// Whether [`Window::pin_segments`] joins neighbouring pages, as it does unless told otherwise.
    pub fn set_coalescing(&mut self, coalescing: bool) {
        self.coalescing = coalescing;
    }

    /// Opens a window. See the module for what may happen inside.
    #[inline]
    pub fn enter(&mut self) -> Window<'_> {
        let Self { ram, translation, moment, coalescing } = self;
        let coalescing = *coalescing;
        match translation {
            None => Window { ram, table: None, moment: *moment, coalescing },
            Some(Translation { port, pins }) => {
                let epoch = port.enter();
                // Before anything is translated.
                let moment = Moment { generation: epoch.generation(), ..*moment };
                Window { ram, table: Some((epoch, &*pins)), moment, coalescing }
            }
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
    moment: Moment,
    coalescing: bool,
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

    /// How long what the window gives is good.
    #[inline]
    pub(crate) fn moment(&self) -> Moment {
        self.moment
    }

    /// `[address, address + len)`, if all of it may be accessed so and is one piece of this process's memory. An empty
    /// range is none.
    #[inline]
    #[must_use]
    pub fn piece(&self, address: u64, len: u64, access: Access) -> Option<Piece<'_>> {
        if len == 0 {
            return None;
        }
        match self.resolve(address, len, access) {
            Ok((host, run)) if run == len => Some(Piece { host, len: host_len(len), _window: PhantomData }),
            _ => None,
        }
    }

    /// The same for a short buffer that is used soon: starts to fetch its cache lines.
    #[inline]
    pub fn fetch(&self, address: u64, len: u32, access: Access) -> Option<Piece<'_>> {
        let piece = self.piece(address, u64::from(len), access)?;
        let fetch = if access == Access::Write { prefetch_write } else { prefetch_read };
        fetch(piece.host);
        let last = piece.host.wrapping_add(piece.len.min(CACHE_LINE) - 1);
        if last.addr() / CACHE_LINE != piece.host.addr() / CACHE_LINE {
            fetch(last);
        }
        Some(piece)
    }

    /// Host address of a whole word of `len` bytes. Words are aligned, so they lie on one page.
    #[inline]
    fn resolve_word(&self, address: u64, len: u64, access: Access) -> Result<*mut u8, DmaFault> {
        match self.resolve(address, len, access)? {
            (host, run) if run == len && (host as usize as u64).is_multiple_of(len) => Ok(host),
            _ => Err(DmaFault { address, access, reason: DmaFaultReason::NotRam }),
        }
    }

    /// Checks that every byte of `[address, address + len)` can be reached now.
    ///
    /// # Errors
    /// The first byte that cannot.
    #[inline]
    pub fn check(&self, address: u64, len: u64, access: Access) -> Result<(), DmaFault> {
        let mut done = 0;
        while done < len {
            let next = address.checked_add(done).ok_or(DmaFault { address, access, reason: DmaFaultReason::NotRam })?;
            done += self.resolve(next, len - done, access)?.1;
        }
        Ok(())
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

    /// Appends the host memory of `[address, address + len)` to `segments`, merging neighbours (see
    /// [`Dma::set_coalescing`]), and pins it.
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
            let most = if self.coalescing { len - done } else { (len - done).min(PAGE_SIZE - next % PAGE_SIZE) };
            let (host, run) = self.resolve(next, most, access)?;
            let mut piece = (host, host_len(run));
            if self.coalescing
                && let Some(last) = segments.last()
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

/// A contiguous piece of guest memory, for as long as the window that resolved it.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'w> {
    host: *mut u8,
    len: usize,
    _window: PhantomData<&'w ()>,
}

// SAFETY: the pointer is to a shared mapping usable from any thread, and only copies and prefetches go through it.
unsafe impl Send for Piece<'_> {}

impl<'w> Piece<'w> {
    /// The `N` bytes at `offset`; `None` if the piece ends before them.
    #[inline]
    pub(crate) fn at<const N: usize>(&self, offset: usize) -> Option<Bytes<'w, N>> {
        let inside = offset.checked_add(N)? <= self.len;
        inside.then(|| Bytes { host: self.host.wrapping_add(offset), _window: PhantomData })
    }

    /// A copy of the whole piece; `None` if it has not `N` bytes.
    #[inline]
    pub(crate) fn exactly<const N: usize>(&self) -> Option<[u8; N]> {
        if self.len == N { self.read(0) } else { None }
    }

    /// Bytes, at least 1.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.len
    }

    /// What to fetch early when the piece is likely to be used again.
    #[inline]
    pub(crate) fn hint(&self) -> Hint {
        Hint::at(self.host)
    }

    /// The piece without its bound.
    ///
    /// # Safety
    /// It is used in windows of the same [`Moment`] only.
    pub(crate) unsafe fn outlive(self) -> Piece<'static> {
        Piece { host: self.host, len: self.len, _window: PhantomData }
    }

    /// Starts to fetch the line at `offset`, wherever that is.
    #[inline]
    pub(crate) fn prefetch_read(&self, offset: usize) {
        prefetch_read(self.host.wrapping_add(offset));
    }

    /// Starts to fetch the line at `offset`, to be written.
    #[inline]
    pub(crate) fn prefetch_write(&self, offset: usize) {
        prefetch_write(self.host.wrapping_add(offset));
    }

    /// The little-endian word at `offset`, with acquire ordering; `None` if it is not inside or not aligned to 2.
    #[inline]
    pub(crate) fn load_u16(&self, offset: usize) -> Option<u16> {
        let word = self.word(offset)?;
        // SAFETY: mapped, aligned; other parties use single-copy atomic accesses.
        let word = unsafe { AtomicU16::from_ptr(word) };
        Some(u16::from_le(word.load(Ordering::Acquire)))
    }

    /// Writes the word at `offset` with release ordering; `None`, with nothing written, if it is not inside or not aligned.
    #[inline]
    pub(crate) fn store_u16(&self, offset: usize, value: u16) -> Option<()> {
        let word = self.word(offset)?;
        // SAFETY: as in `load_u16`.
        let word = unsafe { AtomicU16::from_ptr(word) };
        word.store(value.to_le(), Ordering::Release);
        Some(())
    }

    #[inline]
    fn word(&self, offset: usize) -> Option<*mut u16> {
        let word = self.host.wrapping_add(offset);
        (offset.checked_add(2)? <= self.len && word.addr().is_multiple_of(2)).then_some(word.cast())
    }

    /// Copies the first bytes into `bytes`; returns how many there were.
    #[inline]
    #[must_use]
    pub fn copy_in(&self, bytes: &mut [u8]) -> usize {
        let len = self.len.min(bytes.len());
        // SAFETY: `len` bytes are mapped at `host` and fit `bytes`; what others write meanwhile is untrusted anyway.
        unsafe { copy(self.host.cast_const(), bytes.as_mut_ptr(), len) };
        len
    }

    /// A copy of the `N` bytes at `offset`; `None` if the piece ends before them.
    #[inline]
    #[must_use]
    pub fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset.checked_add(N)? > self.len {
            return None;
        }
        let mut bytes = [0; N];
        // SAFETY: the bytes lie inside the piece; what others write meanwhile is untrusted anyway.
        unsafe { std::ptr::copy_nonoverlapping(self.host.add(offset).cast_const(), bytes.as_mut_ptr(), N) };
        Some(bytes)
    }

    /// Copies `bytes` to the start; returns how many fitted.
    #[must_use]
    pub fn copy_out(&self, bytes: &[u8]) -> usize {
        let len = self.len.min(bytes.len());
        // SAFETY: `len` bytes are mapped at `host`, and `bytes` has as many.
        unsafe { copy(bytes.as_ptr(), self.host, len) };
        len
    }

    /// Copies `bytes` to `offset`; `None`, with nothing written, if they do not fit.
    #[inline]
    pub fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Option<()> {
        if offset.checked_add(N)? > self.len {
            return None;
        }
        // SAFETY: the bytes lie inside the piece.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.host.add(offset), N) };
        Some(())
    }
}

/// `N` bytes of a [`Piece`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'w, const N: usize> {
    host: *mut u8,
    _window: PhantomData<&'w ()>,
}

// SAFETY: as for `Piece`.
unsafe impl<const N: usize> Send for Bytes<'_, N> {}

impl<const N: usize> Bytes<'_, N> {
    /// A copy of them.
    #[inline]
    pub(crate) fn read(self) -> [u8; N] {
        let mut bytes = [0; N];
        // SAFETY: they lie inside a piece; what others write meanwhile is untrusted anyway.
        unsafe { std::ptr::copy_nonoverlapping(self.host.cast_const(), bytes.as_mut_ptr(), N) };
        bytes
    }

    /// What to fetch early when they are likely to be used again.
    #[inline]
    pub(crate) fn hint(self) -> Hint {
        Hint::at(self.host)
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

#[cfg(test)]
mod tests;
