//! Who pays for the order between a port's epoch and the control plane's look at it.

use std::sync::atomic::{Ordering, compiler_fence, fence};

#[cfg(not(miri))]
use rustix::thread::{MembarrierCommand, membarrier};

/// Each port, when it enters an epoch, and each commit that removes something must order a store before a load, which
/// takes a fence on both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fences {
    /// Both sides pay a few nanoseconds. Right where commits are about as frequent as epochs, as with a strict driver
    /// that unmaps page by page.
    #[default]
    Symmetric,
    /// Ports pay nothing, and commits interrupt every running thread of the process for them: `membarrier(2)`, private
    /// and expedited, a microsecond or so. Right where one commit covers a hundred epochs. Where the kernel does not
    /// offer it, or a filter refuses it, [`Fences::Symmetric`] is used.
    Asymmetric,
}

impl Fences {
    /// What can be had of `self` in this process. Called before the first port exists.
    pub(crate) fn register(self) -> Self {
        #[cfg(not(miri))]
        if self == Self::Asymmetric {
            // Tried as well as registered: a system call filter may refuse either.
            let usable = membarrier(MembarrierCommand::RegisterPrivateExpedited)
                .and_then(|()| membarrier(MembarrierCommand::PrivateExpedited));
            match usable {
                Ok(()) => return Self::Asymmetric,
                Err(error) => log::warn!("membarrier is refused ({error}): every access pays for a fence instead"),
            }
        }
        Self::Symmetric
    }

    /// R2.
    #[inline]
    pub(crate) fn in_port(self) {
        match self {
            Self::Symmetric => fence(Ordering::SeqCst),
            Self::Asymmetric => compiler_fence(Ordering::SeqCst),
        }
    }

    /// W2. Whether it is in force.
    ///
    /// `membarrier(2)` worked when it was registered; if it fails now, a system call filter was put in place since.
    #[must_use]
    pub(crate) fn in_commit(self) -> bool {
        fence(Ordering::SeqCst);
        #[cfg(not(miri))]
        if self == Self::Asymmetric
            && let Err(error) = membarrier(MembarrierCommand::PrivateExpedited)
        {
            log::error!(
                "membarrier is refused ({error}) although it worked before; allow it in the system call filter"
            );
            return false;
        }
        true
    }
}
