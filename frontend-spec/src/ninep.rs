//! virtio-9p as the guest sees it: one feature, one queue, and a configuration space that holds the mount tag.
//!
//! The virtio specification assigns the device id and no more; the layout is the one Linux' `trans_virtio.c` reads.

use core::{fmt, str::FromStr};

/// Index of the one queue.
pub const REQUEST_QUEUE: usize = 0;

/// Feature bits of this device, as masks of the 64-bit feature word.
pub mod feature {
    /// The configuration space holds a mount tag (bit 0). Linux refuses a device without it.
    pub const MOUNT_TAG: u64 = 1 << 0;
}

/// Most bytes a mount tag may have: what QEMU and kvmtool allow too.
pub const MAX_TAG_BYTES: usize = 31;

/// Bytes of the length field that precedes the tag.
const LENGTH_BYTES: usize = 2;

/// The name under which a guest mounts a share: 1 to [`MAX_TAG_BYTES`] bytes of UTF-8 without white space, control
/// characters, `,` and `/`.
///
/// Guests pass it as the source of a mount and print it into `/proc/mounts`, where those characters would not survive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MountTag(String);

/// Why text is no mount tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountTagError {
    /// The tag has no character.
    #[error("the mount tag is empty; give 1 to {MAX_TAG_BYTES} bytes, such as \"home\"")]
    Empty,
    /// The tag has too many bytes.
    #[error("the mount tag has {0} bytes; at most {MAX_TAG_BYTES} are allowed, so choose a shorter one")]
    TooLong(usize),
    /// The tag holds a character that a mount cannot carry.
    #[error(
        "the mount tag holds {0:?}; letters, digits and signs such as '-', '_' and '.' are allowed, but no white space, \
         control character, ',' or '/'"
    )]
    BadCharacter(char),
}

impl MountTag {
    /// Checks `tag`.
    ///
    /// # Errors
    /// See [`MountTagError`].
    pub fn new(tag: impl Into<String>) -> Result<Self, MountTagError> {
        let tag = tag.into();
        if tag.is_empty() {
            return Err(MountTagError::Empty);
        }
        if tag.len() > MAX_TAG_BYTES {
            return Err(MountTagError::TooLong(tag.len()));
        }
        match tag.chars().find(|&c| c.is_whitespace() || c.is_control() || matches!(c, ',' | '/')) {
            Some(bad) => Err(MountTagError::BadCharacter(bad)),
            None => Ok(Self(tag)),
        }
    }

    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Size of the configuration space in bytes.
    #[must_use]
    pub fn config_size(&self) -> usize {
        LENGTH_BYTES + self.0.len()
    }

    /// The configuration space: the tag's length as a little-endian `u16`, then its bytes without a terminator.
    ///
    /// # Example
    /// ```
    /// let tag = frontend_spec::ninep::MountTag::new("home").unwrap();
    /// assert_eq!(tag.config(), b"\x04\x00home");
    /// ```
    #[must_use]
    pub fn config(&self) -> Vec<u8> {
        // A tag has at most `MAX_TAG_BYTES` bytes, so the low byte of its length is the length.
        let length = [self.0.len().to_le_bytes()[0], 0];
        [&length, self.0.as_bytes()].concat()
    }
}

impl FromStr for MountTag {
    type Err = MountTagError;

    fn from_str(tag: &str) -> Result<Self, MountTagError> {
        Self::new(tag)
    }
}

impl fmt::Display for MountTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_is_the_length_then_the_bytes() {
        let tag = MountTag::new("share").unwrap();
        assert_eq!(tag.config(), [5, 0, b's', b'h', b'a', b'r', b'e']);
        assert_eq!(tag.config_size(), 7);
        let longest = MountTag::new("x".repeat(31)).unwrap();
        assert_eq!(longest.config()[..3], [31, 0, b'x']);
        assert_eq!(longest.config().len(), longest.config_size());
    }

    #[test]
    fn length_counts_bytes_not_characters() {
        let tag = MountTag::new("é").unwrap();
        assert_eq!(tag.config(), [2, 0, 0xc3, 0xa9]);
        assert_eq!(MountTag::new("é".repeat(16)), Err(MountTagError::TooLong(32)));
    }

    #[test]
    fn lengths_outside_1_to_31_are_refused() {
        assert_eq!(MountTag::new(""), Err(MountTagError::Empty));
        assert_eq!(MountTag::new("x".repeat(32)), Err(MountTagError::TooLong(32)));
    }

    #[test]
    fn characters_that_a_mount_cannot_carry_are_refused() {
        for bad in ['\0', ',', '/', ' ', '\t', '\n', '\u{7f}', '\u{2003}'] {
            assert_eq!(MountTag::new(format!("a{bad}b")), Err(MountTagError::BadCharacter(bad)));
        }
    }

    #[test]
    fn errors_say_what_is_allowed() {
        assert!(MountTagError::TooLong(40).to_string().contains("at most 31"));
        assert!(MountTagError::BadCharacter('/').to_string().contains("letters, digits"));
        assert!(MountTagError::Empty.to_string().contains("1 to 31"));
    }
}
