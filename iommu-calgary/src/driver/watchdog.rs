//! Looking for DMA errors.

use std::fmt;
use std::time::Duration;

use super::bridge::Bridge;
use crate::chip::PhysicalTable;
use crate::registers::PhbRegister as R;
use crate::registers::bits::csr;
use crate::registers::{Calioc2Error, PhbIndex, RegisterWindow, Variant};

/// Time between two looks, as in Linux: so long an error may stay unseen.
pub const WATCHDOG_PERIOD: Duration = Duration::from_secs(2);

/// A DMA that the chip refused. The chip does not tell its address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DmaError {
    /// Where.
    pub phb: PhbIndex,
    /// The status register. Which error its bits mean is not public.
    pub csr: u32,
    /// Which agent behind the PHB, 0 to 31, as the status register tells.
    pub agent: u8,
    /// The status beside it. Its bits are not public.
    pub plssr: u32,
    /// What CalIOC2 tells besides.
    pub calioc2: Option<CalIoc2Status>,
}

/// The error registers of CalIOC2. Their bits are not public.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CalIoc2Status {
    /// CSMR.
    pub csmr: u32,
    /// MCK.
    pub mck: u32,
    /// The seven error registers, offsets 0x810 to 0x870.
    pub errors: [u32; Calioc2Error::COUNT],
    /// Root complex status.
    pub root_complex: u32,
}

impl fmt::Display for DmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { phb, csr, agent, plssr, calioc2 } = self;
        write!(f, "DMA error on PHB {}: agent {agent}, CSR {csr:#010x}, PLSSR {plssr:#010x}", phb.get())?;
        let Some(CalIoc2Status { csmr, mck, errors, root_complex }) = calioc2 else {
            return Ok(());
        };
        write!(f, ", CSMR {csmr:#010x}, MCK {mck:#010x}, errors")?;
        for error in errors {
            write!(f, " {error:#010x}")?;
        }
        write!(f, ", root complex {root_complex:#010x}")
    }
}

impl<T: PhysicalTable> Bridge<T> {
    /// Looks for an error, and if there is one, reads what the chip tells of it, clears it and disables the slots.
    pub(super) fn check(&mut self, hardware: &mut impl RegisterWindow) -> Option<DmaError> {
        let status = hardware.read32(self.phb.register(R::Csr));
        if status & csr::ERROR_MASK == 0 {
            return None;
        }
        let plssr = hardware.read32(self.phb.register(R::Plssr));
        let calioc2 = (self.variant == Variant::CalIoc2).then(|| {
            let mut read = |register: R| hardware.read32(self.phb.register(register));
            let (csmr, mck, root_complex) = (read(R::Csmr), read(R::Mck), read(R::RootComplexStatus));
            let mut errors = [0; Calioc2Error::COUNT];
            for (value, register) in errors.iter_mut().zip(Calioc2Error::all()) {
                *value = hardware.read32(register.of(self.phb));
            }
            CalIoc2Status { csmr, mck, errors, root_complex }
        });
        hardware.write32(self.phb.register(R::Csr), 0);
        self.disable_slots(hardware);
        Some(DmaError { phb: self.phb, csr: status, agent: csr::agent(status), plssr, calioc2 })
    }
}
