//! What hangs on a PHB and must be asked before a translation counts as gone.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::protocol::{Lock, Platform, Std, Word};

/// A list that data-plane handles enter when they are made and leave when they are dropped.
#[derive(Debug)]
pub(crate) struct Registry<T: Debug, P: Platform = Std> {
    members: P::Lock<Vec<Arc<T>>>,
    /// Steps with every change, under the lock.
    version: P::Word,
}

/// What one who asks often keeps of a [`Registry`], so that the lock is only taken when the list has changed.
#[derive(Debug)]
pub(crate) struct Roster<T> {
    members: Vec<Arc<T>>,
    version: u64,
}

impl<T> Roster<T> {
    /// Of an empty registry.
    pub(crate) fn new() -> Self {
        Self { members: Vec::new(), version: 0 }
    }
}

impl<T: Debug, P: Platform> Registry<T, P> {
    pub(crate) fn new() -> Self {
        Self { members: P::Lock::new(Vec::new()), version: P::Word::new(0) }
    }

    /// R0: before the member is used.
    pub(crate) fn add(&self, member: Arc<T>) {
        self.change(|members| members.push(member));
    }

    pub(crate) fn remove(&self, member: &Arc<T>) {
        self.change(|members| members.retain(|other| !Arc::ptr_eq(other, member)));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<T>>)) {
        self.members.with(|members| {
            change(members);
            self.version.store(self.version.load(Ordering::Relaxed) + 1, Ordering::Release);
        });
    }

    /// The members now. `roster` was made for this registry.
    #[inline]
    pub(crate) fn members<'r>(&self, roster: &'r mut Roster<T>) -> &'r [Arc<T>] {
        if self.version.load(Ordering::Acquire) != roster.version {
            self.members.with(|members| {
                roster.members.clone_from(members);
                roster.version = self.version.load(Ordering::Relaxed);
            });
        }
        &roster.members
    }

    /// The members for which `select` returns a value, with that value.
    pub(crate) fn collect<V>(&self, select: impl Fn(&T) -> Option<V>) -> Vec<(Arc<T>, V)> {
        self.members.with(|members| {
            let selected = members.iter().filter_map(|member| Some((member, select(member)?)));
            selected.map(|(member, value)| (Arc::clone(member), value)).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_those_that_have_not_left() {
        let registry = Registry::<u32>::new();
        let [first, second] = [1, 2].map(Arc::new);
        let mut roster = Roster::new();
        registry.add(Arc::clone(&first));
        registry.add(Arc::clone(&second));
        assert_eq!(registry.members(&mut roster), [first.clone(), second.clone()]);
        registry.remove(&first);
        assert_eq!(registry.members(&mut roster), [second]);
        assert_eq!(Arc::strong_count(&first), 1, "nothing is kept of what has left");
    }
}
