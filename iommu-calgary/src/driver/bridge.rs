//! One PHB: bring-up, where it is pointed, teardown.

use std::sync::Arc;

use super::invalidate::Stop;
use crate::addr::Iova;
use crate::chip::{Hardware, PhysicalTable, Target};
use crate::error::Error;
use crate::registers::PhbRegister as R;
use crate::registers::bits::{ccr, config_rw, savior_l2};
use crate::registers::{CCR, PhbIndex, RegisterWindow, Tar, Variant};

/// What bring-up enables and teardown disables.
const ENABLES: u32 = config_rw::TCE_ENABLE | config_rw::DAC_DISABLE | config_rw::MCSR_ENABLE;

/// Peripheral windows are multiples of 1 MiB.
const MEGABYTE_MASK: u64 = 0xF_FFFF;

/// A PHB in use.
#[derive(Debug)]
pub(super) struct Bridge<T> {
    pub(super) phb: PhbIndex,
    pub(super) variant: Variant,
    /// What the registers say.
    target: Target<T>,
    /// What they shall say after the next invalidation.
    wanted: Option<Target<T>>,
    /// The register's value, which the invalidation writes again.
    tar: Tar,
    pub(super) stop: Option<Stop>,
    untranslated: Vec<(Iova, Iova)>,
}

impl<T: PhysicalTable> Bridge<T> {
    /// Linux's order: table, reserved ranges, TAR, quirks, enables; each write that matters is read back. Translation is
    /// enabled last, on a table of free entries, so that no access gets through that nobody asked for.
    pub(super) fn bring_up<H: Hardware<Table = T>>(
        hardware: &mut H,
        phb: PhbIndex,
        bus: u8,
        parking: &Arc<T>,
    ) -> Result<Self, Error> {
        let variant = hardware.variant();
        let untranslated = untranslated(hardware, variant, phb);
        let mut bridge =
            Self { phb, variant, target: Target::Nothing, wanted: None, tar: Tar::NO_TABLE, stop: None, untranslated };
        bridge.write_tar(hardware, select(&**parking));
        let read = hardware.read64(phb.tar());
        if read != bridge.tar.value() {
            return Err(Error::NotACalgary { phb: phb.get(), written: bridge.tar.value(), read });
        }
        match variant {
            // Disks behind the bus of this number timed out otherwise.
            Variant::Calgary if bus == 1 => {
                let value = hardware.read64(CCR);
                hardware.write64(CCR, ccr::with_timeout(value, phb, ccr::TIMEOUT_2S));
            }
            Variant::Calgary => {}
            Variant::CalIoc2 => set32(hardware, phb, R::SaviorL2, savior_l2::RECOMMENDED),
        }
        set32(hardware, phb, R::ConfigRw, ENABLES);
        read_back(hardware, phb, R::ConfigRw);
        Ok(bridge)
    }

    /// Linux's order, after the slots are disabled: what Linux leaves behind is a bus whose devices reach all memory
    /// untranslated, which is right for a kernel that hands the machine on, and wrong for a guest's device.
    pub(super) fn tear_down(&mut self, hardware: &mut impl RegisterWindow) {
        self.disable_slots(hardware);
        clear32(hardware, self.phb, R::ConfigRw, ENABLES);
        read_back(hardware, self.phb, R::ConfigRw);
        self.write_tar(hardware, Tar::NO_TABLE);
        hardware.read64(self.phb.tar());
        self.target = Target::Nothing;
    }

    /// IOVAs that go past the tables, both ends inclusive.
    pub(super) fn untranslated(&self) -> &[(Iova, Iova)] {
        &self.untranslated
    }

    /// Has the next invalidation point the PHB elsewhere. Whether that is a change.
    pub(super) fn retarget(&mut self, target: Target<T>) -> bool {
        if self.wanted.is_none() && self.target.is_same(&target) {
            return false;
        }
        self.wanted = Some(target);
        true
    }

