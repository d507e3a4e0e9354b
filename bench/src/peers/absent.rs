//! A peer that does not take part.

use serde::Serialize;

use crate::failure::Failure;
use crate::scene::Scene;

/// A peer that has no figures, or not all.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Absent {
    /// The peer.
    pub(crate) peer: &'static str,
    /// Why.
    pub(crate) cause: String,
}

impl Absent {
    /// Notes that `peer` is missing because of `cause`, and tells it at once.
    pub(crate) fn new(scene: &Scene<'_>, peer: &'static str, cause: &Failure) -> Self {
        let cause = cause.to_string();
        scene.steps.warn(&format!("{peer} is left out: {cause}"));
        Self { peer, cause }
    }
}
