//! Signals as a descriptor.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const HANDLED: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1];

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGUSR1.
    Counters,
}

/// Blocks the daemon's signals in the calling thread and in all that it starts, so that only the supervisor sees
/// them; and SIGXFSZ, which would end the process where a guest is to be answered `EFBIG`. Call it first in `main`.
///
/// # Errors
/// The kernel refuses.
pub fn block_signals() -> io::Result<()> {
    let mut set = handled();
    // SAFETY: the set is initialised, and the number is one of a signal.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGXFSZ) };
    // SAFETY: `set` is initialised; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn handled() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the whole set; `sigaddset` gets valid signal numbers.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in HANDLED {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// A signalfd for the handled signals.
pub(super) struct SignalSource(OwnedFd);

impl SignalSource {
    pub(super) fn new() -> io::Result<Self> {
        let set = handled();
        // SAFETY: `set` is initialised and outlives the call; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next pending signal.
    pub(super) fn next(&self) -> Option<Signal> {
        let mut bytes = [0; size_of::<libc::signalfd_siginfo>()];
        let read = rustix::io::read(&self.0, &mut bytes).ok()?;
        if read < bytes.len() {
            return None;
        }
        // `ssi_signo` is the first field.
        let number = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let counters = u32::try_from(libc::SIGUSR1).is_ok_and(|usr1| usr1 == number);
        Some(if counters { Signal::Counters } else { Signal::Stop })
    }
}

impl AsRawFd for SignalSource {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
