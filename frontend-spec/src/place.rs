//! Where a guest finds a device: on a PCI bus, or at an address on a machine without one.

use core::{fmt, str::FromStr};

use crate::pci::{Bdf, BdfError};

/// Where a guest finds a device, and by which endpoint id a virtio-iommu driver names it.
///
/// As text it is a PCI address, `00:06.0`, which is the endpoint id as well; or, for a virtio-mmio device, an endpoint id
/// written as a PCI address and the address of its registers, `00:06.0@0xfeb00c00`.
///
/// # Example
/// ```
/// use frontend_spec::place::Place;
/// let place: Place = "00:06.0@0xfeb00c00".parse().unwrap();
/// assert_eq!((place.id.endpoint_id(), place.registers), (0x30, Some(0xfeb0_0c00)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The endpoint id; on a PCI bus also the address.
    pub id: Bdf,
    /// Guest-physical address of a virtio-mmio device's registers; `None` on a PCI bus.
    pub registers: Option<u64>,
}

/// Why text is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The part before `@` is no PCI address.
    #[error(transparent)]
    Id(#[from] BdfError),
    /// The part behind `@` is no address.
    #[error("{0:?} is no address; write it in hexadecimal, such as 00:06.0@0xfeb00c00")]
    Registers(String),
}

impl Place {
    /// The PCI function `id`.
    #[must_use]
    pub const fn pci(id: Bdf) -> Self {
        Self { id, registers: None }
    }

    /// A virtio-mmio device with its registers at the guest-physical address `registers`.
    #[must_use]
    pub const fn mmio(id: Bdf, registers: u64) -> Self {
        Self { id, registers: Some(registers) }
    }
}

impl From<Bdf> for Place {
    fn from(id: Bdf) -> Self {
        Self::pci(id)
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let Some((id, registers)) = text.split_once('@') else { return Ok(Self::pci(text.parse()?)) };
        let digits = registers.strip_prefix("0x").unwrap_or(registers);
        let address = Some(digits)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .ok_or_else(|| PlaceError::Registers(registers.to_owned()))?;
        Ok(Self::mmio(id.parse()?, address))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.registers {
            None => self.id.fmt(f),
            Some(registers) => write!(f, "{}@{registers:#x}", self.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_place_agree() {
        for text in ["00:06.0", "00:06.0@0xfeb00c00", "00:1f.7@0x0"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        assert_eq!("00:06.0@a000c00".parse::<Place>().unwrap().registers, Some(0xa00_0c00));
    }

    #[test]
    fn other_text_is_refused_with_an_example() {
        for text in ["00:06.0@", "00:06.0@0x", "00:06.0@-1", "00:06.0@+1", "00:06.0@10000000000000000", "00:06.0@6@7"] {
            let message = text.parse::<Place>().unwrap_err().to_string();
            assert!(message.contains("00:06.0@0xfeb00c00"), "{text}: {message}");
        }
        assert!(matches!("6@0x1".parse::<Place>(), Err(PlaceError::Id(_))));
    }
}
