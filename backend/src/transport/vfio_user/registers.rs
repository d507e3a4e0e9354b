//! The common configuration structure of virtio over PCI (virtio 1.2 §4.1.4.3): negotiation, queues, status.
//!
//! A driver may access it with any width at any offset: what an access covers of a field is merged with the rest of it.

use frontend_spec::virtio::feature;

use super::interrupts::Interrupts;
use crate::ring::RingLayout;

/// Bytes of the structure, up to and including `queue_reset`.
pub(super) const REGISTERS_SIZE: usize = 0x3c;

/// Bits of the device status (virtio 1.2 §2.1).
pub(super) mod status {
    pub(in super::super) const DRIVER_OK: u8 = 4;
    pub(in super::super) const FEATURES_OK: u8 = 8;
    pub(in super::super) const NEEDS_RESET: u8 = 64;
}

/// Offsets of the fields.
mod field {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub(super) const DEVICE_FEATURE: usize = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub(super) const DRIVER_FEATURE: usize = 0x0c;
    pub(super) const CONFIG_VECTOR: usize = 0x10;
    pub(super) const NUM_QUEUES: usize = 0x12;
    pub(super) const STATUS: usize = 0x14;
    pub(super) const CONFIG_GENERATION: usize = 0x15;
    pub(super) const QUEUE_SELECT: usize = 0x16;
    pub(super) const QUEUE_SIZE: usize = 0x18;
    pub(super) const QUEUE_VECTOR: usize = 0x1a;
    pub(super) const QUEUE_ENABLE: usize = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: usize = 0x1e;
    pub(super) const QUEUE_DESC: usize = 0x20;
    pub(super) const QUEUE_DRIVER: usize = 0x28;
    pub(super) const QUEUE_DEVICE: usize = 0x30;
    pub(super) const QUEUE_NOTIFY_DATA: usize = 0x38;
}

/// Offset and bytes of every field that a driver may write. A 64-bit address is two fields.
const WRITABLE: [(usize, usize); 15] = [
    (field::DEVICE_FEATURE_SELECT, 4),
    (field::DRIVER_FEATURE_SELECT, 4),
    (field::DRIVER_FEATURE, 4),
    (field::CONFIG_VECTOR, 2),
    (field::STATUS, 1),
    (field::QUEUE_SELECT, 2),
    (field::QUEUE_SIZE, 2),
    (field::QUEUE_VECTOR, 2),
    (field::QUEUE_ENABLE, 2),
    (field::QUEUE_DESC, 4),
    (field::QUEUE_DESC + 4, 4),
    (field::QUEUE_DRIVER, 4),
    (field::QUEUE_DRIVER + 4, 4),
    (field::QUEUE_DEVICE, 4),
    (field::QUEUE_DEVICE + 4, 4),
];

/// What a write asks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Forget the driver.
    Reset,
    /// The driver has accepted these features.
    Accepted(u64),
    /// The queue runs from now on.
    Start(usize),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Queue {
    size: u16,
    enabled: bool,
    /// Descriptor area, driver area, device area.
    areas: [u64; 3],
}

/// The registers of one function.
#[derive(Debug)]
pub(super) struct Registers {
    offered: u64,
    sizes: Vec<u16>,
    accepted: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    status: u8,
    config_generation: u8,
    queue_select: u16,
    queues: Vec<Queue>,
}

/// The half of `features` that `select` chooses.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => low(features),
        1 => low(features >> 32),
        _ => 0,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low(value: u64) -> u32 {
    value as u32
}

/// `value` with one half replaced.
fn with_half(value: u64, high: bool, new: u32) -> u64 {
    if high { u64::from(low(value)) | u64::from(new) << 32 } else { value >> 32 << 32 | u64::from(new) }
}

impl Registers {
    /// Registers of a device that offers `features` and whose queues have at most `sizes` entries.
    pub(super) fn new(features: u64, sizes: &[u16]) -> Self {
        let mut registers = Self {
            offered: features,
            sizes: sizes.to_vec(),
            accepted: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            status: 0,
            config_generation: 0,
            queue_select: 0,
            queues: Vec::new(),
        };
        registers.reset();
        registers
    }

    /// What they are before a driver comes; the generation goes on.
    pub(super) fn reset(&mut self) {
        self.accepted = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.status = 0;
        self.queue_select = 0;
        self.queues = self.sizes.iter().map(|size| Queue { size: *size, ..Queue::default() }).collect();
    }

