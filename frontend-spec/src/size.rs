//! Sizes in bytes, as people write them.

use core::{fmt, str::FromStr};

const UNITS: [(char, u32); 3] = [('K', 10), ('M', 20), ('G', 30)];

/// A number of bytes, written as digits with an optional binary suffix: `K`, `M`, `G` or `KiB`, `MiB`, `GiB`, in either
/// case.
///
/// It is printed with the largest suffix that leaves no remainder, and that text parses to the same size.
///
/// # Example
/// ```
/// use frontend_spec::ByteSize;
/// let size: ByteSize = "256M".parse().unwrap();
/// assert_eq!(size.bytes(), 256 << 20);
/// assert_eq!(size.to_string(), "256M");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// Why text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ByteSizeError {
    /// The text does not start with a whole number.
    #[error("{0:?} is no size; write a whole number and a unit, such as 256M or 4G")]
    Number(String),
    /// The suffix is none of the known ones.
    #[error(
        "{text:?} ends in the unknown unit {unit:?}; use K, M or G (or KiB, MiB, GiB), which count in steps of 1024"
    )]
    Unit {
        /// The whole text.
        text: String,
        /// What follows the digits.
        unit: String,
    },
    /// The size does not fit 64 bits.
    #[error("{0:?} is more than 64 bits can count; give a size below 16 EiB")]
    TooLarge(String),
}

impl ByteSize {
    /// A size of `bytes`.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(ByteSizeError::Number(text.to_owned()));
        }
        let shift =
            shift_of(unit).ok_or_else(|| ByteSizeError::Unit { text: text.to_owned(), unit: unit.to_owned() })?;
        let too_large = || ByteSizeError::TooLarge(text.to_owned());
        // Digits alone can only fail to parse by being too many.
        let number: u64 = number.parse().map_err(|_| too_large())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(too_large)
    }
}

fn shift_of(unit: &str) -> Option<u32> {
    let mut characters = unit.chars();
    let Some(letter) = characters.next() else { return Some(0) };
    let rest = characters.as_str();
    if !rest.is_empty() && !rest.eq_ignore_ascii_case("iB") {
        return None;
    }
    UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&letter)).map(|&(_, shift)| shift)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, shift) in UNITS.iter().rev() {
            if self.0 != 0 && self.0.trailing_zeros() >= *shift {
                return write!(f, "{}{name}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_binary_and_optional() {
        let sizes = [
            ("0", 0),
            ("4096", 4096),
            ("4K", 4096),
            ("32M", 32 << 20),
            ("256M", 256 << 20),
            ("256MiB", 256 << 20),
            ("256mib", 256 << 20),
            ("256m", 256 << 20),
            ("4G", 4 << 30),
            ("17179869183G", 17_179_869_183 << 30),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in sizes {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn text_without_a_number_first_is_refused() {
        for text in ["", "M", "-1M", "+1M", " 1M", "abc", ".5G", "٣M"] {
            assert_eq!(text.parse::<ByteSize>(), Err(ByteSizeError::Number(text.to_owned())));
        }
    }

    #[test]
    fn other_units_are_named_in_the_error() {
        for (text, unit) in [
            ("256MB", "MB"),
            ("1T", "T"),
            ("1.5G", ".5G"),
            ("1 G", " G"),
            ("1GiBx", "GiBx"),
            ("4é", "é"),
            ("1iB", "iB"),
        ] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert_eq!(error, ByteSizeError::Unit { text: text.to_owned(), unit: unit.to_owned() });
            assert!(error.to_string().contains("use K, M or G"));
        }
    }

    #[test]
    fn overflow_is_refused() {
        for text in ["18446744073709551616", "17179869184G", "99999999999999999999999K"] {
            assert_eq!(text.parse::<ByteSize>(), Err(ByteSizeError::TooLarge(text.to_owned())));
        }
    }

    #[test]
    fn display_uses_the_largest_exact_suffix_and_parses_back() {
        for (bytes, text) in
            [(0, "0"), (1, "1"), (1023, "1023"), (1024, "1K"), (3 << 20, "3M"), (2049 << 20, "2049M"), (4 << 30, "4G")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
        }
    }
}
