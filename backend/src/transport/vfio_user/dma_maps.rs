//! The guest memory that the client has announced, section by section.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use iommu_calgary::PAGE_SIZE;
use log::error;
use vfio_bindings::bindings::vfio::{VFIO_DMA_MAP_FLAG_WRITE, VFIO_DMA_UNMAP_FLAG_ALL};
use vm_memory::{FileOffset, MmapRegion};

use super::wire::{DmaMap, DmaUnmap, Errno};
use crate::memory::{GuestRam, Mapping};

/// Most sections at one time; a q35 machine has about 20.
pub(super) const MAX_MAPS: usize = 512;

/// One section.
struct Section {
    size: u64,
    writable: bool,
    /// Absent for memory that only the client itself can reach.
    memory: Option<Arc<Mapping>>,
}

impl Section {
    /// The first address past a section at `start`; addition cannot overflow, as checked when it was made.
    fn end(&self, start: u64) -> u64 {
        start + self.size
    }
}

/// All sections of one connection.
pub(super) struct DmaMaps {
    /// For the log.
    name: String,
    sections: BTreeMap<u64, Section>,
    complained: bool,
}

impl DmaMaps {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), sections: BTreeMap::new(), complained: false }
    }

    /// Adds the section of `request`, whose memory is in `fd`.
    ///
    /// # Errors
    /// The range is impossible or overlaps another section; the descriptor is no file that holds all of it; guest memory
    /// that may be written comes without a descriptor, since then it is not shared.
    pub(super) fn map(&mut self, request: &DmaMap, fd: Option<OwnedFd>) -> Result<(), Errno> {
        let (start, size) = (request.address.get(), request.size.get());
        let end = start.checked_add(size).ok_or(Errno::INVALID)?;
        if size == 0 || [start, size, request.offset.get()].iter().any(|number| !number.is_multiple_of(PAGE_SIZE)) {
            return Err(Errno::INVALID);
        }
        if self.overlapping(start, end).next().is_some() {
            return Err(Errno::EXISTS);
        }
        if self.sections.len() == MAX_MAPS {
            return Err(Errno::TOO_MANY);
        }
        let writable = request.flags.get() & VFIO_DMA_MAP_FLAG_WRITE != 0;
        let memory = match fd {
            Some(fd) => Some(map_file(fd, request.offset.get(), size, writable)?),
            None if writable => {
                self.complain(start, size);
                return Err(Errno::INVALID);
            }
            // ROM; a device has no business there.
            None => None,
        };
        self.sections.insert(start, Section { size, writable, memory });
        Ok(())
    }

    /// Says once for each connection what is wrong with the memory: a machine has many sections.
    fn complain(&mut self, start: u64, size: u64) {
        if !std::mem::replace(&mut self.complained, true) {
            error!(
                "{}: guest memory at {start:#x} ({} KiB) is not shared with this daemon and is refused; start the VMM with \
                 shared memory (QEMU: -object memory-backend-memfd,id=mem,size=SIZE,share=on -M memory-backend=mem; \
                 cloud-hypervisor: --memory shared=on)",
                self.name,
                size >> 10
            );
        }
    }

    /// Takes away every section inside the range of `request`. A range without any is no mistake: a section that was
    /// refused is unmapped all the same.
    ///
    /// # Errors
    /// The range is impossible or covers a part of a section.
    pub(super) fn unmap(&mut self, request: &DmaUnmap) -> Result<(), Errno> {
        let (start, size) = (request.address.get(), request.size.get());
        match request.flags.get() {
            VFIO_DMA_UNMAP_FLAG_ALL if (start, size) == (0, 0) => {
                self.sections.clear();
                return Ok(());
            }
            0 if size != 0 => {}
            0 | VFIO_DMA_UNMAP_FLAG_ALL => return Err(Errno::INVALID),
            _ => return Err(Errno::UNSUPPORTED),
        }
        let end = start.checked_add(size).ok_or(Errno::INVALID)?;
        if self.overlapping(start, end).any(|(at, section)| at < start || section.end(at) > end) {
            return Err(Errno::INVALID);
        }
        self.sections.retain(|at, _| *at < start || *at >= end);
        Ok(())
    }

    fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, &Section)> {
        let before = self.sections.range(..start).next_back().filter(move |(at, section)| section.end(**at) > start);
        before.into_iter().chain(self.sections.range(start..end)).map(|(at, section)| (*at, section))
    }

    /// What the device can reach now.
    pub(super) fn ram(&self) -> Arc<GuestRam> {
        let reachable = self.sections.iter().filter_map(|(start, section)| {
            section.memory.as_ref().map(|memory| (*start, Arc::clone(memory), section.writable))
        });
        GuestRam::from_sections(reachable)
    }

    /// Whether a device can work at all; says in the log what to change if not.
    pub(super) fn is_usable(&self) -> bool {
        let usable = self.sections.values().any(|section| section.writable && section.memory.is_some());
        if !usable {
            error!(
                "{}: a driver has started the device, but no guest memory is shared with this daemon; start the VMM with \
                 shared memory (QEMU: -object memory-backend-memfd,id=mem,size=SIZE,share=on -M memory-backend=mem)",
                self.name
            );
        }
        usable
    }
}

