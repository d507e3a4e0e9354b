//! Scatter lists over memory that a peer may rewrite at any moment.
//!
//! The memory is only ever touched through raw pointers, by whole copies and by the kernel: no Rust reference to it is
//! made, and nothing is read twice. The views are cheap to copy and to cut.

use std::mem::MaybeUninit;
use std::{ptr, slice};

use crate::limits::{IO_VECTORS, MAX_HEAD};

/// One piece of memory shared with a peer.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Segment(libc::iovec);

impl Segment {
    /// A segment of `len` bytes at `ptr`.
    ///
    /// # Safety
    ///
    /// As long as the segment or a copy of it is used, the `len` bytes at `ptr` must stay mapped: readable if it is
    /// used in a [`Readable`], writable if in a [`Writable`], from any thread. No Rust reference to them may be alive
    /// meanwhile. Others (a guest) may read and write them at the same time.
    pub unsafe fn new(ptr: *mut u8, len: usize) -> Segment {
        Segment(libc::iovec { iov_base: ptr.cast(), iov_len: len })
    }

    /// Pointer to the first byte.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.0.iov_base.cast()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.iov_len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pointer to the byte at `offset`.
    ///
    /// # Safety
    ///
    /// `offset` must not exceed the length.
    unsafe fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: inside the segment or one past its end, by this function's contract.
        unsafe { self.0.iov_base.cast::<u8>().add(offset) }
    }
}

// SAFETY: `Segment::new` requires memory that is usable from any thread, and every access goes through raw pointers.
unsafe impl Send for Segment {}
// SAFETY: as above; a shared segment gives no more access than a copied one.
unsafe impl Sync for Segment {}

/// A stretch of a scatter list: `len` bytes that begin `skip` bytes into the first segment.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    segments: &'a [Segment],
    skip: usize,
    len: usize,
}

impl<'a> View<'a> {
    fn new(segments: &'a [Segment]) -> View<'a> {
        let len = segments.iter().fold(0_usize, |sum, segment| sum.saturating_add(segment.len()));
        View { segments, skip: 0, len }
    }

    /// Pointer to the `len` bytes at `offset`, if they lie in the view and in its first segment.
    #[inline]
    fn within_first(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len)?;
        let first = self.segments.first()?;
        // Cannot overflow: both parts lie inside one sum of lengths that fits.
        // SAFETY: what is returned lies in the segment, by the comparison.
        (self.skip + end <= first.len()).then(|| unsafe { first.at(self.skip + offset) })
    }

    /// Pointer and length, if all lies in the first segment.
    #[inline]
    fn whole(&self) -> Option<(*mut u8, usize)> {
        self.within_first(0, self.len).map(|start| (start, self.len))
    }

    /// The part of at most `len` bytes from `offset`, shorter where the view ends.
    #[inline]
    #[must_use]
    pub fn slice(mut self, offset: usize, len: usize) -> View<'a> {
        let offset = offset.min(self.len);
        self.len = len.min(self.len - offset);
        // Cannot overflow: both parts lie inside one sum of lengths that fits.
        self.skip += offset;
        while let Some((first, rest)) = self.segments.split_first() {
            if self.skip < first.len() {
                break;
            }
            self.skip -= first.len();
            self.segments = rest;
        }
        self
    }

    /// Calls `visit` with pointer and length of each piece, in order.
    fn pieces(&self, mut visit: impl FnMut(*mut u8, usize)) {
        let mut skip = self.skip;
        let mut left = self.len;
        for segment in self.segments {
            if left == 0 {
                return;
            }
            let part = segment.len().saturating_sub(skip).min(left);
            if part > 0 {
                // SAFETY: `skip` is below the segment's length, since bytes of it remain.
                visit(unsafe { segment.at(skip) }, part);
                left -= part;
            }
            skip = skip.saturating_sub(segment.len());
        }
    }

    /// The first scatter entries, at most [`IO_VECTORS`], and how many bytes they cover.
    pub fn vectors<'b>(&self, room: &'b mut IoVectors) -> (&'b [libc::iovec], usize) {
        let mut skip = self.skip;
        let mut left = self.len;
        let mut count = 0;
        for segment in self.segments {
            if left == 0 || count == room.0.len() {
                break;
            }
            let part = segment.len().saturating_sub(skip).min(left);
            if part > 0 {
                // SAFETY: `skip` is below the segment's length, since bytes of it remain.
                let base = unsafe { segment.at(skip) };
                room.0[count].write(libc::iovec { iov_base: base.cast(), iov_len: part });
                count += 1;
                left -= part;
            }
            skip = skip.saturating_sub(segment.len());
        }
        // SAFETY: the first `count` elements were written above.
        let filled = unsafe { slice::from_raw_parts(room.0.as_ptr().cast(), count) };
        (filled, self.len - left)
    }
}

