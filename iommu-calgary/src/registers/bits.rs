//! What the bits of the registers mean, as far as it is public.

/// CONFIG_RW, the enables of a PHB.
pub mod config_rw {
    /// Translation is on. Off, addresses pass untranslated.
    pub const TCE_ENABLE: u32 = 0x2000_0000;
    /// All slots below the PHB are off: every access is refused.
    pub const SLOT_DISABLE: u32 = 0x1C00_0000;
    /// Addresses beyond 32 bits (dual address cycles) are refused.
    pub const DAC_DISABLE: u32 = 0x0100_0000;
    /// Peripheral window 2 is in use. Linux only reads it.
    pub const MEM2_ENABLE: u32 = 0x0040_0000;
    /// Errors are reported.
    pub const MCSR_ENABLE: u32 = 0x0010_0000;
}

/// CSR, the channel and DMA status of a PHB.
pub mod csr {
    /// Any of these bits: a DMA error. The other five name the agent.
    pub const ERROR_MASK: u32 = 0xFFE0_FFFF;
    /// The bit seen set on a machine after a DMA to an unmapped address. The meaning of the single bits is not public.
    pub const ERROR_SEEN: u32 = 0x1000_0000;

    /// The agent that caused an error, 0 to 31. Means nothing without an error.
    #[must_use]
    pub const fn agent(csr: u32) -> u8 {
        (csr >> 16 & 0x1F) as u8
    }
}

/// PLSSR, the status beside the CSR.
pub mod plssr {
    /// The bit seen set together with [`csr::ERROR_SEEN`](super::csr::ERROR_SEEN).
    pub const ERROR_SEEN: u32 = 0x0400_0000;
}

/// PMCR, page migration control of CalIOC2. Its three states carry the invalidation.
pub mod pmcr {
    /// Stop taking requests, let begun ones complete.
    pub const SOFT_STOP: u32 = 0x8000_0000;
    /// Stopped, and nothing under way. Entered by reading PMCR while soft-stopped and idle.
    pub const HARD_STOP: u32 = 0x2000_0000;
    /// Neither: running.
    pub const RUN: u32 = 0;
}

/// PMDR, page migration debug of CalIOC2.
pub mod pmdr {
    /// A request slipped in during a soft stop, which has to be asked for again.
    pub const SOFT_STOP_FAULT: u32 = 0x4000_0000;
}

/// SAVIOR_L2 of CalIOC2.
pub mod savior_l2 {
    /// To be set at bring-up, on advice of the chip's designers to the authors of Linux's driver.
    pub const RECOMMENDED: u32 = 0x0080_0000;
}

/// STUFF, the bus numbers below a PHB.
pub mod stuff {
    /// First bus number.
    #[must_use]
    pub const fn first_bus(stuff: u32) -> u8 {
        stuff.to_be_bytes()[1]
    }

    /// Last bus number. The field is 0 if there is only the first.
    #[must_use]
    pub const fn last_bus(stuff: u32) -> u8 {
        let last = stuff.to_be_bytes()[2];
        if last == 0 { first_bus(stuff) } else { last }
    }
}

/// The split queue of a PHB.
pub mod split {
    const IDLE_BYTE: u64 = 0xFF;

    /// Whether no split is under way: the byte at the lowest address, the most significant one of a big-endian register,
    /// is all ones. What the bits stand for is not public; eight slots, each busy when its bit is 0, would look so.
    #[must_use]
    pub const fn is_idle(queue: u64) -> bool {
        queue >> 56 == IDLE_BYTE
    }
}

/// CCR, the configuration of the chip.
pub mod ccr {
    use crate::registers::PhbIndex;

    /// The split-completion timeout that Linux programs for a PHB whose disks time out: 2 s.
    pub const TIMEOUT_2S: u64 = 0xE;

    /// `ccr` with the 4-bit split-completion timeout of one PHB replaced. Between PHB 2 and PHB 3 the register has a gap.
    #[must_use]
    pub const fn with_timeout(ccr: u64, phb: PhbIndex, timeout: u64) -> u64 {
        let shift = [44, 40, 36, 28][phb.get()];
        ccr & !(0xF << shift) | (timeout & 0xF) << shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registers::PhbIndex;

    /// The masks that `pci-calgary_64.c` defines. `ibm` is the same bit counted from the most significant one.
    #[test]
    fn bits_are_those_of_linux() {
        let ibm = |bit: u32| 1_u32 << (31 - bit);
        assert_eq!(config_rw::TCE_ENABLE, ibm(2));
        assert_eq!(config_rw::SLOT_DISABLE, ibm(3) | ibm(4) | ibm(5));
        assert_eq!(config_rw::DAC_DISABLE, ibm(7));
        assert_eq!(config_rw::MEM2_ENABLE, ibm(9));
        assert_eq!(config_rw::MCSR_ENABLE, ibm(11));
        assert_eq!(csr::ERROR_MASK, !(ibm(11) | ibm(12) | ibm(13) | ibm(14) | ibm(15)));
        assert_eq!(pmcr::SOFT_STOP, ibm(0));
        assert_eq!(pmcr::HARD_STOP, ibm(2));
        assert_eq!(pmdr::SOFT_STOP_FAULT, ibm(1));
        assert_eq!(savior_l2::RECOMMENDED, ibm(8));
    }

    /// CSR 0x10010000 and PLSSR 0x04000000 were printed by a real machine.
    #[test]
    fn the_error_of_a_real_machine_is_read() {
        let csr = 0x1001_0000;
        assert_eq!(csr & csr::ERROR_MASK, csr::ERROR_SEEN);
        assert_eq!(csr::agent(csr), 1);
        assert_eq!(csr::agent(0x001F_0000), 31);
        assert_eq!(0x001F_0000 & csr::ERROR_MASK, 0);
        assert_eq!(plssr::ERROR_SEEN, 0x0400_0000);
    }

    #[test]
    fn stuff_names_the_buses() {
        assert_eq!((stuff::first_bus(0x0006_0900), stuff::last_bus(0x0006_0900)), (6, 9));
        assert_eq!((stuff::first_bus(0xFF06_00FF), stuff::last_bus(0xFF06_00FF)), (6, 6));
    }

    #[test]
    fn idle_is_told_by_the_byte_at_the_lowest_address() {
        assert!(split::is_idle(u64::from_be_bytes([0xFF, 0, 0, 0, 0, 0, 0, 0])));
        assert!(!split::is_idle(u64::from_be_bytes([0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF])));
    }

    #[test]
    fn timeouts_lie_where_linux_puts_them() {
        let only = PhbIndex::ALL.map(|phb| ccr::with_timeout(0, phb, ccr::TIMEOUT_2S));
        assert_eq!(only, [0xE << 44, 0xE << 40, 0xE << 36, 0xE << 28]);
        assert_eq!(ccr::with_timeout(u64::MAX, PhbIndex::ALL[3], 0), !(0xF << 28));
    }
}
