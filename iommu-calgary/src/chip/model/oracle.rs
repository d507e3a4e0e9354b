//! What the driver's client was told.

use std::collections::HashMap;

use crate::addr::DomainId;
use crate::registers::PhbIndex;
use crate::table::Tce;

/// Where the accesses of a PHB shall go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Home {
    /// Nowhere.
    #[default]
    Nothing,
    /// To the address itself.
    Bypass,
    /// Through the domain's mappings.
    Domain(DomainId),
}

/// A request that will succeed, told to the model before the driver sees it. Pages are inclusive at both ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// A PHB goes elsewhere.
    Move {
        /// The PHB.
        phb: PhbIndex,
        /// Where to.
        home: Home,
    },
    /// Pages are mapped.
    Map {
        /// Where.
        domain: DomainId,
        /// First page.
        first: usize,
        /// Last page.
        last: usize,
        /// Entry of the first page; the others point at the pages that follow.
        tce: Tce,
    },
    /// Pages are unmapped.
    Unmap {
        /// Where.
        domain: DomainId,
        /// First page.
        first: usize,
        /// Last page.
        last: usize,
    },
    /// A domain is gone, with all its mappings.
    Drop {
        /// Which.
        domain: DomainId,
    },
}

impl Expected {
    fn entry(&self, page: usize) -> Option<(DomainId, Tce)> {
        match *self {
            Self::Map { domain, first, last, tce } if (first..=last).contains(&page) => {
                Some((domain, Tce::from_value(tce.value() + Tce::pages(page - first))))
            }
            Self::Unmap { domain, first, last } if (first..=last).contains(&page) => Some((domain, Tce::FREE)),
            Self::Drop { domain } => Some((domain, Tce::FREE)),
            _ => None,
        }
    }
}

/// The acknowledged state, and the requests under way: until they are acknowledged, an access may see the old state or
/// any of the new ones.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    spaces: HashMap<DomainId, Vec<Tce>>,
    homes: [Home; PhbIndex::COUNT],
    in_flight: Vec<Expected>,
}

impl Oracle {
    pub(super) fn expect(&mut self, expected: Expected) {
        self.in_flight.push(expected);
    }

    /// All under way is done; returns what it was.
    pub(super) fn acknowledge(&mut self) -> Vec<Expected> {
        let done = std::mem::take(&mut self.in_flight);
        for expected in &done {
            match *expected {
                Expected::Move { phb, home } => self.homes[phb.get()] = home,
                Expected::Map { domain, first, last, .. } => {
                    let space = self.spaces.entry(domain).or_default();
                    if space.len() <= last {
                        space.resize(last + 1, Tce::FREE);
                    }
                    for (page, entry) in space.iter_mut().enumerate().take(last + 1).skip(first) {
                        *entry = expected.entry(page).map_or(Tce::FREE, |(_, tce)| tce);
                    }
                }
                Expected::Unmap { domain, first, last } => {
                    if let Some(space) = self.spaces.get_mut(&domain) {
                        let end = space.len();
                        space[first.min(end)..(last + 1).min(end)].fill(Tce::FREE);
                    }
                }
                Expected::Drop { domain } => {
                    self.spaces.remove(&domain);
                }
            }
        }
        done
    }

    /// The acknowledged home of a PHB.
    pub(super) fn home(&self, phb: PhbIndex) -> Home {
        self.homes[phb.get()]
    }

    /// The acknowledged entry of a page for a PHB.
    pub(super) fn acknowledged(&self, phb: PhbIndex, page: usize) -> Tce {
        self.entry(self.home(phb), page)
    }

    /// Every entry that an access of a PHB may meet, the acknowledged one first.
    pub(super) fn candidates(&self, phb: PhbIndex, page: usize) -> Vec<Tce> {
        let mut candidates = Vec::new();
        for home in self.possible_homes(phb) {
            candidates.push(self.entry(home, page));
            let changes = self.in_flight.iter().filter_map(|expected| expected.entry(page));
            candidates.extend(changes.filter(|(domain, _)| home == Home::Domain(*domain)).map(|(_, tce)| tce));
        }
        candidates
    }

    /// Whether an access may pass untranslated.
    pub(super) fn may_bypass(&self, phb: PhbIndex) -> bool {
        self.possible_homes(phb).any(|home| home == Home::Bypass)
    }

    /// A domain that none of the PHB's homes is, which maps a page to the same place.
    pub(super) fn stranger_with(&self, phb: PhbIndex, page: usize, tce: Tce) -> Option<DomainId> {
        let homes: Vec<_> = self.possible_homes(phb).collect();
        let mut strangers = self.spaces.iter().filter(|(domain, _)| !homes.contains(&Home::Domain(**domain)));
        let found = strangers
            .find(|(_, space)| space.get(page).is_some_and(|own| own.real() == tce.real() && *own != Tce::FREE));
        found.map(|(domain, _)| *domain)
    }

    fn possible_homes(&self, phb: PhbIndex) -> impl Iterator<Item = Home> {
        let moves = self.in_flight.iter().filter_map(move |expected| match *expected {
            Expected::Move { phb: moved, home } if moved == phb => Some(home),
            _ => None,
        });
        std::iter::once(self.homes[phb.get()]).chain(moves)
    }

    fn entry(&self, home: Home, page: usize) -> Tce {
        match home {
            Home::Domain(domain) => {
                self.spaces.get(&domain).and_then(|space| space.get(page)).copied().unwrap_or(Tce::FREE)
            }
            Home::Nothing | Home::Bypass => Tce::FREE,
        }
    }
}
