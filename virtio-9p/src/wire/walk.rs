//! Walking from one file to another: walk.

use super::codec::{Decoder, Encoder, Field, Malformed};
use super::header::Fid;
use super::message::messages;
use super::qid::{Qid, QidType};

/// Most names in one walk (`MAXWELEM`).
pub const MAX_WALK_NAMES: usize = 16;

/// The names of a walk: `nwname[2]` strings, at most [`MAX_WALK_NAMES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalkNames<'a> {
    names: [&'a [u8]; MAX_WALK_NAMES],
    count: usize,
}

impl<'a> WalkNames<'a> {
    /// Collects `names`; [`Malformed::TooManyNames`] beyond 16.
    pub fn new(names: &[&'a [u8]]) -> Result<WalkNames<'a>, Malformed> {
        let mut all = WalkNames::default();
        all.names.get_mut(..names.len()).ok_or(Malformed::TooManyNames)?.copy_from_slice(names);
        all.count = names.len();
        Ok(all)
    }

    /// The names in order.
    #[inline]
    pub fn as_slice(&self) -> &[&'a [u8]] {
        &self.names[..self.count]
    }
}

impl<'a> Field<'a> for WalkNames<'a> {
    #[inline]
    fn wire_len(&self) -> usize {
        self.as_slice().iter().fold(2, |len, name| len + name.wire_len())
    }
    #[inline]
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
        let count = usize::from(from.field::<u16>()?);
        let mut all = WalkNames { count, ..WalkNames::default() };
        for name in all.names.get_mut(..count).ok_or(Malformed::TooManyNames)? {
            *name = from.field()?;
        }
        Ok(all)
    }
    #[inline]
    fn encode(&self, to: &mut Encoder<'_>) -> Result<(), Malformed> {
        // At most 16, so the conversion cannot fail.
        u16::try_from(self.count).map_err(|_| Malformed::TooManyNames)?.encode(to)?;
        self.as_slice().iter().try_for_each(|name| name.encode(to))
    }
}

/// The qids of a walk: `nwqid[2]` qids, at most [`MAX_WALK_NAMES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalkQids {
    qids: [Qid; MAX_WALK_NAMES],
    count: usize,
}

impl Default for WalkQids {
    fn default() -> WalkQids {
        let blank = Qid { kind: QidType::FILE, version: 0, path: 0 };
        WalkQids { qids: [blank; MAX_WALK_NAMES], count: 0 }
    }
}

impl WalkQids {
    /// Appends a qid; [`Malformed::TooManyNames`] beyond 16.
    #[inline]
    pub fn push(&mut self, qid: Qid) -> Result<(), Malformed> {
        *self.qids.get_mut(self.count).ok_or(Malformed::TooManyNames)? = qid;
        self.count += 1;
        Ok(())
    }

    /// The qids in order.
    #[inline]
    pub fn as_slice(&self) -> &[Qid] {
        &self.qids[..self.count]
    }
}

impl<'a> Field<'a> for WalkQids {
    #[inline]
    fn wire_len(&self) -> usize {
        2 + Qid::LEN * self.count
    }
    #[inline]
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
        let count = from.field::<u16>()?;
        let mut all = WalkQids::default();
        for _ in 0..count {
            all.push(from.field()?)?;
        }
        Ok(all)
    }
    #[inline]
    fn encode(&self, to: &mut Encoder<'_>) -> Result<(), Malformed> {
        u16::try_from(self.count).map_err(|_| Malformed::TooManyNames)?.encode(to)?;
        self.as_slice().iter().try_for_each(|qid| qid.encode(to))
    }
}

messages! {
    /// Makes `newfid` the file reached from `fid` by the names: `fid[4] newfid[4] nwname[2] nwname*(wname[s])`.
    Twalk<'a> = TWALK {
        /// Where the walk starts.
        fid: Fid,
        /// What names its end; may equal `fid`.
        newfid: Fid,
        /// The names; none makes `newfid` another fid of the same file.
        names: WalkNames<'a>,
    }
    /// One qid for each name walked: `nwqid[2] nwqid*(qid[13])`. Fewer than the names: the walk failed at the next one.
    Rwalk = RWALK {
        /// The qids.
        qids: WalkQids,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Message, Tag, literal::assert_wire, qid::sample};

    #[test]
    fn twalk_bytes() {
        assert_wire(
            b"\x18\0\0\0\x6e\x01\0\x01\0\0\0\x02\0\0\0\x02\0\x01\0a\x02\0..",
            Tag(1),
            Twalk { fid: Fid(1), newfid: Fid(2), names: WalkNames::new(&[b"a", b".."]).unwrap() },
        );
        assert_wire(
            b"\x11\0\0\0\x6e\x01\0\x01\0\0\0\x02\0\0\0\0\0",
            Tag(1),
            Twalk { fid: Fid(1), newfid: Fid(2), names: WalkNames::default() },
        );
    }

    #[test]
    fn rwalk_bytes() {
        let mut qids = WalkQids::default();
        assert_wire(b"\x09\0\0\0\x6f\x01\0\0\0", Tag(1), Rwalk { qids });
        qids.push(sample::QID).unwrap();
        qids.push(sample::QID).unwrap();
        let bytes = [&b"\x23\0\0\0\x6f\x01\0\x02\0"[..], &sample::BYTES, &sample::BYTES].concat();
        assert_wire(&bytes, Tag(1), Rwalk { qids });
    }

    #[test]
    fn seventeen_names_are_refused() {
        let mut frame = b"\x33\0\0\0\x6e\x01\0\x01\0\0\0\x02\0\0\0\x11\0".to_vec();
        frame.resize(0x33, 0);
        assert_eq!(Twalk::parse(&frame), Err(Malformed::TooManyNames));
    }
}
