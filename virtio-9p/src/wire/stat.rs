//! What is known about files in 9P2000 and 9P2000.u: stat and wstat, and the records that they and directories hold.

use super::codec::{Decoder, Encoder, Field, Malformed};
use super::header::Fid;
use super::legacy::Perm;
use super::message::messages;
use super::qid::{Qid, QidType};

/// A stat record: `size[2] type[2] dev[4] qid[13] mode[4] atime[4] mtime[4] length[8] name[s] uid[s] gid[s] muid[s]`,
/// in 9P2000.u also `extension[s] n_uid[4] n_gid[4] n_muid[4]`. The size does not count itself.
///
/// In a `Twstat`, a number whose bits are all ones and an empty string mean "leave it".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat<'a> {
    /// For the server's kernel.
    pub kind: u16,
    /// For the server's kernel.
    pub device: u32,
    /// The file's qid.
    pub qid: Qid,
    /// Permissions and type.
    pub mode: Perm,
    /// Last access, in seconds since 1970.
    pub atime: u32,
    /// Last modification, in seconds since 1970.
    pub mtime: u32,
    /// Length in bytes; 0 for a directory.
    pub length: u64,
    /// The last name of the file's path; `/` for the root.
    pub name: &'a [u8],
    /// The owner's name.
    pub uid: &'a [u8],
    /// The group's name.
    pub gid: &'a [u8],
    /// The name of the user who modified the file last.
    pub muid: &'a [u8],
    /// What 9P2000.u adds.
    pub unix: Option<UnixStat<'a>>,
}

/// The end of a stat record in 9P2000.u.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixStat<'a> {
    /// The target of a symbolic link, the numbers of a device, or `HARDLINKCOUNT` and the number of links.
    pub extension: &'a [u8],
    /// Owner.
    pub n_uid: u32,
    /// Group.
    pub n_gid: u32,
    /// The user who modified the file last.
    pub n_muid: u32,
}

impl Stat<'_> {
    /// The record of a `Twstat` that changes nothing: what a client starts from, with or without the fields of
    /// 9P2000.u.
    pub fn untouched(unix: bool) -> Stat<'static> {
        Stat {
            kind: u16::MAX,
            device: u32::MAX,
            qid: Qid { kind: QidType(u8::MAX), version: u32::MAX, path: u64::MAX },
            mode: Perm(u32::MAX),
            atime: u32::MAX,
            mtime: u32::MAX,
            length: u64::MAX,
            name: b"",
            uid: b"",
            gid: b"",
            muid: b"",
            unix: unix.then_some(UnixStat { extension: b"", n_uid: u32::MAX, n_gid: u32::MAX, n_muid: u32::MAX }),
        }
    }

    /// Length in bytes of what the size field counts.
    fn inner_len(&self) -> usize {
        2 + 4
            + Qid::LEN
            + 4
            + 4
            + 4
            + 8
            + [self.name, self.uid, self.gid, self.muid].iter().map(Field::wire_len).sum::<usize>()
            + self.unix.wire_len()
    }
}

impl<'a> Field<'a> for UnixStat<'a> {
    fn wire_len(&self) -> usize {
        self.extension.wire_len() + 12
    }
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
        Ok(UnixStat { extension: from.field()?, n_uid: from.field()?, n_gid: from.field()?, n_muid: from.field()? })
    }
    fn encode(&self, to: &mut Encoder<'_>) -> Result<(), Malformed> {
        self.extension.encode(to)?;
        self.n_uid.encode(to)?;
        self.n_gid.encode(to)?;
        self.n_muid.encode(to)
    }
}

/// Takes `size[2]` and so many bytes.
fn counted<'a>(from: &mut Decoder<'a>) -> Result<Decoder<'a>, Malformed> {
    let len: u16 = from.field()?;
    Ok(Decoder::new(from.bytes(usize::from(len))?))
}

fn size_field(len: usize) -> Result<u16, Malformed> {
    u16::try_from(len).map_err(|_| Malformed::NoRoom)
}

impl<'a> Field<'a> for Stat<'a> {
    fn wire_len(&self) -> usize {
        2 + self.inner_len()
    }
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
        let mut from = counted(from)?;
        let stat = Stat {
            kind: from.field()?,
            device: from.field()?,
            qid: from.field()?,
            mode: from.field()?,
            atime: from.field()?,
            mtime: from.field()?,
            length: from.field()?,
            name: from.field()?,
            uid: from.field()?,
            gid: from.field()?,
            muid: from.field()?,
            unix: from.field()?,
        };
        if from.is_empty() { Ok(stat) } else { Err(Malformed::Trailing) }
    }
    fn encode(&self, to: &mut Encoder<'_>) -> Result<(), Malformed> {
        size_field(self.inner_len())?.encode(to)?;
        self.kind.encode(to)?;
        self.device.encode(to)?;
        self.qid.encode(to)?;
        self.mode.encode(to)?;
        self.atime.encode(to)?;
        self.mtime.encode(to)?;
        self.length.encode(to)?;
        self.name.encode(to)?;
        self.uid.encode(to)?;
        self.gid.encode(to)?;
        self.muid.encode(to)?;
        self.unix.encode(to)
    }
}

/// A stat record as a parameter of a message: `n[2]`, then the record with its own size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatParameter<'a>(pub Stat<'a>);