    /// The status as the driver wrote it.
    pub(super) fn status(&self) -> u8 {
        self.status
    }

    /// Where `queue` lies.
    pub(super) fn layout(&self, queue: usize) -> RingLayout {
        let Queue { size, areas: [descriptors, avail, used], .. } = self.queues[queue];
        RingLayout { descriptors, avail, used, size, event_idx: self.accepted & feature::EVENT_IDX != 0 }
    }

    /// Configuration of the device type has changed.
    pub(super) fn next_generation(&mut self) {
        self.config_generation = self.config_generation.wrapping_add(1);
    }

    /// All bytes, with `status` in place of the driver's.
    pub(super) fn image(&self, interrupts: &Interrupts, status: u8) -> [u8; REGISTERS_SIZE] {
        let mut bytes = [0; REGISTERS_SIZE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(field::DEVICE_FEATURE_SELECT, &self.device_feature_select.to_le_bytes());
        put(field::DEVICE_FEATURE, &half(self.offered, self.device_feature_select).to_le_bytes());
        put(field::DRIVER_FEATURE_SELECT, &self.driver_feature_select.to_le_bytes());
        put(field::DRIVER_FEATURE, &half(self.accepted, self.driver_feature_select).to_le_bytes());
        put(field::CONFIG_VECTOR, &interrupts.config_vector().to_le_bytes());
        put(field::NUM_QUEUES, &u16::try_from(self.queues.len()).unwrap_or(u16::MAX).to_le_bytes());
        put(field::STATUS, &[status]);
        put(field::CONFIG_GENERATION, &[self.config_generation]);
        put(field::QUEUE_SELECT, &self.queue_select.to_le_bytes());
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(field::QUEUE_SIZE, &queue.size.to_le_bytes());
            let vector = interrupts.queue_vector(usize::from(self.queue_select));
            put(field::QUEUE_VECTOR, &vector.to_le_bytes());
            put(field::QUEUE_ENABLE, &u16::from(queue.enabled).to_le_bytes());
            put(field::QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            for (at, area) in [field::QUEUE_DESC, field::QUEUE_DRIVER, field::QUEUE_DEVICE].into_iter().zip(queue.areas)
            {
                put(at, &area.to_le_bytes());
            }
            put(field::QUEUE_NOTIFY_DATA, &self.queue_select.to_le_bytes());
        }
        bytes
    }

    /// Writes `bytes` at `offset`, which may lie anywhere.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8], interrupts: &Interrupts) -> Vec<Change> {
        let mut changes = Vec::new();
        let end = offset.saturating_add(bytes.len());
        for (at, len) in WRITABLE {
            if at >= end || at + len <= offset {
                continue;
            }
            let mut value = [0; 4];
            value[..len].copy_from_slice(&self.image(interrupts, self.status)[at..at + len]);
            for (index, byte) in (offset..).zip(bytes).filter(|(index, _)| (at..at + len).contains(index)) {
                value[index - at] = *byte;
            }
            self.set(at, u32::from_le_bytes(value), interrupts, &mut changes);
        }
        changes
    }

    #[expect(clippy::cast_possible_truncation, reason = "fields of 8 and 16 bits")]
    fn set(&mut self, at: usize, value: u32, interrupts: &Interrupts, changes: &mut Vec<Change>) {
        let selected = usize::from(self.queue_select);
        match at {
            field::DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            field::DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            field::DRIVER_FEATURE => {
                // Features are fixed once agreed on.
                if self.status & status::FEATURES_OK == 0 && self.driver_feature_select < 2 {
                    self.accepted = with_half(self.accepted, self.driver_feature_select == 1, value);
                }
            }
            field::CONFIG_VECTOR => interrupts.set_config_vector(value as u16),
            field::STATUS => self.set_status(value as u8, changes),
            field::QUEUE_SELECT => self.queue_select = value as u16,
            field::QUEUE_VECTOR => interrupts.set_queue_vector(selected, value as u16),
            _ => self.set_queue(selected, at, value, changes),
        }
    }