/// Room for the scatter entries of one system call.
pub struct IoVectors([MaybeUninit<libc::iovec>; IO_VECTORS]);

impl Default for IoVectors {
    fn default() -> IoVectors {
        IoVectors([const { MaybeUninit::uninit() }; IO_VECTORS])
    }
}

/// Memory to read from: the request, or the data inside it.
#[derive(Debug, Clone, Copy)]
pub struct Readable<'a>(View<'a>);

impl<'a> Readable<'a> {
    /// All of `segments`, in order.
    pub fn new(segments: &'a [Segment]) -> Readable<'a> {
        Readable(View::new(segments))
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part of at most `len` bytes from `offset`, shorter where the memory ends.
    #[must_use]
    #[inline]
    pub fn slice(&self, offset: usize, len: usize) -> Readable<'a> {
        Readable(self.0.slice(offset, len))
    }

    /// Copies bytes from `offset` into `to`, up to the end of either; returns what was copied.
    #[inline]
    pub fn copy_to<'b>(&self, offset: usize, to: &'b mut [MaybeUninit<u8>]) -> &'b mut [u8] {
        let target = to.as_mut_ptr().cast::<u8>();
        if let Some(from) = self.0.within_first(offset, to.len()) {
            // SAFETY: as below, with one piece.
            unsafe { ptr::copy_nonoverlapping(from, target, to.len()) };
            // SAFETY: all of `to` was written.
            return unsafe { slice::from_raw_parts_mut(target, to.len()) };
        }
        self.copy_pieces_to(offset, to)
    }

    fn copy_pieces_to<'b>(&self, offset: usize, to: &'b mut [MaybeUninit<u8>]) -> &'b mut [u8] {
        let part = self.0.slice(offset, to.len());
        let target = to.as_mut_ptr().cast::<u8>();
        let mut done = 0;
        part.pieces(|from, len| {
            // SAFETY: `from` holds `len` readable bytes by the contract of `Segment::new`; the pieces sum up to at most
            // `to.len()`, so the target lies inside `to`; shared memory and the private slice do not overlap.
            unsafe { ptr::copy_nonoverlapping(from, target.add(done), len) };
            done += len;
        });
        // SAFETY: the first `done` bytes were written above.
        unsafe { slice::from_raw_parts_mut(target, done) }
    }

    /// Appends all bytes to `to`.
    pub fn append_to(&self, to: &mut Vec<u8>) {
        to.reserve_exact(self.len());
        let copied = self.copy_to(0, to.spare_capacity_mut()).len();
        // SAFETY: `copied` elements behind the length were just written, within the capacity.
        unsafe { to.set_len(to.len() + copied) };
    }

    /// Pointer and length for `pwrite`, if all lies in one piece.
    #[inline]
    pub(crate) fn whole(&self) -> Option<(*const u8, usize)> {
        self.0.whole().map(|(start, len)| (start.cast_const(), len))
    }

    /// Its pieces, as raw pointers that are meant for `pwritev` alone.
    #[inline]
    pub fn view(&self) -> View<'a> {
        self.0
    }
}

/// The first bytes of shared memory, copied out once: each byte is read no more than one time, so what was checked is
/// what is used.
pub(crate) struct Prefix<'a> {
    from: Readable<'a>,
    copy: [MaybeUninit<u8>; MAX_HEAD],
    len: usize,
}

impl<'a> Prefix<'a> {
    /// A prefix of `from`, of which nothing is copied yet.
    pub(crate) fn new(from: Readable<'a>) -> Prefix<'a> {
        Prefix { from, copy: [const { MaybeUninit::uninit() }; MAX_HEAD], len: 0 }
    }

    /// The first `len` bytes, fewer if the memory is shorter; `None` beyond [`MAX_HEAD`].
    pub(crate) fn up_to(&mut self, len: usize) -> Option<&[u8]> {
        let room = self.copy.get_mut(..len.min(self.from.len()))?;
        if self.len < room.len() {
            self.len += self.from.copy_to(self.len, &mut room[self.len..]).len();
        }
        let len = len.min(self.len);
        // SAFETY: the first `self.len` bytes were written by the copies above.
        Some(unsafe { slice::from_raw_parts(self.copy.as_ptr().cast(), len) })
    }
}

/// Memory to write to: the reply, or the data inside it.
#[derive(Debug, Clone, Copy)]
pub struct Writable<'a>(View<'a>);