/// Maps `size` bytes at `offset` of the file `fd`.
fn map_file(fd: OwnedFd, offset: u64, size: u64, writable: bool) -> Result<Arc<Mapping>, Errno> {
    let file = File::from(fd);
    let metadata = file.metadata().map_err(|_| Errno::INVALID)?;
    // Bytes past the end of a file, and descriptors of anything else, would be a trap at the first access.
    let holds_all = offset.checked_add(size).is_some_and(|end| end <= metadata.size());
    if !metadata.is_file() || !holds_all {
        return Err(Errno::INVALID);
    }
    let size = usize::try_from(size).map_err(|_| Errno::INVALID)?;
    let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    let memory = MmapRegion::build(Some(FileOffset::new(file, offset)), size, protection, flags);
    Mapping::new(Arc::new(memory.map_err(|_| Errno::NO_MEMORY)?)).ok_or(Errno::TOO_MANY)
}

#[cfg(test)]
mod tests {
    use iommu_calgary::Access;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use vfio_bindings::bindings::vfio::VFIO_DMA_MAP_FLAG_READ;

    use super::*;

    fn memfd(bytes: u64) -> Option<OwnedFd> {
        let fd = memfd_create("section", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, bytes).unwrap();
        Some(fd)
    }

    fn map(address: u64, size: u64, offset: u64) -> DmaMap {
        DmaMap {
            argsz: 32.into(),
            flags: (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE).into(),
            offset: offset.into(),
            address: address.into(),
            size: size.into(),
        }
    }

    fn unmap(address: u64, size: u64, flags: u32) -> DmaUnmap {
        DmaUnmap { argsz: 24.into(), flags: flags.into(), address: address.into(), size: size.into() }
    }

    fn two_sections() -> DmaMaps {
        let mut maps = DmaMaps::new("test");
        maps.map(&map(0x1000, 0x2000, 0), memfd(0x2000)).unwrap();
        maps.map(&map(0x8000, 0x1000, 0x1000), memfd(0x2000)).unwrap();
        maps
    }

    #[test]
    fn sections_become_guest_ram() {
        let maps = two_sections();
        let ram = maps.ram();
        assert_eq!(ram.total(), 0x3000);
        assert_eq!(ram.resolve(0x2ff0, 0x100, Access::Write).unwrap().1, 0x10);
        assert!(ram.resolve(0x3000, 1, Access::Read).is_none());
        assert!(ram.resolve(0x8000, 1, Access::Write).is_some());
        assert!(maps.is_usable());
    }

    #[test]
    fn a_read_only_section_is_never_written() {
        let mut maps = DmaMaps::new("test");
        let request = DmaMap { flags: VFIO_DMA_MAP_FLAG_READ.into(), ..map(0, 0x1000, 0) };
        maps.map(&request, memfd(0x1000)).unwrap();
        assert!(maps.ram().resolve(0, 1, Access::Read).is_some());
        assert!(maps.ram().resolve(0, 1, Access::Write).is_none());
        assert!(!maps.is_usable());
    }