    fn set_status(&mut self, value: u8, changes: &mut Vec<Change>) {
        if value == 0 {
            self.reset();
            changes.push(Change::Reset);
            return;
        }
        let before = self.status;
        // A driver takes no bit back but by a reset (virtio 1.2 §2.1.1): what runs is not started again.
        let mut value = (value | before) & !status::NEEDS_RESET;
        if value & status::FEATURES_OK != 0 && before & status::FEATURES_OK == 0 {
            if self.is_acceptable() {
                changes.push(Change::Accepted(self.accepted));
            } else {
                value &= !status::FEATURES_OK;
            }
        }
        if value & status::FEATURES_OK == 0 {
            value &= !status::DRIVER_OK;
        }
        self.status = value;
        if value & status::DRIVER_OK != 0 && before & status::DRIVER_OK == 0 {
            let enabled = self.queues.iter().enumerate().filter(|(_, queue)| queue.enabled);
            changes.extend(enabled.map(|(index, _)| Change::Start(index)));
        }
    }

    /// Whether the device works with what the driver accepts. A driver that does not know of an IOMMU is let in: it may
    /// be firmware, under a bypass.
    fn is_acceptable(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & feature::VERSION_1 != 0
    }

    #[expect(clippy::cast_possible_truncation, reason = "fields of 16 bits")]
    fn set_queue(&mut self, selected: usize, at: usize, value: u32, changes: &mut Vec<Change>) {
        let running = self.status & status::DRIVER_OK != 0;
        let (Some(queue), Some(most)) = (self.queues.get_mut(selected), self.sizes.get(selected)) else { return };
        // A queue that is enabled lies still.
        if queue.enabled {
            return;
        }
        match at {
            field::QUEUE_SIZE => {
                let size = value as u16;
                if size.is_power_of_two() && size <= *most {
                    queue.size = size;
                }
            }
            field::QUEUE_ENABLE => {
                queue.enabled = value == 1;
                if queue.enabled && running {
                    changes.push(Change::Start(selected));
                }
            }
            _ => {
                let (area, high) = ((at - field::QUEUE_DESC) / 8, !at.is_multiple_of(8));
                queue.areas[area] = with_half(queue.areas[area], high, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const OFFERED: u64 = feature::VERSION_1 | feature::EVENT_IDX | 1;

    struct Bench {
        registers: Registers,
        interrupts: Arc<Interrupts>,
    }

    impl Bench {
        fn new(offered: u64) -> Self {
            Self { registers: Registers::new(offered, &[256, 64]), interrupts: Interrupts::new(2) }
        }

        fn write(&mut self, at: usize, bytes: &[u8]) -> Vec<Change> {
            self.registers.write(at, bytes, &self.interrupts)
        }

        fn read<const N: usize>(&self, at: usize) -> [u8; N] {
            let image = self.registers.image(&self.interrupts, self.registers.status());
            image[at..at + N].try_into().unwrap()
        }

        fn accept(&mut self, features: u64) -> Vec<Change> {
            for (select, bytes) in [(0, &features.to_le_bytes()[..4]), (1, &features.to_le_bytes()[4..])] {
                self.write(field::DRIVER_FEATURE_SELECT, &[select, 0, 0, 0]);
                self.write(field::DRIVER_FEATURE, bytes);
            }
            self.write(field::STATUS, &[11])
        }
    }

    #[test]
    fn features_are_offered_and_accepted_in_halves() {
        let mut bench = Bench::new(OFFERED);
        assert_eq!(bench.read::<4>(field::DEVICE_FEATURE), [1, 0, 0, 0x20]);
        bench.write(field::DEVICE_FEATURE_SELECT, &[1, 0, 0, 0]);
        assert_eq!(bench.read::<4>(field::DEVICE_FEATURE), [1, 0, 0, 0]);
        bench.write(field::DEVICE_FEATURE_SELECT, &[2, 0, 0, 0]);
        assert_eq!(bench.read::<4>(field::DEVICE_FEATURE), [0; 4]);
        assert_eq!(bench.accept(OFFERED), [Change::Accepted(OFFERED)]);
        assert_eq!(bench.read::<1>(field::STATUS), [11]);
        bench.write(field::DRIVER_FEATURE, &[0xff; 4]);
        assert_eq!(bench.registers.accepted, OFFERED, "fixed once agreed on");
    }

    #[test]
    fn an_impossible_choice_of_features_is_not_ok() {
        for features in [OFFERED | 2, 1] {
            let mut bench = Bench::new(OFFERED);
            assert_eq!(bench.accept(features), []);
            assert_eq!(bench.read::<1>(field::STATUS), [3]);
            assert_eq!(bench.write(field::STATUS, &[7]), [], "and no driver runs without them");
            assert_eq!(bench.read::<1>(field::STATUS), [3]);
        }
    }

    #[test]
    fn queues_start_when_the_driver_is_ready() {
        let mut bench = Bench::new(OFFERED);
        bench.accept(OFFERED);
        bench.write(field::QUEUE_SELECT, &[1, 0]);
        assert_eq!(bench.read::<2>(field::QUEUE_SIZE), [64, 0]);
        bench.write(field::QUEUE_SIZE, &[32, 0]);
        bench.write(field::QUEUE_DESC, &[0, 0x10, 0, 0]);
        bench.write(field::QUEUE_DESC + 4, &[0x80, 0, 0, 0]);
        bench.write(field::QUEUE_DRIVER, &0x8000_2000_u64.to_le_bytes());
        bench.write(field::QUEUE_DEVICE, &0x3000_u64.to_le_bytes());
        bench.write(field::QUEUE_VECTOR, &[2, 0]);
        assert_eq!(bench.write(field::QUEUE_ENABLE, &[1, 0]), []);
        bench.write(field::QUEUE_SIZE, &[64, 0]);
        assert_eq!(bench.write(field::STATUS, &[15]), [Change::Start(1)]);
        let layout =
            RingLayout { descriptors: 0x80_0000_1000, avail: 0x8000_2000, used: 0x3000, size: 32, event_idx: true };
        assert_eq!(bench.registers.layout(1), layout);
        assert_eq!(bench.interrupts.queue_vector(1), 2);
        bench.write(field::QUEUE_SELECT, &[0, 0]);
        assert_eq!(bench.write(field::QUEUE_ENABLE, &[1, 0]), [Change::Start(0)]);
        assert_eq!(bench.write(field::STATUS, &[0]), [Change::Reset]);
        assert_eq!(bench.read::<2>(field::QUEUE_ENABLE), [0, 0]);
    }

    #[test]
    fn a_status_that_is_taken_back_starts_nothing_again() {
        let mut bench = Bench::new(OFFERED);
        bench.accept(OFFERED);
        bench.write(field::QUEUE_ENABLE, &[1, 0]);
        assert_eq!(bench.write(field::STATUS, &[15]), [Change::Start(0)]);
        for taken_back in [1, 3, 11, 15] {
            assert_eq!(bench.write(field::STATUS, &[taken_back]), []);
            assert_eq!(bench.read::<1>(field::STATUS), [15]);
        }
        assert_eq!(bench.write(field::STATUS, &[0]), [Change::Reset]);
        assert_eq!(bench.read::<1>(field::STATUS), [0]);
    }

    #[test]
    fn sizes_that_no_ring_has_are_ignored() {
        let mut bench = Bench::new(OFFERED);
        for size in [[0, 0], [3, 0], [0, 2]] {
            bench.write(field::QUEUE_SIZE, &size);
            assert_eq!(bench.read::<2>(field::QUEUE_SIZE), [0, 1]);
        }
    }

    #[test]
    fn a_queue_that_does_not_exist_reads_as_zero() {
        let mut bench = Bench::new(OFFERED);
        bench.write(field::QUEUE_SELECT, &[2, 0]);
        bench.write(field::QUEUE_ENABLE, &[1, 0]);
        bench.write(field::QUEUE_DEVICE, &[0xff; 8]);
        assert_eq!(bench.read::<36>(field::QUEUE_SIZE), [0; 36]);
    }

    #[test]
    fn any_width_at_any_offset_merges() {
        let mut bench = Bench::new(OFFERED);
        bench.write(field::QUEUE_DESC + 3, &[0xaa, 0xbb]);
        assert_eq!(bench.read::<8>(field::QUEUE_DESC), [0, 0, 0, 0xaa, 0xbb, 0, 0, 0]);
        bench.write(0, &[0x11; REGISTERS_SIZE]);
        bench.write(REGISTERS_SIZE - 1, &[0xff; 8]);
        bench.write(usize::MAX, &[1, 2, 3]);
        assert_eq!(bench.read::<4>(0), [0x11; 4]);
        assert_eq!(bench.read::<2>(field::NUM_QUEUES), [2, 0]);
    }
}
