//! Which bus lies below which PHB.

use crate::registers::bits::stuff;
use crate::registers::{PhbIndex, RegisterWindow};

/// Where the table of a bus is selected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bus {
    /// Address of the chip's register window.
    pub bbar: u64,
    /// The PHB.
    pub phb: PhbIndex,
    /// The first bus number of the PHB: the table belongs to this bus, which the chip's own function sits on.
    pub root: u8,
}

/// The PHB of each bus number.
///
/// All devices below one PHB go through one table: isolation is between PHBs. A device finds its table by walking up to
/// the bus that owns one; the ranges in STUFF give the same answer without the walk.
#[derive(Clone, Debug)]
pub struct BusMap {
    buses: Box<[Option<Bus>; 256]>,
}

impl BusMap {
    /// No bus is below any PHB.
    #[must_use]
    pub fn new() -> Self {
        Self { buses: Box::new([None; 256]) }
    }

    /// Adds the buses of a chip, as its four STUFF registers tell.
    pub fn add_chip(&mut self, bbar: u64, window: &mut impl RegisterWindow) {
        for phb in PhbIndex::ALL {
            let value = window.read32(phb.stuff());
            let root = stuff::first_bus(value);
            for bus in root..=stuff::last_bus(value) {
                self.buses[usize::from(bus)] = Some(Bus { bbar, phb, root });
            }
        }
    }

    /// Where the DMA of devices on `bus` is translated, or `None` if nowhere.
    #[must_use]
    pub fn get(&self, bus: u8) -> Option<Bus> {
        self.buses[usize::from(bus)]
    }
}

impl Default for BusMap {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registers::{Register32, Register64};

    /// Four STUFF registers.
    struct Stuff([u32; 4]);

    impl RegisterWindow for Stuff {
        fn read32(&mut self, register: Register32) -> u32 {
            let phb = PhbIndex::ALL.into_iter().find(|phb| phb.stuff() == register).unwrap();
            self.0[phb.get()]
        }

        fn write32(&mut self, register: Register32, _: u32) {
            panic!("{register:?} is written")
        }

        fn read64(&mut self, register: Register64) -> u64 {
            panic!("{register:?} is read")
        }

        fn write64(&mut self, register: Register64, _: u64) {
            panic!("{register:?} is written")
        }
    }

    #[test]
    fn each_bus_finds_its_phb() {
        let mut map = BusMap::new();
        map.add_chip(0xFDA0_0000, &mut Stuff([0x0000_0000, 0x0001_0000, 0x0002_0300, 0x0004_0500]));
        map.add_chip(0xFDB0_0000, &mut Stuff([0x0006_0700, 0x0008_0000, 0x000A_0000, 0x00FE_FF00]));
        let bus = |bbar, phb: usize, root| Some(Bus { bbar, phb: PhbIndex::ALL[phb], root });
        assert_eq!(map.get(0), bus(0xFDA0_0000, 0, 0));
        assert_eq!(map.get(1), bus(0xFDA0_0000, 1, 1));
        assert_eq!(map.get(3), bus(0xFDA0_0000, 2, 2));
        assert_eq!(map.get(7), bus(0xFDB0_0000, 0, 6));
        assert_eq!(map.get(255), bus(0xFDB0_0000, 3, 254));
        assert_eq!(map.get(9), None);
    }
}