    #[test]
    fn memory_without_a_descriptor_is_refused_and_rom_is_not() {
        let mut maps = DmaMaps::new("test");
        assert_eq!(maps.map(&map(0, 0x1000, 0), None), Err(Errno::INVALID));
        assert_eq!(maps.unmap(&unmap(0, 0x1000, 0)), Ok(()), "what was refused may be unmapped");
        let rom = DmaMap { flags: VFIO_DMA_MAP_FLAG_READ.into(), ..map(0xf_0000, 0x1000, 0) };
        assert_eq!(maps.map(&rom, None), Ok(()));
        assert_eq!(maps.ram().total(), 0);
        assert_eq!(maps.map(&map(0xf_0000, 0x1000, 0), memfd(0x1000)), Err(Errno::EXISTS));
    }

    #[test]
    fn impossible_ranges_are_refused() {
        let mut maps = two_sections();
        for (request, errno) in [
            (map(0x1000, 0, 0), Errno::INVALID),
            (map(0x1001, 0x1000, 0), Errno::INVALID),
            (map(0x10_0000, 0x800, 0), Errno::INVALID),
            (map(0x10_0000, 0x1000, 1), Errno::INVALID),
            (map(u64::MAX - 0xfff, 0x1000, 0), Errno::INVALID),
            (map(0x10_0000, 0x1000, u64::MAX - 0xfff), Errno::INVALID),
            (map(0x10_0000, 0x3000, 0), Errno::INVALID),
            (map(0, 0x2000, 0), Errno::EXISTS),
            (map(0x2000, 0x1000, 0), Errno::EXISTS),
            (map(0, 0x10_0000, 0), Errno::EXISTS),
        ] {
            assert_eq!(maps.map(&request, memfd(0x2000)), Err(errno), "{request:?}");
        }
        assert_eq!(maps.ram().total(), 0x3000);
    }

    #[test]
    fn other_descriptors_than_files_are_refused() {
        let mut maps = DmaMaps::new("test");
        for path in ["/dev/null", "/dev/zero", "/"] {
            let fd = OwnedFd::from(File::open(path).unwrap());
            assert_eq!(maps.map(&map(0, 0x1000, 0), Some(fd)), Err(Errno::INVALID), "{path}");
        }
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(maps.map(&map(0, 0x1000, 0), Some(socket.into())), Err(Errno::INVALID));
    }

    #[test]
    fn an_unmap_takes_whole_sections() {
        let mut maps = two_sections();
        assert_eq!(maps.unmap(&unmap(0x1000, 0x1000, 0)), Err(Errno::INVALID));
        assert_eq!(maps.unmap(&unmap(0x2000, 0x8000, 0)), Err(Errno::INVALID));
        assert_eq!(maps.unmap(&unmap(0, 0, 0)), Err(Errno::INVALID));
        assert_eq!(maps.unmap(&unmap(0, 0x1000, VFIO_DMA_UNMAP_FLAG_ALL)), Err(Errno::INVALID));
        assert_eq!(maps.unmap(&unmap(0x1000, 0x2000, 1)), Err(Errno::UNSUPPORTED));
        assert_eq!(maps.ram().total(), 0x3000);
        assert_eq!(maps.unmap(&unmap(0, 0x4000, 0)), Ok(()));
        assert_eq!(maps.ram().total(), 0x1000);
        assert_eq!(maps.unmap(&unmap(0, 0, VFIO_DMA_UNMAP_FLAG_ALL)), Ok(()));
        assert_eq!(maps.ram().total(), 0);
        maps.map(&map(0x1000, 0x2000, 0), memfd(0x2000)).unwrap();
    }

    #[test]
    fn the_number_of_sections_has_a_bound() {
        let mut maps = DmaMaps::new("test");
        let rom = |index: u64| DmaMap { flags: VFIO_DMA_MAP_FLAG_READ.into(), ..map(index * 0x1000, 0x1000, 0) };
        for index in 0..MAX_MAPS as u64 {
            maps.map(&rom(index), None).unwrap();
        }
        assert_eq!(maps.map(&rom(MAX_MAPS as u64), None), Err(Errno::TOO_MANY));
    }
}
