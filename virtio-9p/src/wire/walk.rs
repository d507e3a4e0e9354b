//! Walking from one file to another: walk.

use super::codec::{Decoder, Encoder, Field, Malformed};
use super::header::Fid;
use super::message::messages;
use super::qid::{Qid, QidType};

/// Most names in one walk (`MAXWELEM`).
pub const MAX_WALK_NAMES: usize = 16;

/// The names of a walk: `nwname[2]` strings, at most [`MAX_WALK_NAMES`].
#[derive(Clone, Copy)]
pub struct WalkNames<'a>(Form<'a>);

/// Names that were given, or their wire form, which is only looked through until somebody wants them.
#[derive(Clone, Copy)]
enum Form<'a> {
    Given(&'a [&'a [u8]]),
    /// `count` strings, each of which was found whole.
    Wire {
        count: u16,
        strings: &'a [u8],
    },
}

impl<'a> WalkNames<'a> {
    /// Takes `names`; [`Malformed::TooManyNames`] beyond 16.
    pub fn new(names: &'a [&'a [u8]]) -> Result<WalkNames<'a>, Malformed> {
        if names.len() > MAX_WALK_NAMES {
            return Err(Malformed::TooManyNames);
        }
        Ok(WalkNames(Form::Given(names)))
    }

    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        match self.0 {
            Form::Given(names) => names.len(),
            Form::Wire { count, .. } => usize::from(count),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names in order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (mut given, strings) = match self.0 {
            Form::Given(names) => (names.iter(), &[][..]),
            Form::Wire { strings, .. } => ([].iter(), strings),
        };
        let mut from = Decoder::new(strings);
        // Beyond the last string nothing can be read.
        std::iter::from_fn(move || given.next().copied().or_else(|| from.field().ok()))
    }
}

impl Default for WalkNames<'_> {
    fn default() -> Self {
        WalkNames(Form::Given(&[]))
    }
}

impl std::fmt::Debug for WalkNames<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for WalkNames<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for WalkNames<'_> {}

impl<'a> Field<'a> for WalkNames<'a> {
    #[inline]
    fn wire_len(&self) -> usize {
        match self.0 {
            Form::Given(names) => names.iter().fold(2, |len, name| len + name.wire_len()),
            Form::Wire { strings, .. } => 2 + strings.len(),
        }
    }
    #[inline]
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
        let count = from.field::<u16>()?;
        if usize::from(count) > MAX_WALK_NAMES {
            return Err(Malformed::TooManyNames);
        }
        let mut end = from.clone();
        for _ in 0..count {
            end.field::<&[u8]>()?;
        }
        let strings = from.bytes(from.len() - end.len())?;
        Ok(WalkNames(Form::Wire { count, strings }))
    }
    #[inline]
    fn encode(&self, to: &mut Encoder<'_>) -> Result<(), Malformed> {
        // At most 16, so the conversion cannot fail.
        u16::try_from(self.len()).map_err(|_| Malformed::TooManyNames)?.encode(to)?;
        self.iter().try_for_each(|name| name.encode(to))
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
