//! 9P on stream sockets: the same file server for clients that are no guests.
//!
//! ```text
//!  client ── unix: or tcp: ──> Listening (one thread that accepts)
//!                                 └──> connection (a thread and a session of its own) ──> virtio-9p
//! ```
//!
//! A connection is a session: its fids and locks end with it. Messages are cut from the stream by their size field, which
//! may not exceed what the session has agreed on; replies go out in the order in which requests are finished, so a lock
//! that waits holds up nothing but itself. What clients can make the daemon spend is bounded by [`ListenLimits`].
//!
//! **There is no authentication.** Whoever can connect has the share, under any user name. A Unix socket is its owner's
//! alone, as every socket of the daemon; TCP is kept to loopback addresses unless the configuration says otherwise, and
//! even there every user of the host can connect.

mod address;
mod clients;
mod connection;
mod frames;
mod listener;
mod service;
mod session;
mod stream;

use std::time::Duration;

pub use address::ListenAddress;
pub use clients::{Clients, ListenStats};
pub use listener::{ListenError, Listener};
pub use service::{ListenPort, Listening};
pub use session::{Session, session_options};

/// What clients can make the daemon spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenLimits {
    /// Connections at a time, of all addresses together; one more is closed at once. Each costs a thread and at most two
    /// messages of memory.
    pub connections: usize,
    /// How long the rest of a message may take that has begun, a reply to be taken, and the first message to come. A
    /// client that has said its `Tversion` may be silent between messages for as long as it likes.
    pub message: Duration,
}

impl Default for ListenLimits {
    fn default() -> Self {
        Self { connections: 64, message: Duration::from_secs(30) }
    }
}

/// Largest message before a session has agreed on a size, in bytes: a `Tversion` is far smaller.
const FIRST_MESSAGE: usize = virtio_9p::limits::MAX_HEAD;
