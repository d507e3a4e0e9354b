//! Where the registers are.

/// Bytes of a chip's register window.
pub const WINDOW_BYTES: usize = 1 << 20;

/// Distance between the spaces of two PHBs, in bytes.
const PHB_STRIDE: u32 = 0x1000;
const PHB_SPACE: u32 = 0x8000;
const PHB_DEBUG_SPACE: u32 = 0x4000;
const STUFF: u32 = 0x0020;
const SPLIT_QUEUE: u32 = 0x0870;
const TAR: u32 = 0x0580;

/// Calgary configuration register: the split-completion timeouts of the four PHBs.
pub const CCR: Register64 = Register64(0x0108);

/// A 32-bit register, by its offset from the BBAR in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Register32(u32);

/// A 64-bit register, by its offset from the BBAR in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Register64(u32);

impl Register32 {
    /// The register at `offset`, or `None` if it is not a multiple of 4 inside the window.
    #[must_use]
    pub fn at(offset: u32) -> Option<Self> {
        (offset.is_multiple_of(4) && (offset as usize) < WINDOW_BYTES).then_some(Self(offset))
    }

    /// Bytes from the BBAR.
    #[must_use]
    pub const fn offset(self) -> u32 {
        self.0
    }
}

impl Register64 {
    /// The register at `offset`, or `None` if it is not a multiple of 8 inside the window.
    #[must_use]
    pub fn at(offset: u32) -> Option<Self> {
        (offset.is_multiple_of(8) && (offset as usize) < WINDOW_BYTES).then_some(Self(offset))
    }

    /// Bytes from the BBAR.
    #[must_use]
    pub const fn offset(self) -> u32 {
        self.0
    }
}

/// One of a chip's four PHBs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PhbIndex(u8);

impl PhbIndex {
    /// PHBs of a chip.
    pub const COUNT: usize = 4;
    /// All of a chip, in the order of their register spaces.
    pub const ALL: [Self; Self::COUNT] = [Self(0), Self(1), Self(2), Self(3)];

    /// The PHB with this number, or `None` above 3.
    #[must_use]
    pub fn new(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }

    /// Its number, 0 to 3.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// A register in the PHB's own space.
    #[must_use]
    pub const fn register(self, register: PhbRegister) -> Register32 {
        Register32(PHB_SPACE + self.0 as u32 * PHB_STRIDE + register.offset())
    }

    /// The table address register.
    #[must_use]
    pub const fn tar(self) -> Register64 {
        Register64(TAR + self.0 as u32 * 8)
    }

    /// STUFF: first and last bus number below the PHB, see [`bits::stuff`](super::bits::stuff).
    #[must_use]
    pub const fn stuff(self) -> Register32 {
        Register32(PHB_DEBUG_SPACE + self.0 as u32 * PHB_STRIDE + STUFF)
    }

    /// The queue of reads that the PHB has begun and not completed, see [`bits::split`](super::bits::split).
    #[must_use]
    pub const fn split_queue(self) -> Register64 {
        Register64(PHB_DEBUG_SPACE + self.0 as u32 * PHB_STRIDE + SPLIT_QUEUE)
    }
}

/// A register of a PHB's own space. All are 32 bits wide. Those that Linux only names are here for inspection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum PhbRegister {
    /// Channel and DMA status: not zero but for the agent field after a DMA error; a write of 0 clears it.
    Csr = 0x0110,
    /// Read to make sure that a write has arrived, and when an error is reported. Its bits are not public.
    Plssr = 0x0120,
    /// Enables: see [`bits::config_rw`](super::bits::config_rw).
    ConfigRw = 0x0160,
    /// I/O window, low half.
    IoBaseLow = 0x0170,
    /// I/O window, high half.
    IoBaseHigh = 0x0180,
    /// First address of peripheral window 1, low half.
    Mem1Low = 0x0190,
    /// First address of peripheral window 1, high half.
    Mem1High = 0x01A0,
    /// Size of the I/O window.
    IoSize = 0x01B0,
    /// Last address of peripheral window 1, in spite of its name "size"; 32 bits.
    Mem1Limit = 0x01C0,
    /// Named by Linux, not used.
    MemSt = 0x01D0,
    /// Arbitration enables: 0 lets nobody on the bus. No relation to PCI Express's Advanced Error Reporting.
    Aer = 0x0200,
    /// Configuration window, high half.
    Config0High = 0x0220,
    /// Configuration window, low half.
    Config0Low = 0x0230,
    /// End of the configuration window.
    Config0End = 0x0240,
    /// Dumped after an error on CalIOC2.
    Csmr = 0x0290,
    /// First address of peripheral window 2, low half.
    Mem2Low = 0x02B0,
    /// First address of peripheral window 2, high half.
    Mem2High = 0x02C0,
    /// Last address of peripheral window 2, high half.
    Mem2LimitHigh = 0x02D0,
    /// Last address of peripheral window 2, low half.
    Mem2LimitLow = 0x02E0,
    /// Dumped after an error on CalIOC2.
    Mck = 0x0800,
    /// Named by Linux, not used; by its name, control of the hole from 640 KiB to 1 MiB.
    DosHole = 0x08E0,
    /// Root complex status (CalIOC2), dumped after an error.
    RootComplexStatus = 0x0CB0,
    /// Page migration debug (CalIOC2): SoftStopFault.
    Pmdr = 0x0DA0,
    /// Page migration control (CalIOC2): SoftStop, HardStop. **A read moves a stopped and idle PHB into HardStop.**
    Pmcr = 0x0DA8,
    /// Chicken bits (CalIOC2).
    SaviorL2 = 0x0DB0,
}

