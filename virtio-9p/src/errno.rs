//! Error numbers as they travel in an `Rlerror`.

use std::fmt;

/// A Linux error number, 1 to 4095.
///
/// 9P2000.L carries the asm-generic numbers (those of x86 and ARM). On a host whose own numbers differ (MIPS, SPARC,
/// Alpha, PA-RISC), numbers above 34 would need a translation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u16);

macro_rules! errnos {
    ($($name:ident $doc:literal)*) => {
        impl Errno {
            $(
                #[doc = $doc]
                pub const $name: Errno = Errno::constant(libc::$name);
            )*
        }

        impl fmt::Debug for Errno {
            fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Errno::$name => to.write_str(stringify!($name)),)*
                    Errno(number) => write!(to, "errno {number}"),
                }
            }
        }
    };
}
errnos! {
    EPERM "Operation not permitted."
    ENOENT "No such file or directory."
    EINTR "Interrupted."
    EIO "Input/output error."
    ENXIO "No such device: the file is a FIFO, a socket or a device, which the client handles itself."
    E2BIG "Too big."
    EBADF "The fid does not exist or is not in the state that the request needs."
    EAGAIN "Try again."
    ENOMEM "Out of memory."
    EACCES "Permission denied."
    EBUSY "Busy."
    EEXIST "File exists."
    EXDEV "Not on the same file system."
    ENOTDIR "Not a directory."
    EISDIR "Is a directory."
    EINVAL "Invalid argument."
    ENFILE "Too many open files in the server."
    EMFILE "Too many open files in the process."
    EFBIG "File too large."
    ENOSPC "No space left."
    EROFS "The tree is read-only."
    ERANGE "Out of range."
    ENAMETOOLONG "Name too long."
    ENOLCK "No locks left."
    ENOSYS "Not implemented."
    ENOTEMPTY "Directory not empty."
    ELOOP "A symbolic link where none may be followed."
    ENODATA "No such attribute."
    EPROTO "The message is malformed."
    EOVERFLOW "Value too large."
    EMSGSIZE "The message or its reply does not fit."
    EOPNOTSUPP "Not supported."
    ESTALE "The file has left the tree."
}

impl Errno {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the constants are below 4096, checked at compile time"
    )]
    const fn constant(number: i32) -> Errno {
        assert!(number > 0 && number < 4096);
        Errno(number as u16)
    }

    /// The error of a system call's number; a number outside 1 to 4095 becomes `EIO`.
    pub fn from_raw(number: i32) -> Errno {
        match u16::try_from(number) {
            Ok(number @ 1..4096) => Errno(number),
            _ => Errno::EIO,
        }
    }

    /// The number, 1 to 4095.
    pub fn raw(self) -> u32 {
        u32::from(self.0)
    }

    /// What it means, as the C library says it (`No such file or directory`).
    pub(crate) fn words(self) -> String {
        let mut words = self.to_string();
        // The standard library appends the number.
        if let Some(end) = words.find(" (os error ") {
            words.truncate(end);
        }
        words
    }

    /// The error of the last failed libc call of this thread.
    pub(crate) fn last() -> Errno {
        std::io::Error::last_os_error().into()
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(i32::from(self.0)).fmt(to)
    }
}

impl std::error::Error for Errno {}

impl From<rustix::io::Errno> for Errno {
    fn from(error: rustix::io::Errno) -> Errno {
        Errno::from_raw(error.raw_os_error())
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Errno {
        Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_c_library() {
        assert_eq!(Errno::ENOENT.words(), "No such file or directory");
        assert_eq!(Errno::ENOTEMPTY.words(), "Directory not empty");
    }

    #[test]
    fn numbers_that_no_client_accepts_become_eio() {
        assert_eq!(Errno::from_raw(2), Errno::ENOENT);
        for number in [0, -1, 4096, i32::MAX] {
            assert_eq!(Errno::from_raw(number), Errno::EIO);
        }
    }

    #[test]
    fn the_numbers_are_asm_generic() {
        assert_eq!(Errno::EOPNOTSUPP.raw(), 95);
        assert_eq!(Errno::ENODATA.raw(), 61);
        assert_eq!(format!("{:?}", Errno::ELOOP), "ELOOP");
    }
}