impl<'a> Field<'a> for StatParameter<'a> {
    fn wire_len(&self) -> usize {
        2 + self.0.wire_len()
    }
    fn decode(from: &mut Decoder<'a>) -> Result<Self, Malformed> {
        let mut from = counted(from)?;
        let stat = from.field()?;
        if from.is_empty() { Ok(StatParameter(stat)) } else { Err(Malformed::Trailing) }
    }
    fn encode(&self, to: &mut Encoder<'_>) -> Result<(), Malformed> {
        size_field(self.0.wire_len())?.encode(to)?;
        self.0.encode(to)
    }
}

messages! {
    /// Asks for the stat record of a file: `fid[4]`.
    Tstat = TSTAT {
        /// The file.
        fid: Fid,
    }
    /// The record: `stat[n]`.
    Rstat<'a> = RSTAT {
        /// The record.
        stat: StatParameter<'a>,
    }
    /// Changes what a stat record says: `fid[4] stat[n]`.
    Twstat<'a> = TWSTAT unix(stat.0.unix) {
        /// The file.
        fid: Fid,
        /// The record, with all ones and empty strings for what shall stay.
        stat: StatParameter<'a>,
    }
    /// The file is changed.
    Rwstat = RWSTAT {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Message, Tag, literal::assert_wire, qid::sample};

    const PLAN9: Stat<'_> = Stat {
        kind: 1,
        device: 2,
        qid: sample::QID,
        mode: Perm(Perm::DIRECTORY | 0o755),
        atime: 3,
        mtime: 4,
        length: 5,
        name: b"dir",
        uid: b"glenda",
        gid: b"sys",
        muid: b"",
        unix: None,
    };

    const UNIX: Stat<'_> =
        Stat { unix: Some(UnixStat { extension: b"../to", n_uid: 1000, n_gid: 100, n_muid: u32::MAX }), ..PLAN9 };

    /// The record after its size, up to what 9P2000.u adds.
    fn record() -> Vec<u8> {
        [
            &b"\x01\0\x02\0\0\0"[..],
            &sample::BYTES,
            b"\xed\x01\0\x80\x03\0\0\0\x04\0\0\0\x05\0\0\0\0\0\0\0\x03\0dir\x06\0glenda\x03\0sys\0\0",
        ]
        .concat()
    }

    const ADDED: &[u8] = b"\x05\0../to\xe8\x03\0\0\x64\0\0\0\xff\xff\xff\xff";

    #[test]
    fn stat_bytes_of_9p2000() {
        assert_wire(b"\x0b\0\0\0\x7c\x01\0\x04\0\0\0", Tag(1), Tstat { fid: Fid(4) });
        assert_eq!(record().len(), 59);
        let bytes = [&b"\x46\0\0\0\x7d\x01\0\x3d\0\x3b\0"[..], &record()].concat();
        assert_wire(&bytes, Tag(1), Rstat { stat: StatParameter(PLAN9) });
    }

    #[test]
    fn stat_bytes_of_9p2000_u() {
        let bytes = [&b"\x59\0\0\0\x7d\x01\0\x50\0\x4e\0"[..], &record(), ADDED].concat();
        assert_wire(&bytes, Tag(1), Rstat { stat: StatParameter(UNIX) });
    }

    #[test]
    fn wstat_bytes() {
        let plan9 = [&b"\x4a\0\0\0\x7e\x01\0\x04\0\0\0\x3d\0\x3b\0"[..], &record()].concat();
        assert_wire(&plan9, Tag(1), Twstat { fid: Fid(4), stat: StatParameter(PLAN9) });
        let unix = [&b"\x5d\0\0\0\x7e\x01\0\x04\0\0\0\x50\0\x4e\0"[..], &record(), ADDED].concat();
        assert_wire(&unix, Tag(1), Twstat { fid: Fid(4), stat: StatParameter(UNIX) });
        assert_wire(b"\x07\0\0\0\x7f\x01\0", Tag(1), Rwstat {});
    }

    #[test]
    fn untouched_bytes() {
        let ones = [0xff; 39];
        let bytes = [&b"\x3e\0\0\0\x7e\x01\0\x04\0\0\0\x31\0\x2f\0"[..], &ones, &[0; 8]].concat();
        assert_wire(&bytes, Tag(1), Twstat { fid: Fid(4), stat: StatParameter(Stat::untouched(false)) });
        let bytes = [&b"\x4c\0\0\0\x7e\x01\0\x04\0\0\0\x3f\0\x3d\0"[..], &ones, &[0; 10], &[0xff; 12]].concat();
        assert_wire(&bytes, Tag(1), Twstat { fid: Fid(4), stat: StatParameter(Stat::untouched(true)) });
    }

    #[test]
    fn sizes_inside_a_record_must_match() {
        let frame = |outer: u8, inner: u8| {
            let mut frame = b"\x4a\0\0\0\x7e\x01\0\x04\0\0\0".to_vec();
            frame.extend([outer, 0, inner, 0]);
            frame.extend(record());
            frame
        };
        assert!(Twstat::parse(&frame(0x3d, 0x3b)).is_ok());
        for (outer, inner) in [(0x3d, 0x3a), (0x3d, 0x3c), (0x3c, 0x3b), (0x3e, 0x3b), (0, 0), (0xff, 0xff)] {
            assert!(Twstat::parse(&frame(outer, inner)).is_err(), "{outer:x} {inner:x}");
        }
        // Half of what 9P2000.u adds.
        let half = [&b"\x53\0\0\0\x7e\x01\0\x04\0\0\0\x46\0\x44\0"[..], &record(), &ADDED[..9]].concat();
        assert_eq!(Twstat::parse(&half), Err(Malformed::Truncated));
    }
}
