//! Where the three parts of a ring are in this process, so that its words are reached by pointer.
//!
//! A part is looked for once in each snapshot of guest RAM, and behind the IOMMU once more whenever something was taken away
//! from the endpoint, which may have been the part.

use std::cell::Cell;

use iommu_calgary::Access;

use super::RingLayout;
use crate::dma::{Moment, Piece, Window};

/// The parts of a split ring.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// The table.
    Descriptors,
    /// The driver's.
    Avail,
    /// The device's.
    Used,
}

impl Part {
    pub(super) const ALL: [Self; 3] = [Self::Descriptors, Self::Avail, Self::Used];

    /// Address, length and use of the part of `layout`.
    pub(super) fn place(self, layout: &RingLayout) -> (u64, u64, Access) {
        let size = u64::from(layout.size);
        match self {
            Self::Descriptors => (layout.descriptors, 16 * size, Access::Read),
            Self::Avail => (layout.avail, 6 + 2 * size, Access::Read),
            Self::Used => (layout.used, 6 + 8 * size, Access::Write),
        }
    }
}

/// Where the parts of one ring were last found.
#[derive(Debug, Default)]
pub(super) struct Parts([Cell<Option<Found>>; 3]);

/// What the look for a part brought: `None` if it is not one piece.
#[derive(Clone, Copy, Debug)]
struct Found {
    moment: Moment,
    piece: Option<Piece<'static>>,
}

impl Parts {
    /// The part of a valid `layout`; `None` where it is not one aligned piece of RAM or may not be accessed.
    #[inline]
    pub(super) fn get<'w>(&self, window: &'w Window<'_>, layout: &RingLayout, part: Part) -> Option<Piece<'w>> {
        match self.0[part as usize].get() {
            Some(found) if found.moment == window.moment() => found.piece,
            _ => self.find(window, layout, part),
        }
    }

    #[cold]
    fn find<'w>(&self, window: &'w Window<'_>, layout: &RingLayout, part: Part) -> Option<Piece<'w>> {
        let (address, len, access) = part.place(layout);
        let piece = window.piece(address, len, access);
        // SAFETY: it is only given out to windows of the moment that it was found in.
        let kept = piece.map(|piece| unsafe { piece.outlive() });
        self.0[part as usize].set(Some(Found { moment: window.moment(), piece: kept }));
        piece
    }
}
