//! Processor time of a process, in nanoseconds.

use std::time::Duration;

use crate::failure::Failure;

/// A clock that runs while its owner does, in user space and in the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// The clock of all threads of process `pid`.
    pub(crate) fn of_process(pid: u32) -> Result<Self, Failure> {
        let mut clock = 0;
        let pid = libc::pid_t::try_from(pid).unwrap_or(libc::pid_t::MAX);
        // SAFETY: the second argument points to a local that the call fills.
        let errno = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
        if errno == 0 {
            Ok(Self(clock))
        } else {
            Err(Failure::system("find the processor clock of a server", std::io::Error::from_raw_os_error(errno)))
        }
    }

    /// Time used so far.
    pub(crate) fn read(self) -> Result<Duration, Failure> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the second argument points to a local that the call fills.
        if unsafe { libc::clock_gettime(self.0, &raw mut time) } != 0 {
            return Err(Failure::system("read the processor clock of a server", std::io::Error::last_os_error()));
        }
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
        Ok(Duration::new(seconds, nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_this_process_runs() {
        let clock = CpuClock::of_process(std::process::id()).unwrap();
        let before = clock.read().unwrap();
        while clock.read().unwrap() - before < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_process_that_is_not_there_has_no_clock() {
        // Linux numbers processes below 2^22.
        assert!(CpuClock::of_process(1 << 22).is_err());
    }
}
