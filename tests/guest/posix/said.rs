//! What a case says: words `key=value`, the same on every run.

use std::fmt::Display;

use rustix::io::Errno;

/// The result of a step that a case cannot go on without.
pub(crate) type Result<T = (), E = Errno> = std::result::Result<T, E>;

/// The words of one case so far.
#[derive(Default)]
pub(crate) struct Said(String);

impl Said {
    /// Adds a word. What would not fit into one is escaped.
    pub(crate) fn show(&mut self, key: &str, value: impl Display) {
        let value = value.to_string();
        let shown: String = match value.as_str() {
            "" => "''".to_owned(),
            text => text.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect(),
        };
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        self.0 += &format!("{key}={shown}");
    }

    /// Adds `ok` or the error's name, and gives the result on.
    pub(crate) fn tried<T>(&mut self, key: &str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.show(key, "ok");
                Some(value)
            }
            Err(errno) => {
                self.show(key, name(errno.raw_os_error()));
                None
            }
        }
    }

    /// Adds the value or the error's name.
    pub(crate) fn value<T: Display>(&mut self, key: &str, result: Result<T>) {
        match result {
            Ok(value) => self.show(key, value),
            Err(errno) => self.show(key, name(errno.raw_os_error())),
        }
    }

    pub(crate) fn into_line(self) -> String {
        if self.0.is_empty() { "nothing".to_owned() } else { self.0 }
    }
}

/// The error that the standard library reports.
pub(crate) fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

macro_rules! names {
    ($($name:ident)*) => {
        /// The name of an error number.
        pub(crate) fn name(number: i32) -> String {
            match number {
                $(libc::$name => stringify!($name).to_owned(),)*
                _ => format!("errno{number}"),
            }
        }
    };
}

names! {
    E2BIG EACCES EAGAIN EBADF EBUSY EDEADLK EDQUOT EEXIST EFAULT EFBIG EINTR EINVAL EIO EISDIR ELOOP EMFILE EMLINK
    ENAMETOOLONG ENFILE ENODATA ENODEV ENOENT ENOEXEC ENOLCK ENOMEM ENOSPC ENOSYS ENOTBLK ENOTCONN ENOTDIR ENOTEMPTY ENOTSUP
    ENOTTY ENXIO EOVERFLOW EPERM EPIPE EPROTO ERANGE EREMOTEIO EROFS ESPIPE ESTALE ETXTBSY EXDEV ECONNREFUSED EADDRINUSE
}
