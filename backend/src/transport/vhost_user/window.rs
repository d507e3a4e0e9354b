//! The ring-address rule of vhost-user front ends (frontend-spec, `SPEC.md`).
//!
//! A front end takes a ring's address for guest-physical, maps that RAM, and refuses or aborts where there is none. So
//! every IOVA at which a driver may place a ring must also be the address of some RAM.

use frontend_spec::ByteSize;

use crate::memory::GuestRam;

/// The IOVA space in which a driver allocates.
#[derive(Clone, Debug)]
pub struct RingWindow {
    bytes: u64,
    reserved: Vec<(u64, u64)>,
}

impl RingWindow {
    /// IOVAs from 0 to `bytes`, without the `reserved` ranges (inclusive), which no driver uses.
    pub fn new(bytes: u64, reserved: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Self { bytes, reserved: reserved.into_iter().collect() }
    }

    /// What is wrong with `ram` and what to change, in one line.
    #[must_use]
    pub fn complaint(&self, ram: &GuestRam) -> Option<String> {
        if ram.total() == 0 {
            return None;
        }
        let (start, end) = self.first_gap(ram)?;
        Some(format!(
            "the IOVA window of {} is not covered by guest RAM: nothing is at {start:#x}..{end:#x}, and a ring placed \
             there makes the VMM fail; give the guest more RAM below 4 GiB (QEMU: -m) or choose a smaller --window",
            ByteSize::from_bytes(self.bytes)
        ))
    }

    /// The first part of the window that is neither RAM nor reserved.
    fn first_gap(&self, ram: &GuestRam) -> Option<(u64, u64)> {
        ram.holes_below(self.bytes)
            .into_iter()
            .find(|&(start, end)| !self.reserved.iter().any(|&(first, last)| first <= start && end - 1 <= last))
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    use super::*;

    fn ram(ranges: &[(u64, usize)]) -> std::sync::Arc<GuestRam> {
        let ranges: Vec<_> = ranges.iter().map(|&(start, len)| (GuestAddress(start), len)).collect();
        GuestRam::new(&GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap())
    }

    #[test]
    fn a_window_inside_ram_passes_with_its_reserved_hole() {
        let window = RingWindow::new(32 << 20, [(0xa_0000, 0xf_ffff)]);
        assert_eq!(window.complaint(&ram(&[(0, 0xa_0000), (0x10_0000, 64 << 20)])), None);
        assert_eq!(window.complaint(&ram(&[(0, 0xa_0000), (0xc_0000, 64 << 20)])), None);
        assert_eq!(window.complaint(&ram(&[(0, 64 << 20)])), None);
    }

    #[test]
    fn a_gap_is_named_with_its_remedy() {
        let window = RingWindow::new(256 << 20, [(0xa_0000, 0xf_ffff)]);
        let complaint = window.complaint(&ram(&[(0, 128 << 20)])).unwrap();
        assert!(complaint.contains("256M") && complaint.contains("0x8000000..0x10000000"), "{complaint}");
        assert!(complaint.contains("--window"));
    }
}
