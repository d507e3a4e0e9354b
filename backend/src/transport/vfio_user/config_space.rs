//! PCI configuration space of a virtio function: a type 0 header, the virtio capabilities and MSI-X (virtio 1.2 §4.1).
//!
//! | offset | what |
//! |---|---|
//! | 0x00 | header: 1af4:1040 + virtio id, BARs 0 and 1, INTA |
//! | 0x40 | virtio: common configuration |
//! | 0x50 | virtio: ISR |
//! | 0x60 | virtio: device configuration |
//! | 0x70 | virtio: notifications |
//! | 0x84 | virtio: access to the BARs through configuration space |
//! | 0x98 | MSI-X |

use super::layout::{BAR_SIZES, MSIX_PBA, MSIX_TABLE, Place};

/// Bytes of configuration space of a conventional PCI function.
pub(super) const CONFIG_SIZE: usize = 256;

const VENDOR: u16 = 0x1af4;
/// PCI device id of virtio device 0.
const FIRST_DEVICE: u16 = 0x1040;
/// A virtio 1.0 device without a legacy interface.
const REVISION: u8 = 1;
/// Class code of an IOMMU.
const CLASS_IOMMU: u32 = 0x08_06_00;
/// Class code of a storage device of no other kind.
const CLASS_STORAGE: u32 = 0x01_80_00;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BARS: usize = 0x10;
const CAPABILITY_POINTER: usize = 0x34;
/// Memory space, bus mastering, INTx disable.
const COMMAND_WRITABLE: u16 = 0x0406;
/// Status: there is a list of capabilities.
const STATUS_CAPABILITIES: u8 = 0x10;
/// Status: the INTx line is raised.
const STATUS_INTERRUPT: u8 = 0x08;

const VIRTIO_CAPABILITY: u8 = 0x09;
const MSIX_CAPABILITY: u8 = 0x11;
const CAPABILITIES: usize = 0x40;
/// Types of virtio capability.
const PCI_CONFIG_ACCESS: u8 = 5;
const NOTIFICATIONS: u8 = 2;
/// The access capability, within which `bar`, `offset`, `length` and `data` can be written.
const ACCESS: usize = 0x84;
const ACCESS_DATA: usize = ACCESS + 16;
const MSIX: usize = 0x98;
const MSIX_CONTROL: usize = MSIX + 2;
/// MSI-X control: enable, and mask all.
const MSIX_WRITABLE: u16 = 0xc000;
const MSIX_ENABLE: u16 = 0x8000;

/// An access to a BAR through configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BarAccess {
    pub(super) bar: u32,
    pub(super) offset: u64,
    /// 1, 2 or 4 bytes.
    pub(super) len: usize,
}

/// The 256 bytes, and which of their bits a driver may write.
#[derive(Clone)]
pub(super) struct ConfigSpace {
    bytes: [u8; CONFIG_SIZE],
    writable: [u8; CONFIG_SIZE],
}