impl<'a> Writable<'a> {
    /// All of `segments`, in order.
    pub fn new(segments: &'a [Segment]) -> Writable<'a> {
        Writable(View::new(segments))
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part of at most `len` bytes from `offset`, shorter where the memory ends.
    #[must_use]
    #[inline]
    pub fn slice(&self, offset: usize, len: usize) -> Writable<'a> {
        Writable(self.0.slice(offset, len))
    }

    /// Copies `from` to `offset`, up to the end of either; returns the number of bytes copied.
    #[inline]
    pub fn copy_from(&self, offset: usize, from: &[u8]) -> usize {
        if let Some(to) = self.0.within_first(offset, from.len()) {
            // SAFETY: as below, with one piece.
            unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
            return from.len();
        }
        self.copy_pieces_from(offset, from)
    }

    fn copy_pieces_from(&self, offset: usize, from: &[u8]) -> usize {
        let mut done = 0;
        self.0.slice(offset, from.len()).pieces(|to, len| {
            // SAFETY: `to` holds `len` writable bytes by the contract of `Segment::new`; the pieces sum up to at most
            // `from.len()`; shared memory and the private slice do not overlap.
            unsafe { ptr::copy_nonoverlapping(from.as_ptr().add(done), to, len) };
            done += len;
        });
        done
    }

    /// Copies `from` to the front and moves the view behind it; false, with nothing done, if it does not fit.
    #[inline]
    pub fn append(&mut self, from: &[u8]) -> bool {
        if from.len() > self.len() {
            return false;
        }
        self.copy_from(0, from);
        self.0 = self.0.slice(from.len(), usize::MAX);
        true
    }

    /// Pointer and length for `pread`, if all lies in one piece.
    #[inline]
    pub(crate) fn whole(&self) -> Option<(*mut u8, usize)> {
        self.0.whole()
    }

    /// Its pieces, as raw pointers that are meant for `preadv` alone.
    #[inline]
    pub fn view(&self) -> View<'a> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Cuts `bytes` into segments of the given lengths; what remains is the last.
    fn cut(bytes: &mut [u8], lengths: &[usize]) -> Vec<Segment> {
        let mut segments = Vec::new();
        let base = bytes.as_mut_ptr();
        let mut at = 0;
        for len in lengths.iter().copied().chain([usize::MAX]) {
            let len = len.min(bytes.len() - at);
            // SAFETY: inside `bytes`, which the caller keeps and does not touch while the segments are used.
            segments.push(unsafe { Segment::new(base.add(at), len) });
            at += len;
        }
        segments
    }

    proptest! {
        #[test]
        fn a_cut_list_reads_like_the_whole(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            lengths in proptest::collection::vec(0_usize..20, 0..40),
            offset in 0_usize..320, len in 0_usize..320, inner in 0_usize..50,
        ) {
            let whole = bytes.clone();
            let segments = cut(&mut bytes, &lengths);
            let part = Readable::new(&segments).slice(offset, len);
            let start = offset.min(whole.len());
            let expected = &whole[start..whole.len().min(start + len)];
            prop_assert_eq!(part.len(), expected.len());
            let mut out = vec![MaybeUninit::uninit(); 400];
            let from = inner.min(expected.len());
            prop_assert_eq!(&*part.copy_to(inner, &mut out), &expected[from..]);
            let mut room = IoVectors::default();
            let (vectors, covered) = part.view().vectors(&mut room);
            prop_assert_eq!(vectors.iter().map(|vector| vector.iov_len).sum::<usize>(), covered);
            prop_assert_eq!(covered, expected.len());
        }

        #[test]
        fn a_cut_list_writes_like_the_whole(
            lengths in proptest::collection::vec(0_usize..20, 0..40),
            offset in 0_usize..320, data in proptest::collection::vec(any::<u8>(), 0..320),
        ) {
            let mut bytes = vec![0_u8; 300];
            let mut expected = bytes.clone();
            let start = offset.min(300);
            let end = 300.min(start + data.len());
            expected[start..end].copy_from_slice(&data[..end - start]);
            let segments = cut(&mut bytes, &lengths);
            let target = Writable::new(&segments);
            prop_assert_eq!(target.copy_from(offset, &data), end - start);
            prop_assert_eq!(&bytes, &expected);
        }
    }

    #[test]
    fn append_moves_on_and_stops_at_the_end() {
        let mut bytes = [0_u8; 5];
        let segments = cut(&mut bytes, &[2]);
        let mut target = Writable::new(&segments);
        assert!(target.append(b"abc"));
        assert!(!target.append(b"def"));
        assert!(target.append(b"gh"));
        assert!(target.is_empty());
        assert_eq!(&bytes, b"abcgh");
    }

    #[test]
    fn more_segments_than_one_call_takes_are_left_for_the_next() {
        let mut bytes = [7_u8; 300];
        let segments = cut(&mut bytes, &[1; 299]);
        let mut room = IoVectors::default();
        let (vectors, covered) = Readable::new(&segments).view().vectors(&mut room);
        assert_eq!((vectors.len(), covered), (IO_VECTORS, IO_VECTORS));
    }
}