    /// Writes the TAR, which drops the cached entries, and points the PHB where it shall point. The bus is stopped.
    ///
    /// The table comes before the enable and after the disable, so that translation is never on without a table.
    pub(super) fn drop_cache(&mut self, hardware: &mut impl RegisterWindow, parking: &Arc<T>) {
        let before = std::mem::replace(&mut self.target, Target::Nothing);
        let target = self.wanted.take().unwrap_or_else(|| before.clone());
        let moved = !target.is_same(&before);
        match &target {
            Target::Identity => {
                if moved {
                    clear32(hardware, self.phb, R::ConfigRw, config_rw::TCE_ENABLE);
                    read_back(hardware, self.phb, R::ConfigRw);
                }
                self.write_tar(hardware, select(&**parking));
            }
            Target::Nothing | Target::Table(_) => {
                let table = if let Target::Table(table) = &target { table } else { parking };
                self.write_tar(hardware, select(&**table));
                if matches!(before, Target::Identity) {
                    set32(hardware, self.phb, R::ConfigRw, config_rw::TCE_ENABLE);
                    read_back(hardware, self.phb, R::ConfigRw);
                }
            }
        }
        self.target = target;
        // `before` is dropped only now: up to the write, the chip could have walked its table.
        drop(before);
    }

    /// As the watchdog does.
    pub(super) fn disable_slots(&self, hardware: &mut impl RegisterWindow) {
        set32(hardware, self.phb, R::ConfigRw, config_rw::SLOT_DISABLE);
        read_back(hardware, self.phb, R::ConfigRw);
    }

    /// Nothing in Linux ever does; here a reset of the guest's device may.
    pub(super) fn enable_slots(&self, hardware: &mut impl RegisterWindow) {
        clear32(hardware, self.phb, R::ConfigRw, config_rw::SLOT_DISABLE);
        read_back(hardware, self.phb, R::ConfigRw);
    }

    /// Reads, changes the driver's bits, writes.
    fn write_tar(&mut self, hardware: &mut impl RegisterWindow, tar: Tar) {
        self.tar = tar.merged_into(hardware.read64(self.phb.tar()));
        hardware.write64(self.phb.tar(), self.tar.value());
    }
}

/// The register value for a table. An address that does not fit selects none; [`Hardware::allocate`] gives no such.
fn select(table: &impl PhysicalTable) -> Tar {
    Tar::new(table.base(), table.size()).unwrap_or(Tar::NO_TABLE)
}

pub(super) fn set32(hardware: &mut impl RegisterWindow, phb: PhbIndex, register: R, bits: u32) {
    let value = hardware.read32(phb.register(register));
    hardware.write32(phb.register(register), value | bits);
}

fn clear32(hardware: &mut impl RegisterWindow, phb: PhbIndex, register: R, bits: u32) {
    let value = hardware.read32(phb.register(register));
    hardware.write32(phb.register(register), value & !bits);
}

/// Pushes posted writes to the chip.
pub(super) fn read_back(hardware: &mut impl RegisterWindow, phb: PhbIndex, register: R) {
    hardware.read32(phb.register(register));
}

/// What the PHB passes without a look into the table: the legacy hole, on CalIOC2 the whole first MiB, and the windows of
/// its peripherals.
fn untranslated(hardware: &mut impl RegisterWindow, variant: Variant, phb: PhbIndex) -> Vec<(Iova, Iova)> {
    let mut read = |register: R| u64::from(hardware.read32(phb.register(register)));
    let mut ranges = vec![match variant {
        Variant::Calgary => (Iova(0xA_0000), Iova(0xF_FFFF)),
        Variant::CalIoc2 => (Iova(0), Iova(0xF_FFFF)),
    }];
    ranges.extend(window(read(R::Mem1High) << 32 | read(R::Mem1Low), read(R::Mem1Limit)));
    if read(R::ConfigRw) & u64::from(config_rw::MEM2_ENABLE) != 0 {
        let start = read(R::Mem2High) << 32 | read(R::Mem2Low);
        ranges.extend(window(start, read(R::Mem2LimitHigh) << 32 | read(R::Mem2LimitLow)));
    }
    ranges
}

fn window(start: u64, limit: u64) -> Option<(Iova, Iova)> {
    (start != 0 && start <= limit).then_some((Iova(start & !MEGABYTE_MASK), Iova(limit | MEGABYTE_MASK)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_whole_megabytes() {
        assert_eq!(window(0xE000_0000, 0xE7F0_0000), Some((Iova(0xE000_0000), Iova(0xE7FF_FFFF))));
        assert_eq!(window(0xE000_1000, 0xE000_1000), Some((Iova(0xE000_0000), Iova(0xE00F_FFFF))));
        assert_eq!(window(0xE000_0000, 0), None);
        assert_eq!(window(0, 0), None);
    }
}
