//! A server that takes part, until it fails.

use super::subject::Subject;
use crate::failure::Failure;
use crate::peers::Absent;
use crate::scene::Scene;

/// A server with its client, and whose it is: without one of ours there is nothing to compare.
pub(super) struct Contender {
    pub(super) subject: Box<dyn Subject>,
    is_ours: bool,
    has_failed: bool,
}

impl Contender {
    /// One of this project's, or the limit.
    pub(super) fn ours(subject: impl Subject + 'static) -> Self {
        Self { subject: Box::new(subject), is_ours: true, has_failed: false }
    }

    /// Somebody else's.
    pub(super) fn peer(subject: Box<dyn Subject>) -> Self {
        Self { subject, is_ours: false, has_failed: false }
    }

    /// Whether it still takes part.
    pub(super) fn is_there(&self) -> bool {
        !self.has_failed
    }

    /// `outcome` if it is one; a peer that failed takes part no more, and ours end the run.
    pub(super) fn excuse<T>(
        &mut self,
        scene: &Scene<'_>,
        outcome: Result<T, Failure>,
        absent: &mut Vec<Absent>,
    ) -> Result<Option<T>, Failure> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(cause) if self.is_ours => Err(cause),
            Err(cause) => {
                self.has_failed = true;
                absent.push(Absent::new(scene, self.subject.name(), &cause));
                Ok(None)
            }
        }
    }
}
