//! The usual shape of a short request, followed without a list: one buffer to read and one to write, as two descriptors of
//! the ring or of an indirect table, each one piece of this process's memory.
//!
//! The two steps stand apart so that a batch can start to fetch the lines of all its requests in each: a guest's driver has
//! just written them, on another processor. What has another shape, or is wrong, is left to [`Chain`](super::Chain), which
//! looks again from the head and judges by its own copy alone.

use frontend_spec::virtio::{Descriptor, descriptor_flag};
use iommu_calgary::Access;

use super::Ring;
use super::host::Part;
use crate::dma::{Bytes, Piece, Window};
use crate::prefetch::Hint;

/// Bytes of an indirect table of two.
const TABLE_BYTES: u32 = 2 * DESCRIPTOR_BYTES;
#[expect(clippy::cast_possible_truncation, reason = "16 bytes")]
const DESCRIPTOR_BYTES: u32 = size_of::<Descriptor>() as u32;

/// One descriptor in memory.
type Entry<'w> = Bytes<'w, { size_of::<Descriptor>() }>;

/// Where the two descriptors are.
#[derive(Clone, Copy, Debug)]
pub struct Place<'w> {
    first: Entry<'w>,
    second: Entry<'w>,
    /// What the first one has to say of the second.
    next: u16,
}

/// The two buffers.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'w> {
    /// What the device reads.
    pub readable: Piece<'w>,
    /// What the device writes.
    pub writable: Piece<'w>,
}

/// The descriptors of a ring in one window.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'w>(Option<Piece<'w>>);

impl Ring {
    /// Looks at requests as pairs.
    #[inline]
    #[must_use]
    pub fn pairs<'w>(&self, window: &'w Window<'_>) -> Pairs<'w> {
        Pairs(self.parts.get(window, &self.layout, Part::Descriptors))
    }
}

impl<'w> Pairs<'w> {
    /// Finds the descriptors of the request at `head` and starts to fetch them.
    #[inline]
    #[must_use]
    pub fn place(self, window: &'w Window<'_>, head: u16) -> Option<Place<'w>> {
        let entry = |index: u16| self.0?.at(16 * usize::from(index));
        let first = entry(head)?;
        let descriptor = read(first);
        match descriptor.flags.get() {
            descriptor_flag::INDIRECT if descriptor.len.get() == TABLE_BYTES => {
                let table = window.fetch(descriptor.addr.get(), TABLE_BYTES, Access::Read)?;
                Some(Place { first: table.at(0)?, second: table.at(16)?, next: 1 })
            }
            descriptor_flag::NEXT => {
                let next = descriptor.next.get();
                let second = entry(next)?;
                second.hint().fetch();
                Some(Place { first, second, next })
            }
            _ => None,
        }
    }
}

impl<'w> Place<'w> {
    /// What to fetch early when the next request is likely to be here.
    #[inline]
    pub(crate) fn hint(&self) -> Hint {
        self.first.hint()
    }

    /// Copies the descriptors and starts to fetch the buffers.
    #[inline]
    #[must_use]
    pub fn pair(&self, window: &'w Window<'_>) -> Option<Pair<'w>> {
        let (first, second) = (read(self.first), read(self.second));
        let chained = first.flags.get() == descriptor_flag::NEXT && first.next.get() == self.next;
        if !chained || second.flags.get() != descriptor_flag::WRITE {
            return None;
        }
        // The answer often follows the request on the same line, which then need not be fetched a second time to be written.
        let writable = window.fetch(second.addr.get(), second.len.get(), Access::Write)?;
        let readable = window.fetch(first.addr.get(), first.len.get(), Access::Read)?;
        Some(Pair { readable, writable })
    }
}

#[inline]
fn read(at: Entry<'_>) -> Descriptor {
    zerocopy::transmute!(at.read())
}