impl PhbRegister {
    /// Bytes from the start of the PHB's space.
    #[must_use]
    pub const fn offset(self) -> u32 {
        self as u32
    }
}

/// One of the seven error registers of a CalIOC2 PHB, dumped after an error. Their bits are not public.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Calioc2Error(u8);

impl Calioc2Error {
    /// Error registers of one PHB.
    pub const COUNT: usize = 7;

    /// The seven, by address.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..7).map(Self)
    }

    /// The register of one PHB.
    #[must_use]
    pub const fn of(self, phb: PhbIndex) -> Register32 {
        Register32(PHB_SPACE + phb.0 as u32 * PHB_STRIDE + 0x0810 + self.0 as u32 * 0x10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PhbRegister as R;

    /// The offsets that `pci-calgary_64.c` defines, by its names.
    #[test]
    fn offsets_are_those_of_linux() {
        assert_eq!(CCR.offset(), 0x0108);
        assert_eq!(PhbIndex::ALL.map(|phb| phb.tar().offset()), [0x0580, 0x0588, 0x0590, 0x0598]);
        assert_eq!(PhbIndex::ALL.map(|phb| phb.stuff().offset()), [0x4020, 0x5020, 0x6020, 0x7020]);
        assert_eq!(PhbIndex::ALL.map(|phb| phb.split_queue().offset()), [0x4870, 0x5870, 0x6870, 0x7870]);
        let csr = PhbIndex::ALL.map(|phb| phb.register(R::Csr).offset());
        assert_eq!(csr, [0x8110, 0x9110, 0xA110, 0xB110]);
        let offsets = [
            (R::Csr, 0x0110),
            (R::Plssr, 0x0120),
            (R::ConfigRw, 0x0160),
            (R::IoBaseLow, 0x0170),
            (R::IoBaseHigh, 0x0180),
            (R::Mem1Low, 0x0190),
            (R::Mem1High, 0x01A0),
            (R::IoSize, 0x01B0),
            (R::Mem1Limit, 0x01C0),
            (R::MemSt, 0x01D0),
            (R::Aer, 0x0200),
            (R::Config0High, 0x0220),
            (R::Config0Low, 0x0230),
            (R::Config0End, 0x0240),
            (R::Csmr, 0x0290),
            (R::Mem2Low, 0x02B0),
            (R::Mem2High, 0x02C0),
            (R::Mem2LimitHigh, 0x02D0),
            (R::Mem2LimitLow, 0x02E0),
            (R::Mck, 0x0800),
            (R::DosHole, 0x08E0),
            (R::RootComplexStatus, 0x0CB0),
            (R::Pmdr, 0x0DA0),
            (R::Pmcr, 0x0DA8),
            (R::SaviorL2, 0x0DB0),
        ];
        for (register, offset) in offsets {
            assert_eq!(register.offset(), offset, "{register:?}");
        }
        let phb = PhbIndex::new(1).unwrap();
        let errors: Vec<_> = Calioc2Error::all().map(|error| error.of(phb).offset()).collect();
        assert_eq!(errors, [0x9810, 0x9820, 0x9830, 0x9840, 0x9850, 0x9860, 0x9870]);
        assert_eq!(PhbIndex::new(4), None);
    }

    #[test]
    fn registers_lie_aligned_inside_the_window() {
        assert_eq!(Register32::at(0x8110), Some(PhbIndex::ALL[0].register(R::Csr)));
        assert_eq!(Register64::at(0x0580), Some(PhbIndex::ALL[0].tar()));
        assert_eq!((Register32::at(2), Register64::at(4)), (None, None));
        assert_eq!((Register32::at(1 << 20), Register64::at(1 << 20)), (None, None));
    }
}
