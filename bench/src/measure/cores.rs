//! The two processors of a measurement.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::failure::Failure;

/// One processor for the client and another one for the server, whichever it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// Where the client runs.
    pub(crate) client: usize,
    /// Where the server runs.
    pub(crate) server: usize,
}

impl Cores {
    /// The last processor this process may use for the client, the one before it for the server: interrupts tend to go
    /// to the first.
    pub(crate) fn choose() -> Result<Self, Failure> {
        let allowed = sched_getaffinity(None).map_err(|cause| Failure::system("read the processor affinity", cause))?;
        let mut usable = (0..CpuSet::MAX_CPU).rev().filter(|cpu| allowed.is_set(*cpu));
        match (usable.next(), usable.next()) {
            (Some(client), Some(server)) => Ok(Self { client, server }),
            _ => Err(Failure::OneProcessor),
        }
    }

    /// Moves the calling thread to the client's processor. Threads and processes that it starts inherit this.
    pub(crate) fn enter_client(self) -> Result<(), Failure> {
        pin(self.client)
    }

    /// Moves the calling thread to the server's processor.
    pub(crate) fn enter_server(self) -> Result<(), Failure> {
        pin(self.server)
    }
}

fn pin(cpu: usize) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|cause| Failure::system("set the processor affinity", cause))
}
