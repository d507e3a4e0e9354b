//! A descriptor that may be closed while nobody uses it, and filled again later.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bits of the state below the descriptor: the number of users.
const USER_BITS: u32 = 32;

/// A place for one descriptor.
///
/// The state is one word, so that using an open descriptor costs two atomic additions and no lock: the upper half is
/// the descriptor plus one, 0 if there is none, the lower half counts users. A fixed one stays open, and using it costs
/// nothing.
#[derive(Debug)]
pub(super) struct Descriptor {
    state: AtomicU64,
    fixed: bool,
    /// Whether it was used since somebody last looked.
    recent: AtomicBool,
}

/// The right to use a descriptor; it stays open as long as this lives.
#[derive(Debug)]
pub(super) struct InUse<'a> {
    /// Where this user is counted.
    counted: Option<&'a Descriptor>,
    fd: BorrowedFd<'a>,
}

fn encode(fd: RawFd) -> u64 {
    // Descriptors are not negative.
    (u64::from(fd.cast_unsigned()) + 1) << USER_BITS
}

fn decode(state: u64) -> Option<RawFd> {
    RawFd::try_from((state >> USER_BITS).checked_sub(1)?).ok()
}

impl Descriptor {
    /// A place that can be closed, or is `fixed`.
    #[inline]
    pub(super) fn new(fd: OwnedFd, fixed: bool) -> Descriptor {
        Descriptor { state: AtomicU64::new(encode(fd.into_raw_fd())), fixed, recent: AtomicBool::new(true) }
    }

    /// An empty place.
    pub(super) fn closed(fixed: bool) -> Descriptor {
        Descriptor { state: AtomicU64::new(0), fixed, recent: AtomicBool::new(true) }
    }

    /// Whether a descriptor in it stays open.
    pub(super) fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// The descriptor to use now; `None` if it is closed.
    #[inline]
    pub(super) fn acquire(&self) -> Option<InUse<'_>> {
        if !self.fixed && !self.recent.load(Ordering::Relaxed) {
            self.recent.store(true, Ordering::Relaxed);
        }
        self.peek()
    }

    /// As [`Descriptor::acquire`], without counting as a use.
    #[inline]
    pub(super) fn peek(&self) -> Option<InUse<'_>> {
        if self.fixed {
            let fd = decode(self.state.load(Ordering::Relaxed))?;
            // SAFETY: a fixed descriptor is open until this is dropped, which the borrow prevents.
            return Some(InUse { counted: None, fd: unsafe { BorrowedFd::borrow_raw(fd) } });
        }
        let before = self.state.fetch_add(1, Ordering::Acquire);
        let Some(fd) = decode(before) else {
            self.state.fetch_sub(1, Ordering::Release);
            return None;
        };
        // SAFETY: the descriptor is open, since it was there when this user was counted, and `close` takes it out only
        // while there are no users.
        Some(InUse { counted: Some(self), fd: unsafe { BorrowedFd::borrow_raw(fd) } })
    }

    /// Puts a descriptor in. The caller makes sure that no other is there or put in at the same time.
    pub(super) fn fill(&self, fd: OwnedFd) {
        self.state.fetch_add(encode(fd.into_raw_fd()), Ordering::AcqRel);
    }

    /// Makes the descriptor, if there is one, refer to what `other` does, whoever uses it: a system call that has begun
    /// goes on with what it was.
    pub(super) fn replace(&self, other: BorrowedFd<'_>) {
        if let Some(fd) = decode(self.state.load(Ordering::Acquire)) {
            // SAFETY: the call takes numbers. The one that is replaced belongs to this place, and stays open.
            unsafe { libc::dup3(other.as_raw_fd(), fd, libc::O_CLOEXEC) };
        }
    }

    /// Takes the descriptor out, if there is one, it is not fixed and nobody uses it.
    pub(super) fn close(&self) -> Option<OwnedFd> {
        if self.fixed { None } else { self.take() }
    }

    #[inline]
    fn take(&self) -> Option<OwnedFd> {
        let state = self.state.load(Ordering::Relaxed);
        let fd = decode(state).filter(|fd| encode(*fd) == state)?;
        self.state.compare_exchange(state, 0, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        // SAFETY: the descriptor was put in as an owned one, and the exchange gave it to this caller alone.
        Some(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    pub(super) fn is_open(&self) -> bool {
        decode(self.state.load(Ordering::Relaxed)).is_some()
    }

    /// Whether it was used since this was last asked.
    pub(super) fn was_used(&self) -> bool {
        self.recent.swap(false, Ordering::Relaxed)
    }
}

impl Drop for Descriptor {
    #[inline]
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl AsFd for InUse<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd
    }
}

impl Drop for InUse<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(descriptor) = self.counted {
            descriptor.state.fetch_sub(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_used_descriptor_stays_open() {
        let descriptor = Descriptor::new(null(), false);
        let (one, two) = (descriptor.acquire().unwrap(), descriptor.peek().unwrap());
        assert!(descriptor.close().is_none());
        drop(one);
        assert!(descriptor.close().is_none());
        assert!(rustix::fs::fstat(&two).is_ok());
        drop(two);
        assert!(descriptor.close().is_some());
        assert!(descriptor.acquire().is_none() && !descriptor.is_open());
        descriptor.fill(null());
        assert!(rustix::fs::fstat(descriptor.acquire().unwrap()).is_ok());
    }

    #[test]
    fn a_fixed_descriptor_is_never_closed() {
        let descriptor = Descriptor::new(null(), true);
        assert!(descriptor.close().is_none());
        assert!(rustix::fs::fstat(descriptor.acquire().unwrap()).is_ok());
    }

    #[test]
    fn a_replaced_descriptor_keeps_its_number() {
        let descriptor = Descriptor::new(null(), false);
        let before = descriptor.peek().unwrap().as_fd().as_raw_fd();
        let folder = std::fs::File::open("/").unwrap();
        descriptor.replace(folder.as_fd());
        let now = descriptor.peek().unwrap();
        assert_eq!(now.as_fd().as_raw_fd(), before);
        assert_eq!(rustix::fs::fstat(&now).unwrap().st_ino, rustix::fs::fstat(&folder).unwrap().st_ino);
    }

    #[test]
    fn only_uses_count_as_recent() {
        let descriptor = Descriptor::new(null(), false);
        assert!(descriptor.was_used());
        drop(descriptor.peek());
        assert!(!descriptor.was_used());
        drop(descriptor.acquire());
        assert!(descriptor.was_used() && !descriptor.was_used());
    }

    #[test]
    fn threads_close_fill_and_use_without_meeting_a_closed_one() {
        let descriptor = Descriptor::new(null(), false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Some(fd) = descriptor.acquire() {
                            rustix::fs::fstat(&fd).unwrap();
                        }
                    }
                });
            }
            for _ in 0..2_000 {
                if let Some(fd) = descriptor.close() {
                    drop(fd);
                    descriptor.fill(null());
                }
            }
        });
        assert!(descriptor.is_open());
    }
}
