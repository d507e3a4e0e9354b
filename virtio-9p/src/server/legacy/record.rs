//! Stat records: what stat answers, and directories hold.

use super::super::Server;
use super::super::reply::Reply;
use super::open::is_directory;
use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::wire::{AttrMask, Dialect, NONUNAME, Perm, Rgetattr, Rstat, Stat, StatParameter, Time, Tstat, UnixStat};

/// What a stat record is made of.
pub(super) struct Record {
    pub(super) name: Vec<u8>,
    pub(super) attributes: Rgetattr,
    uid: String,
    gid: String,
    extension: Vec<u8>,
    dialect: Dialect,
}

/// A time in whole seconds, as near as 32 bits come to it.
pub(super) fn seconds(time: Time) -> u32 {
    match time.seconds.cast_signed() {
        before if before < 0 => 0,
        // All ones would mean "leave it".
        after => u32::try_from(after).unwrap_or(u32::MAX).min(u32::MAX - 1),
    }
}

/// Type and permissions of a mode of Unix, as far as the dialect knows them.
fn perm(mode: u32, dialect: Dialect) -> Perm {
    let mut perm = mode & Perm::BITS;
    if is_directory(mode) {
        perm |= Perm::DIRECTORY;
    }
    if dialect == Dialect::Unix {
        perm |= match mode & 0o170_000 {
            0o120_000 => Perm::SYMLINK,
            0o020_000 | 0o060_000 => Perm::DEVICE,
            0o010_000 => Perm::FIFO,
            0o140_000 => Perm::SOCKET,
            _ => 0,
        };
        for (ours, theirs) in [(0o4000, Perm::SETUID), (0o2000, Perm::SETGID), (0o1000, Perm::STICKY)] {
            if mode & ours != 0 {
                perm |= theirs;
            }
        }
    }
    Perm(perm)
}

/// Major and minor number of a device in `Rgetattr`'s encoding.
fn device_numbers(rdev: u64) -> (u64, u64) {
    ((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))
}

impl Record {
    /// The record in the wire's form.
    pub(super) fn stat(&self) -> Stat<'_> {
        let Rgetattr { mode, size, uid, gid, .. } = self.attributes;
        Stat {
            kind: 0,
            device: 0,
            qid: self.attributes.qid,
            mode: perm(mode, self.dialect),
            atime: seconds(self.attributes.atime),
            mtime: seconds(self.attributes.mtime),
            length: if is_directory(mode) { 0 } else { size },
            name: &self.name,
            uid: self.uid.as_bytes(),
            gid: self.gid.as_bytes(),
            muid: b"",
            unix: self.dialect.has_unix_fields().then_some(UnixStat {
                extension: &self.extension,
                n_uid: uid,
                n_gid: gid,
                n_muid: NONUNAME,
            }),
        }
    }
}

impl<F: FileSystem> Server<F> {
    /// What a stat record says about a file. In 9P2000.u the extension is the target of a symbolic link, the numbers of
    /// a device, or the number of links in the form that Linux reads.
    pub(super) fn record(&self, node: &F::Node, name: Vec<u8>, dialect: Dialect) -> Result<Record, Errno> {
        let attributes = self.fs.getattr(node, AttrMask::BASIC)?;
        let (major, minor) = device_numbers(attributes.rdev);
        let extension = match attributes.mode & 0o170_000 {
            _ if dialect == Dialect::Plan9 => Vec::new(),
            0o120_000 => self.fs.readlink(node)?,
            0o020_000 => format!("c {major} {minor}").into_bytes(),
            0o060_000 => format!("b {major} {minor}").into_bytes(),
            _ => format!("HARDLINKCOUNT {}", attributes.nlink).into_bytes(),
        };
        let (uid, gid) = (attributes.uid.to_string(), attributes.gid.to_string());
        Ok(Record { name, attributes, uid, gid, extension, dialect })
    }

    pub(in super::super) fn stat(&self, message: &Tstat, reply: &Reply<'_>) -> Result<usize, Errno> {
        let state = self.session.fids.get(message.fid)?;
        let node = state.file()?;
        let record = self.record(node, self.fs.name(node)?, reply.dialect())?;
        reply.send(&Rstat { stat: StatParameter(record.stat()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stay_inside_32_bits() {
        let at = |seconds: i64| super::seconds(Time { seconds: seconds.cast_unsigned(), nanoseconds: 999_999_999 });
        assert_eq!((at(0), at(-1), at(5)), (0, 0, 5));
        assert_eq!(at(i64::from(u32::MAX)), u32::MAX - 1);
        assert_eq!(at(i64::MAX), u32::MAX - 1);
    }

    #[test]
    fn types_show_in_9p2000_u_alone() {
        for (mode, unix) in [
            (0o100_644, 0o644),
            (0o040_755, Perm::DIRECTORY | 0o755),
            (0o041_777, Perm::DIRECTORY | Perm::STICKY | 0o777),
            (0o120_777, Perm::SYMLINK | 0o777),
            (0o020_600, Perm::DEVICE | 0o600),
            (0o060_600, Perm::DEVICE | 0o600),
            (0o010_600, Perm::FIFO | 0o600),
            (0o140_600, Perm::SOCKET | 0o600),
            (0o106_755, Perm::SETUID | Perm::SETGID | 0o755),
        ] {
            assert_eq!(perm(mode, Dialect::Unix), Perm(unix));
            assert_eq!(perm(mode, Dialect::Plan9), Perm(unix & (Perm::DIRECTORY | Perm::BITS)));
        }
    }

    #[test]
    fn device_numbers_are_those_of_new_decode_dev() {
        assert_eq!(device_numbers(0x0103), (1, 3));
        assert_eq!(device_numbers(0x123f_ff45), (0xfff, 0x1_2345));
    }
}
