//! What hangs on a PHB and must be asked before a translation counts as gone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A list that data-plane handles enter when they are made and leave when they are dropped.
#[derive(Debug)]
pub(crate) struct Registry<T>(Mutex<Vec<Arc<T>>>);

impl<T> Registry<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    pub(crate) fn add(&self, member: Arc<T>) {
        self.members().push(member);
    }

    pub(crate) fn remove(&self, member: &Arc<T>) {
        self.members().retain(|other| !Arc::ptr_eq(other, member));
    }

    /// The members for which `select` returns a value, with that value.
    pub(crate) fn collect<V>(&self, select: impl Fn(&T) -> Option<V>) -> Vec<(Arc<T>, V)> {
        let members = self.members();
        let selected = members.iter().filter_map(|member| Some((member, select(member)?)));
        selected.map(|(member, value)| (Arc::clone(member), value)).collect()
    }

    fn members(&self) -> MutexGuard<'_, Vec<Arc<T>>> {
        // A thread that panicked between two pushes left a whole list behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