impl ConfigSpace {
    /// The space of virtio device `virtio_id` with `queues` queues and `vectors` vectors.
    pub(super) fn new(virtio_id: u16, queues: u16, vectors: u16) -> Self {
        let mut space = Self { bytes: [0; CONFIG_SIZE], writable: [0; CONFIG_SIZE] };
        let device = FIRST_DEVICE.wrapping_add(virtio_id);
        let class = if virtio_id == frontend_spec::virtio::DEVICE_ID_IOMMU { CLASS_IOMMU } else { CLASS_STORAGE };
        space.put(0x00, &VENDOR.to_le_bytes());
        space.put(0x02, &device.to_le_bytes());
        space.put(0x08, &[REVISION]);
        space.put(0x09, &class.to_le_bytes()[..3]);
        space.put(0x2c, &VENDOR.to_le_bytes());
        space.put(0x2e, &device.to_le_bytes());
        space.put(0x3d, &[1]); // INTA
        space.put(STATUS, &[STATUS_CAPABILITIES]);
        space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        space.allow(0x0c, &[0xff]); // cache line size
        space.allow(0x3c, &[0xff]); // interrupt line
        for (index, size) in BAR_SIZES.iter().enumerate() {
            let mask = !(u32::try_from(*size).unwrap_or(0).wrapping_sub(1));
            space.allow(BARS + 4 * index, &mask.to_le_bytes());
        }
        space.put(CAPABILITY_POINTER, &[CAPABILITIES.to_le_bytes()[0]]);
        let mut at = CAPABILITIES;
        for place in Place::ALL {
            let more = place == Place::Notify;
            let next = at + if more { 20 } else { 16 };
            space.virtio_capability(at, next, place.kind(), place.offset(), place.len(queues));
            if more {
                debug_assert_eq!(place.kind(), NOTIFICATIONS);
                space.put(at + 16, &super::layout::NOTIFY_MULTIPLIER.to_le_bytes());
            }
            at = next;
        }
        debug_assert_eq!(at, ACCESS);
        space.virtio_capability(ACCESS, MSIX, PCI_CONFIG_ACCESS, 0, 0);
        space.allow(ACCESS + 4, &[0xff]);
        space.allow(ACCESS + 8, &[0xff; 12]);
        space.put(MSIX, &[MSIX_CAPABILITY, 0]);
        space.put(MSIX_CONTROL, &(vectors - 1).to_le_bytes());
        space.allow(MSIX_CONTROL, &MSIX_WRITABLE.to_le_bytes());
        // The low three bits name the BAR.
        space.put(MSIX + 4, &(MSIX_TABLE | 1).to_le_bytes());
        space.put(MSIX + 8, &(MSIX_PBA | 1).to_le_bytes());
        space
    }

