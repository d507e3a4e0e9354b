//! PCI addresses, which are also endpoint ids.

use core::{fmt, str::FromStr};

const DEVICES: u8 = 32;
const FUNCTIONS: u8 = 8;

/// Bus, device and function of a PCI function on segment 0.
///
/// As text it is `bb:dd.f` in hexadecimal, as `lspci` prints it; a leading `0000:` is accepted. As a number it is
/// `bus << 8 | device << 3 | function`, and this number is also the function's endpoint id.
///
/// # Example
/// ```
/// use frontend_spec::pci::Bdf;
/// let share: Bdf = "00:06.0".parse().unwrap();
/// assert_eq!(share.endpoint_id(), 0x30);
/// assert_eq!(share.to_string(), "00:06.0");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bdf(u16);

/// Why text or numbers are no PCI address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BdfError {
    /// The text has another form.
    #[error("{0:?} is no PCI address; write bus:device.function in hexadecimal, such as 00:06.0")]
    Form(String),
    /// The address names another PCI segment.
    #[error("{0:?} names a PCI segment other than 0; only segment 0 can be used, such as 0000:00:06.0 or 00:06.0")]
    Segment(String),
    /// The device number is too large.
    #[error("PCI device {0:#x} does not exist; a bus has devices 00 to 1f, as in 00:1f.0")]
    Device(u8),
    /// The function number is too large.
    #[error("PCI function {0} does not exist; a device has functions 0 to 7, as in 00:06.7")]
    Function(u8),
}

impl Bdf {
    /// The function `function` (0 to 7) of device `device` (0 to 31) on bus `bus`.
    ///
    /// # Errors
    /// [`BdfError::Device`] or [`BdfError::Function`] for a number that is too large.
    pub fn new(bus: u8, device: u8, function: u8) -> Result<Self, BdfError> {
        if device >= DEVICES {
            return Err(BdfError::Device(device));
        }
        if function >= FUNCTIONS {
            return Err(BdfError::Function(function));
        }
        Ok(Self(u16::from(bus) << 8 | u16::from(device) << 3 | u16::from(function)))
    }

    /// The address whose number is `number`. Every number is an address.
    #[must_use]
    pub const fn from_u16(number: u16) -> Self {
        Self(number)
    }

    /// `bus << 8 | device << 3 | function`.
    #[must_use]
    pub const fn to_u16(self) -> u16 {
        self.0
    }

    /// The endpoint id by which a virtio-iommu driver names this function.
    #[must_use]
    pub fn endpoint_id(self) -> u32 {
        self.0.into()
    }

    /// Bus number, 0 to 255.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Device number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.0.to_be_bytes()[1] >> 3
    }

    /// Function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.0.to_be_bytes()[1] & 7
    }
}

impl FromStr for Bdf {
    type Err = BdfError;

    fn from_str(text: &str) -> Result<Self, BdfError> {
        let form = || BdfError::Form(text.to_owned());
        let (rest, function) = text.rsplit_once('.').ok_or_else(form)?;
        let (rest, device) = rest.rsplit_once(':').ok_or_else(form)?;
        let (segment, bus) = match rest.rsplit_once(':') {
            Some((segment, bus)) => (hex(segment, 4), bus),
            None => (Some(0), rest),
        };
        let segment = segment.ok_or_else(form)?;
        let byte = |digits, most| hex(digits, most).and_then(|number| u8::try_from(number).ok()).ok_or_else(form);
        let (bus, device, function) = (byte(bus, 2)?, byte(device, 2)?, byte(function, 1)?);
        if segment != 0 {
            return Err(BdfError::Segment(text.to_owned()));
        }
        Self::new(bus, device, function)
    }
}

/// 1 to `most` hexadecimal digits and nothing else; `from_str_radix` alone would take a sign.
fn hex(digits: &str, most: usize) -> Option<u16> {
    if digits.len() > most || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(digits, 16).ok()
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Bdf> for u16 {
    fn from(bdf: Bdf) -> Self {
        bdf.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_agree() {
        for (text, number) in
            [("00:00.0", 0), ("00:06.0", 0x30), ("00:1f.7", 0xff), ("ff:1f.7", 0xffff), ("a5:10.3", 0xa583)]
        {
            let bdf: Bdf = text.parse().unwrap();
            assert_eq!(bdf.to_u16(), number);
            assert_eq!(bdf.endpoint_id(), u32::from(number));
            assert_eq!(bdf.to_string(), text);
            assert_eq!(Bdf::from_u16(number), bdf);
        }
    }

    #[test]
    fn every_number_survives_its_text_and_its_parts() {
        for number in 0..=u16::MAX {
            let bdf = Bdf::from_u16(number);
            assert_eq!(bdf.to_string().parse(), Ok(bdf));
            assert_eq!(Bdf::new(bdf.bus(), bdf.device(), bdf.function()), Ok(bdf));
        }
    }

    #[test]
    fn segment_zero_and_short_forms_are_accepted() {
        let expected = Bdf::new(0, 6, 0).unwrap();
        for text in ["0000:00:06.0", "0:00:06.0", "0:6.0", "00:6.0"] {
            assert_eq!(text.parse(), Ok(expected));
        }
    }

    #[test]
    fn another_segment_is_refused_by_name() {
        assert_eq!("0001:00:06.0".parse::<Bdf>(), Err(BdfError::Segment("0001:00:06.0".into())));
    }

    #[test]
    fn numbers_beyond_the_bus_are_refused() {
        assert_eq!("00:20.0".parse::<Bdf>(), Err(BdfError::Device(0x20)));
        assert_eq!("00:06.8".parse::<Bdf>(), Err(BdfError::Function(8)));
    }

    #[test]
    fn other_text_is_refused_with_the_expected_form() {
        let others = [
            "",
            "6",
            "00:06",
            "06.0",
            ":06.0",
            "00:.0",
            "00:06.",
            "000:06.0",
            "00:006.0",
            "00:06.00",
            "+0:06.0",
            "00:06.0 ",
            " 00:06.0",
            "0g:06.0",
            "00000:00:06.0",
            ":00:06.0",
            "0:0000:00:06.0",
            "-1:06.0",
            "é0:06.0",
        ];
        for text in others {
            let error = text.parse::<Bdf>().unwrap_err();
            assert_eq!(error, BdfError::Form(text.to_owned()));
            assert!(error.to_string().contains("such as 00:06.0"));
        }
    }
}
