//! File names that a file system can use without looking at them again.

use crate::errno::Errno;
use crate::limits::NAME_MAX;

/// One component of a path: 1 to 255 bytes, without `/` and NUL, and neither `.` nor `..`.
///
/// It can only be made by checking, so a file system that takes a `Name` cannot be led out of a directory by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// The name of an existing file to walk to. `ENOENT` for what cannot be a name, `ENAMETOOLONG` beyond 255 bytes.
    pub fn existing(bytes: &'a [u8]) -> Result<Name<'a>, Errno> {
        Name::checked(bytes, Errno::ENOENT)
    }

    /// The name of a file to create. `EEXIST` for `.` and `..`, `EINVAL` for what cannot be a name, `ENAMETOOLONG`.
    pub fn fresh(bytes: &'a [u8]) -> Result<Name<'a>, Errno> {
        if matches!(bytes, b"." | b"..") {
            return Err(Errno::EEXIST);
        }
        Name::checked(bytes, Errno::EINVAL)
    }

    /// The name of a file to remove or to move. `EINVAL` for what cannot be a name, `ENAMETOOLONG`.
    pub fn changed(bytes: &'a [u8]) -> Result<Name<'a>, Errno> {
        Name::checked(bytes, Errno::EINVAL)
    }

    fn checked(bytes: &'a [u8], bad: Errno) -> Result<Name<'a>, Errno> {
        // All bytes are looked at in one go, since most names are good.
        let cut = bytes.iter().fold(false, |cut, byte| cut | (*byte == b'/') | (*byte == 0));
        if cut || matches!(bytes, b"" | b"." | b"..") {
            return Err(bad);
        }
        if bytes.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(Name(bytes))
    }

    /// The bytes of the name.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_components_are_names() {
        for bad in [&b""[..], b".", b"..", b"/", b"a/b", b"../a", b"a\0b", b"\0"] {
            assert!(Name::existing(bad).is_err(), "{bad:?}");
            assert!(Name::fresh(bad).is_err(), "{bad:?}");
            assert!(Name::changed(bad).is_err(), "{bad:?}");
        }
        for good in [&b"a"[..], b"...", b".a", b"a b", b"\xff\xfe", b"-rf", &[b'x'; 255]] {
            assert_eq!(Name::existing(good).map(Name::as_bytes), Ok(good));
        }
        assert_eq!(Name::existing(&[b'x'; 256]), Err(Errno::ENAMETOOLONG));
        assert_eq!(Name::fresh(b".."), Err(Errno::EEXIST));
        assert_eq!(Name::changed(b".."), Err(Errno::EINVAL));
    }
}