    fn virtio_capability(&mut self, at: usize, next: usize, kind: u8, offset: u32, len: u32) {
        let size = if kind == NOTIFICATIONS || kind == PCI_CONFIG_ACCESS { 20 } else { 16 };
        self.put(at, &[VIRTIO_CAPABILITY, next.to_le_bytes()[0], size, kind]);
        self.put(at + 8, &offset.to_le_bytes());
        self.put(at + 12, &len.to_le_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }

    /// Reads at `offset`; the caller has checked the bounds.
    pub(super) fn read(&self, offset: usize, buffer: &mut [u8], line_raised: bool) {
        buffer.copy_from_slice(&self.bytes[offset..offset + buffer.len()]);
        if line_raised
            && let Some(at) = STATUS.checked_sub(offset)
            && let Some(byte) = buffer.get_mut(at)
        {
            *byte |= STATUS_INTERRUPT;
        }
    }

    /// Writes what may be written; the caller has checked the bounds.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            let mask = self.writable[at];
            self.bytes[at] = (self.bytes[at] & !mask) | (byte & mask);
        }
    }

    /// Whether an access of `len` bytes at `offset` touches the data of the access capability, and what it means then.
    pub(super) fn bar_access(&self, offset: usize, len: usize) -> Option<BarAccess> {
        if offset >= ACCESS_DATA + 4 || offset + len <= ACCESS_DATA {
            return None;
        }
        let number = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&self.bytes[at..at + 4]);
            u32::from_le_bytes(bytes)
        };
        let access_len = usize::try_from(number(ACCESS + 12)).unwrap_or(0);
        let bar_offset = u64::from(number(ACCESS + 8));
        let possible = matches!(access_len, 1 | 2 | 4) && bar_offset.is_multiple_of(access_len as u64);
        possible.then(|| BarAccess { bar: u32::from(self.bytes[ACCESS + 4]), offset: bar_offset, len: access_len })
    }

    /// The data of the access capability.
    pub(super) fn access_data(&mut self) -> &mut [u8] {
        &mut self.bytes[ACCESS_DATA..ACCESS_DATA + 4]
    }

    /// The guest uses MSI-X.
    pub(super) fn msix_enabled(&self) -> bool {
        u16::from_le_bytes([self.bytes[MSIX_CONTROL], self.bytes[MSIX_CONTROL + 1]]) & MSIX_ENABLE != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        ConfigSpace::new(9, 1, 2)
    }

    fn read<const N: usize>(space: &ConfigSpace, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        space.read(at, &mut bytes, false);
        bytes
    }

    #[test]
    fn the_header_is_that_of_a_modern_virtio_function() {
        let space = space();
        assert_eq!(read::<4>(&space, 0), [0xf4, 0x1a, 0x49, 0x10]);
        assert_eq!(read::<4>(&space, 8), [1, 0, 0x80, 0x01]);
        assert_eq!(read::<1>(&space, 0x0e), [0], "header type");
        assert_eq!(read::<2>(&space, 0x3c), [0, 1]);
        assert_eq!(read::<4>(&ConfigSpace::new(23, 2, 3), 0), [0xf4, 0x1a, 0x57, 0x10]);
        assert_eq!(read::<4>(&ConfigSpace::new(23, 2, 3), 8), [1, 0, 6, 8]);
    }

    #[test]
    fn the_capabilities_form_a_list() {
        let space = space();
        let mut at = usize::from(read::<1>(&space, 0x34)[0]);
        let mut found = Vec::new();
        while at != 0 {
            let [id, next, len, kind] = read::<4>(&space, at);
            found.push(if id == VIRTIO_CAPABILITY { (id, len, kind) } else { (id, 0, 0) });
            at = usize::from(next);
        }
        assert_eq!(found, [(9, 16, 1), (9, 16, 3), (9, 16, 4), (9, 20, 2), (9, 20, 5), (0x11, 0, 0)]);
        // Common configuration: BAR 0, offset 0, 60 bytes.
        assert_eq!(read::<12>(&space, 0x44), [0, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0]);
        // Notifications: BAR 0, offset 0x3000, 4 bytes for one queue, multiplier 4.
        assert_eq!(read::<16>(&space, 0x74), [0, 0, 0, 0, 0, 0x30, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0]);
        // MSI-X: two vectors, table and pending bits in BAR 1.
        assert_eq!(read::<10>(&space, 0x9a), [1, 0, 1, 0, 0, 0, 1, 8, 0, 0]);
    }

    #[test]
    fn a_bar_tells_its_size() {
        let mut space = space();
        space.write(0x10, &[0xff; 8]);
        assert_eq!(read::<8>(&space, 0x10), [0, 0xc0, 0xff, 0xff, 0, 0xf0, 0xff, 0xff]);
        space.write(0x18, &[0xff; 16]);
        assert_eq!(read::<16>(&space, 0x18), [0; 16], "there are no other BARs");
    }

    #[test]
    fn what_is_read_only_stays() {
        let mut space = space();
        let before = space.bytes;
        space.write(0, &[0xff; CONFIG_SIZE]);
        assert_eq!(space.bytes[..4], before[..4]);
        assert_eq!(read::<2>(&space, COMMAND), [0x06, 0x04]);
        assert!(space.msix_enabled());
        assert_eq!(read::<2>(&space, MSIX_CONTROL), [1, 0xc0]);
        assert_eq!(space.bytes[0x40..ACCESS + 4], before[0x40..ACCESS + 4]);
    }

    #[test]
    fn the_line_shows_in_the_status() {
        let space = space();
        let mut bytes = [0; 4];
        space.read(4, &mut bytes, true);
        assert_eq!(bytes, [0, 0, 0x18, 0]);
    }

    #[test]
    fn the_access_capability_names_a_place() {
        let mut space = space();
        assert_eq!(space.bar_access(ACCESS_DATA, 4), None, "a length of 0");
        space.write(ACCESS + 8, &[0x14, 0, 0, 0, 1, 0, 0, 0]);
        let access = Some(BarAccess { bar: 0, offset: 0x14, len: 1 });
        assert_eq!(space.bar_access(ACCESS_DATA, 1), access);
        assert_eq!(space.bar_access(0, CONFIG_SIZE), access);
        assert_eq!(space.bar_access(ACCESS_DATA + 4, 4), None);
        assert_eq!(space.bar_access(ACCESS, 16), None);
        space.write(ACCESS + 8, &[0x15, 0, 0, 0, 2]);
        assert_eq!(space.bar_access(ACCESS_DATA, 1), None, "not aligned");
    }
}
