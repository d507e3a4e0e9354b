//! What servers take while nobody asks them for anything.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::failure::Failure;

/// How long they are watched.
const WATCHED: Duration = Duration::from_millis(500);

/// What a server takes while nobody asks it for anything.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Idle {
    /// The server.
    pub(crate) peer: &'static str,
    /// Processor time in parts of the time that passed.
    pub(crate) share: f64,
}

/// Watches all servers at once by their `clocks`.
pub(crate) fn idle<C: Fn() -> Result<Duration, Failure>>(clocks: &[(&'static str, C)]) -> Result<Vec<Idle>, Failure> {
    let look = |(_, clock): &(&'static str, C)| Ok((clock()?, Instant::now()));
    let before = clocks.iter().map(look).collect::<Result<Vec<_>, Failure>>()?;
    std::thread::sleep(WATCHED);
    let idle = clocks.iter().zip(before).map(|(server, (used, at))| {
        let (used_later, later) = look(server)?;
        let share = used_later.saturating_sub(used).as_secs_f64() / later.duration_since(at).as_secs_f64();
        Ok(Idle { peer: server.0, share })
    });
    idle.collect()
}
