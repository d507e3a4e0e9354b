//! What a front end knows of translations, and how it takes them (SPEC.md 20 and 22).

use std::collections::{BTreeMap, HashMap};

use super::{Entry, Limits, Refusal, Space, Update, UpdateReply};

/// Where a front end stands with its back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No START was sent, or the state was dropped: every access is refused.
    Idle,
    /// The back end tells its state; accesses wait.
    Syncing,
    /// Accesses are translated.
    Running,
    /// The connection is lost; accesses wait for another one, and are refused when the front end gives up.
    Lost,
}

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// It reaches this guest-physical address.
    At(u64),
    /// It must be tried again later: what the back end has sent is not all known yet.
    Wait,
    /// It is refused, for the reason of a [`Fault`](super::Fault): 1 no space, 2 no mapping or no permission.
    Refused {
        /// The reason.
        reason: u32,
    },
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    size: u64,
    gpa: u64,
    read: bool,
    write: bool,
}

/// The translations of all endpoints of one front end.
#[derive(Debug)]
pub struct FrontEnd {
    page: u64,
    state: State,
    generation: u64,
    endpoints: HashMap<u32, Space>,
    spaces: HashMap<u32, BTreeMap<u64, Mapping>>,
    most_spaces: usize,
}

impl FrontEnd {
    /// A front end of a back end with these limits, without endpoints.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let page = limits.page_size_mask.get();
        Self {
            page: page & page.wrapping_neg(),
            state: State::Idle,
            generation: 0,
            endpoints: HashMap::new(),
            spaces: HashMap::new(),
            most_spaces: usize::try_from(limits.spaces.get()).unwrap_or(usize::MAX),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The generation of the state it holds; 0 for none.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// There is an endpoint, bound to nothing.
    pub fn add_endpoint(&mut self, endpoint: u32) {
        self.endpoints.insert(endpoint, Space::Blocked);
    }

    /// The endpoint is gone, and the back end has answered so: it may have bound it until then.
    pub fn remove_endpoint(&mut self, endpoint: u32) {
        self.endpoints.remove(&endpoint);
    }

    /// START was sent: what was known is dropped, for all of it comes again, and accesses wait.
    pub fn start(&mut self) {
        self.spaces.clear();
        self.endpoints.values_mut().for_each(|space| *space = Space::Blocked);
        self.state = State::Syncing;
    }

    /// SYNCED has come. If the back end has lost the state that was held, nothing is reached: the guest's driver believes in
    /// mappings that are gone, and must be reset before the next START.
    pub fn synced(&mut self, generation: u64) {
        if self.generation != 0 && self.generation != generation {
            self.give_up();
            return;
        }
        self.generation = generation;
        self.state = State::Running;
    }

    /// The connection has ended.
    pub fn lost(&mut self) {
        if self.state != State::Idle {
            self.state = State::Lost;
        }
    }

    /// The back end has lost its state, or does not come back: nothing is reached any more.
    pub fn give_up(&mut self) {
        self.start();
        self.state = State::Idle;
        self.generation = 0;
    }

    /// Where an access of one byte at `iova` leads. Before it is `Refused`, everything that waits on the channel must be
    /// applied and the question asked again (SPEC.md 20.5).
    #[must_use]
    pub fn translate(&self, endpoint: u32, iova: u64, write: bool) -> Translation {
        match self.state {
            State::Idle => return Translation::Refused { reason: 1 },
            State::Syncing | State::Lost => return Translation::Wait,
            State::Running => {}
        }
        let space = match self.endpoints.get(&endpoint) {
            None | Some(Space::Blocked) => return Translation::Refused { reason: 1 },
            Some(Space::Bypass) => return Translation::At(iova),
            Some(Space::Translated(space)) => space,
        };
        let mapping = self.spaces.get(space).and_then(|mappings| mappings.range(..=iova).next_back());
        match mapping {
            Some((first, mapping))
                if iova - first < mapping.size && if write { mapping.write } else { mapping.read } =>
            {
                Translation::At(mapping.gpa + (iova - first))
            }
            _ => Translation::Refused { reason: 2 },
        }
    }

    /// Applies `update` in order, up to the first entry that cannot be. The answer may be sent when no access through
    /// what was removed is under way.
    pub fn apply(&mut self, update: &Update) -> UpdateReply {
        for (applied, entry) in (0..).zip(&update.entries) {
            if let Err(refusal) = self.apply_entry(entry) {
                return UpdateReply { applied, refusal: Some(refusal) };
            }
        }
        UpdateReply { applied: u32::try_from(update.entries.len()).unwrap_or(u32::MAX), refusal: None }
    }

    fn apply_entry(&mut self, entry: &Entry) -> Result<(), Refusal> {
        match *entry {
            Entry::Create { space } => {
                if !matches!(Space::from_number(space), Space::Translated(_)) || self.spaces.contains_key(&space) {
                    return Err(Refusal::SpaceExists);
                }
                if self.spaces.len() >= self.most_spaces {
                    return Err(Refusal::NoResources);
                }
                self.spaces.insert(space, BTreeMap::new());
            }
            Entry::Free { space } => {
                if self.endpoints.values().any(|bound| *bound == Space::Translated(space)) {
                    return Err(Refusal::InUse);
                }
                self.spaces.remove(&space).ok_or(Refusal::UnknownSpace)?;
            }
            Entry::Map { space, iova, size, gpa, read, write } => {
                let last = self.last(iova, size)?;
                if !gpa.is_multiple_of(self.page) || gpa.checked_add(size - 1).is_none() {
                    return Err(Refusal::Range);
                }
                let mappings = self.spaces.get_mut(&space).ok_or(Refusal::UnknownSpace)?;
                let before = mappings.range(..=last).next_back();
                if before.is_some_and(|(first, mapping)| first + (mapping.size - 1) >= iova) {
                    return Err(Refusal::Overlap);
                }
                mappings.insert(iova, Mapping { size, gpa, read, write });
            }
            Entry::Unmap { space, iova, size } => {
                let last = self.last(iova, size)?;
                let mappings = self.spaces.get_mut(&space).ok_or(Refusal::UnknownSpace)?;
                let cuts = |(first, mapping): (&u64, &Mapping)| {
                    let end = first + (mapping.size - 1);
                    (*first < iova && end >= iova) || (*first <= last && end > last)
                };
                let around = [mappings.range(..iova).next_back(), mappings.range(..=last).next_back()];
                if around.into_iter().flatten().any(cuts) {
                    return Err(Refusal::Overlap);
                }
                let within: Vec<u64> = mappings.range(iova..=last).map(|(first, _)| *first).collect();
                for first in within {
                    mappings.remove(&first);
                }
            }
            Entry::Bind { endpoint, space } => {
                if matches!(space, Space::Translated(number) if !self.spaces.contains_key(&number)) {
                    return Err(Refusal::UnknownSpace);
                }
                *self.endpoints.get_mut(&endpoint).ok_or(Refusal::UnknownEndpoint)? = space;
            }
        }
        Ok(())
    }

    /// The last IOVA of a range of whole pages.
    fn last(&self, iova: u64, size: u64) -> Result<u64, Refusal> {
        let whole = size > 0 && iova.is_multiple_of(self.page) && size.is_multiple_of(self.page);
        iova.checked_add(size.wrapping_sub(1)).filter(|_| whole).ok_or(Refusal::Range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: u32 = 0x30;

    fn running() -> FrontEnd {
        let limits = Limits { page_size_mask: 0x1000.into(), spaces: 2.into(), ..Limits::default() };
        let mut front_end = FrontEnd::new(&limits);
        front_end.add_endpoint(ENDPOINT);
        front_end.start();
        front_end.synced(1);
        front_end
    }

    fn map(iova: u64, size: u64) -> Entry {
        Entry::Map { space: 1, iova, size, gpa: 0x10_0000, read: true, write: false }
    }

    fn apply(front_end: &mut FrontEnd, entries: &[Entry]) -> UpdateReply {
        front_end.apply(&Update { entries: entries.to_vec() })
    }

    #[test]
    fn accesses_follow_bindings_and_mappings() {
        let mut front_end = running();
        let bind = |space| Entry::Bind { endpoint: ENDPOINT, space };
        assert_eq!(front_end.translate(ENDPOINT, 0x2000, false), Translation::Refused { reason: 1 });
        apply(&mut front_end, &[Entry::Create { space: 1 }, map(0x2000, 0x2000), bind(Space::Translated(1))]);
        assert_eq!(front_end.translate(ENDPOINT, 0x3fff, false), Translation::At(0x10_1fff));
        for (iova, write) in [(0x1fff, false), (0x4000, false), (0x2000, true)] {
            assert_eq!(front_end.translate(ENDPOINT, iova, write), Translation::Refused { reason: 2 });
        }
        apply(&mut front_end, &[bind(Space::Bypass)]);
        assert_eq!(front_end.translate(ENDPOINT, 0x9000, true), Translation::At(0x9000));
    }

    #[test]
    fn the_first_entry_that_cannot_be_ends_an_update() {
        let mut front_end = running();
        let refused = |front_end: &mut FrontEnd, entry| apply(front_end, &[entry]).refusal;
        let reply = apply(
            &mut front_end,
            &[Entry::Create { space: 1 }, map(0, 0x3000), map(0x2000, 0x1000), map(0x8000, 0x1000)],
        );
        assert_eq!(reply, UpdateReply { applied: 2, refusal: Some(Refusal::Overlap) });
        let unmap = |iova, size| Entry::Unmap { space: 1, iova, size };
        for (entry, refusal) in [
            (Entry::Create { space: 1 }, Refusal::SpaceExists),
            (Entry::Create { space: 0 }, Refusal::SpaceExists),
            (Entry::Free { space: 9 }, Refusal::UnknownSpace),
            (Entry::Bind { endpoint: 1, space: Space::Blocked }, Refusal::UnknownEndpoint),
            (Entry::Bind { endpoint: ENDPOINT, space: Space::Translated(9) }, Refusal::UnknownSpace),
            (map(0x8000, 0), Refusal::Range),
            (map(0x8000, 0x800), Refusal::Range),
            (map(u64::MAX - 0xfff, 0x2000), Refusal::Range),
            (unmap(0, 0x1000), Refusal::Overlap),
            (unmap(0x2000, 0x5000), Refusal::Overlap),
        ] {
            assert_eq!(refused(&mut front_end, entry), Some(refusal), "{entry:?}");
        }
        assert_eq!(refused(&mut front_end, unmap(0, 0x10000)), None);
        assert_eq!(refused(&mut front_end, map(0x2000, 0x1000)), None);
        apply(&mut front_end, &[Entry::Bind { endpoint: ENDPOINT, space: Space::Translated(1) }]);
        assert_eq!(refused(&mut front_end, Entry::Free { space: 1 }), Some(Refusal::InUse));
        assert_eq!(refused(&mut front_end, Entry::Create { space: 2 }), None);
        assert_eq!(refused(&mut front_end, Entry::Create { space: 3 }), Some(Refusal::NoResources));
    }

    #[test]
    fn accesses_wait_while_the_state_is_not_known() {
        let mut front_end = running();
        apply(&mut front_end, &[Entry::Bind { endpoint: ENDPOINT, space: Space::Bypass }]);
        front_end.lost();
        assert_eq!(front_end.translate(ENDPOINT, 0, false), Translation::Wait);
        front_end.start();
        assert_eq!(front_end.translate(ENDPOINT, 0, false), Translation::Wait);
        front_end.synced(1);
        assert_eq!(front_end.translate(ENDPOINT, 0, false), Translation::Refused { reason: 1 }, "all was told anew");
        front_end.give_up();
        assert_eq!((front_end.state(), front_end.generation()), (State::Idle, 0));
        front_end.lost();
        assert_eq!(
            front_end.translate(ENDPOINT, 0, false),
            Translation::Refused { reason: 1 },
            "there is nothing to wait for"
        );
    }

    #[test]
    fn a_state_that_is_another_than_the_one_held_is_not_taken() {
        let mut front_end = running();
        front_end.lost();
        front_end.start();
        apply(&mut front_end, &[Entry::Bind { endpoint: ENDPOINT, space: Space::Bypass }]);
        front_end.synced(2);
        assert_eq!((front_end.state(), front_end.generation()), (State::Idle, 0));
        assert_eq!(front_end.translate(ENDPOINT, 0, false), Translation::Refused { reason: 1 });
    }

    #[test]
    fn an_endpoint_that_is_gone_reaches_nothing_and_cannot_be_bound() {
        let mut front_end = running();
        let bind = Entry::Bind { endpoint: ENDPOINT, space: Space::Bypass };
        assert_eq!(apply(&mut front_end, &[bind]).refusal, None);
        front_end.remove_endpoint(ENDPOINT);
        assert_eq!(front_end.translate(ENDPOINT, 0, false), Translation::Refused { reason: 1 });
        assert_eq!(apply(&mut front_end, &[bind]).refusal, Some(Refusal::UnknownEndpoint));
    }
}
