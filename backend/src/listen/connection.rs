//! One client: messages in, replies out, on one thread.

use std::io;
use std::time::{Duration, Instant};

use virtio_9p::{Outcome, Started};

use super::FIRST_MESSAGE;
use super::frames::{FrameError, Frames};
use super::session::Session;
use super::stream::Stream;

/// How often a lock that waits is tried again: one that a program of the host holds is given up without a word to us.
const RETRY: Duration = Duration::from_millis(20);
/// Room for the reply to a request that waited: the answer to a lock, or an error.
const LATE_REPLY: usize = 512;

/// Why a connection was ended by us.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// What came is not 9P.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message stopped halfway, or none came.
    #[error("no whole message within {0:?}")]
    Slow(Duration),
    /// The socket failed, or the client does not take its replies.
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// See the module.
pub(super) struct Connection<'a> {
    stream: &'a Stream,
    session: &'a dyn Session,
    frames: Frames,
    reply: Vec<u8>,
    requests: u64,
    /// How long a message may take.
    limit: Duration,
    /// When the message in hand began, or the connection, before its first.
    begun: Option<Instant>,
    retried: Instant,
}

impl<'a> Connection<'a> {
    /// `limit` is how long a message may take in either direction.
    pub(super) fn new(stream: &'a Stream, session: &'a dyn Session, limit: Duration) -> Self {
        let now = Instant::now();
        Self {
            stream,
            session,
            frames: Frames::default(),
            reply: Vec::new(),
            requests: 0,
            limit,
            begun: Some(now),
            retried: now,
        }
    }

    /// Serves until the client leaves.
    pub(super) fn run(&mut self) -> Result<(), ConnectionError> {
        loop {
            while self.serve()? {}
            self.retry()?;
            let wait = self.patience()?;
            if !self.stream.wait_readable(wait)? {
                continue;
            }
            match self.stream.read(self.frames.room(size_limit(self.session))) {
                Ok(0) => return Ok(()),
                Ok(count) => self.frames.filled(count),
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                Err(cause) => return Err(cause.into()),
            }
        }
    }

    /// Answers the message in hand; false if it is not whole.
    fn serve(&mut self) -> Result<bool, ConnectionError> {
        let size = size_limit(self.session);
        let Some(request) = self.frames.next(size)? else { return Ok(false) };
        if self.reply.len() < size {
            self.reply = vec![0; size];
        }
        self.requests += 1;
        let started = self.session.start(request, &mut self.reply, self.requests);
        if self.session.msize().is_some() {
            self.begun = None;
        }
        self.send_late()?;
        if let Started::Done(Outcome::Reply(len)) = started {
            self.stream.write_all(&self.reply[..len], self.limit)?;
        }
        Ok(true)
    }

    /// Sends what has been decided about requests that waited. A client relies on having it before the reply to a later
    /// request.
    fn send_late(&self) -> Result<(), ConnectionError> {
        while let Some(completed) = self.session.next_completed() {
            let mut reply = [0; LATE_REPLY];
            // A request that was flushed gets no reply.
            if let Outcome::Reply(len) = completed.finish_bytes(&mut reply) {
                self.stream.write_all(&reply[..len], self.limit)?;
            }
        }
        Ok(())
    }

    /// Tries the locks that wait, now and then.
    fn retry(&mut self) -> Result<(), ConnectionError> {
        if self.session.parked_count() > 0 && self.retried.elapsed() >= RETRY {
            self.session.retry_parked();
            self.retried = Instant::now();
            self.send_late()?;
        }
        Ok(())
    }

    /// How long to wait for bytes; without end between messages, if no lock waits.
    fn patience(&mut self) -> Result<Option<Duration>, ConnectionError> {
        if !self.frames.is_empty() {
            self.begun.get_or_insert_with(Instant::now);
        }
        let left = match self.begun {
            Some(begun) => Some(self.limit.checked_sub(begun.elapsed()).ok_or(ConnectionError::Slow(self.limit))?),
            None => None,
        };
        let retry = (self.session.parked_count() > 0).then_some(RETRY);
        Ok(left.into_iter().chain(retry).min())
    }
}

/// Largest message in bytes now.
fn size_limit(session: &dyn Session) -> usize {
    session.msize().and_then(|msize| usize::try_from(msize).ok()).unwrap_or(FIRST_MESSAGE)
}
