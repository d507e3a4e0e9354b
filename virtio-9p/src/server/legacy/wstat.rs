//! Changing what a stat record says: wstat.

use super::super::Server;
use super::super::open::valid_id;
use super::super::reply::Reply;
use super::super::session::number;
use super::create::permission_bits;
use super::open::is_directory;
use super::record::Record;
use crate::errno::Errno;
use crate::fs::{FileSystem, SetAttr, SetTime, Work};
use crate::name::Name;
use crate::session::FidState;
use crate::wire::{Dialect, HEADER_LEN, OpenFlags, Perm, Rwstat, Stat, Time, Twstat};

/// What of a number shall change: nothing if its bits are all ones, or if it says what is.
fn changed<T: Copy + PartialEq>(wanted: T, untouched: T, now: T) -> Option<T> {
    (wanted != untouched && wanted != now).then_some(wanted)
}

/// A user or group to change to, by its number or, where there is none, by its name.
fn changed_id(name: &[u8], id: Option<u32>, now: u32) -> Result<Option<u32>, Errno> {
    let wanted = match id.and_then(valid_id) {
        None if name.is_empty() => None,
        None => Some(number(name).and_then(valid_id).ok_or(Errno::EINVAL)?),
        id => id,
    };
    Ok(wanted.filter(|id| *id != now))
}

fn whole_seconds(seconds: u32) -> SetTime {
    SetTime::At(Time { seconds: seconds.into(), nanoseconds: 0 })
}

/// The attributes to change; `EPERM` for what a wstat cannot change.
fn attributes(now: &Record, wanted: &Stat<'_>, dialect: Dialect) -> Result<SetAttr, Errno> {
    let is = now.stat();
    let untouched = Stat::untouched(wanted.unix.is_some());
    let fixed = changed(wanted.kind, untouched.kind, is.kind).is_some()
        || changed(wanted.device, untouched.device, is.device).is_some()
        || changed(wanted.qid.kind, untouched.qid.kind, is.qid.kind).is_some()
        || changed(wanted.qid.path, untouched.qid.path, is.qid.path).is_some();
    if fixed {
        return Err(Errno::EPERM);
    }
    let mode = match changed(wanted.mode, untouched.mode, is.mode) {
        Some(mode) => {
            // The type stays what it is; a client of 9P2000.u may leave out all of it but the directory bit.
            const TYPES: u32 = Perm::SYMLINK | Perm::LINK | Perm::DEVICE | Perm::FIFO | Perm::SOCKET;
            let other = (mode.0 ^ is.mode.0) & Perm::DIRECTORY != 0 || mode.0 & TYPES & !is.mode.0 != 0;
            if other {
                return Err(Errno::EPERM);
            }
            let mut bits = permission_bits(mode, dialect)?;
            if dialect == Dialect::Plan9 {
                // Bits that the client cannot see stay.
                bits |= now.attributes.mode & 0o7000;
            }
            Some(bits)
        }
        None => None,
    };
    let size = changed(wanted.length, untouched.length, is.length);
    if size.is_some() && is_directory(now.attributes.mode) {
        return Err(Errno::EISDIR);
    }
    if size.is_some_and(|size| i64::try_from(size).is_err()) {
        return Err(Errno::EINVAL);
    }
    let uid = changed_id(wanted.uid, wanted.unix.map(|unix| unix.n_uid), now.attributes.uid)?;
    if uid.is_some() && dialect == Dialect::Plan9 {
        return Err(Errno::EPERM);
    }
    Ok(SetAttr {
        mode,
        uid,
        gid: changed_id(wanted.gid, wanted.unix.map(|unix| unix.n_gid), now.attributes.gid)?,
        size,
        atime: changed(wanted.atime, untouched.atime, is.atime).map(whole_seconds),
        mtime: changed(wanted.mtime, untouched.mtime, is.mtime).map(whole_seconds),
        ctime: false,
    })
}

impl<F: FileSystem> Server<F> {
    /// All or nothing, as far as the file system lets it: everything is checked first, and a new name that was given is
    /// taken back if the attributes cannot be changed. A record that leaves everything asks for the file on stable
    /// storage.
    pub(in super::super) fn wstat(&self, message: &Twstat<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        reply.expect(HEADER_LEN)?;
        let state = self.session.fids.get(message.fid)?;
        let node = state.file()?;
        let wanted = &message.stat.0;
        self.check_writable()?;
        if *wanted == (Stat { muid: wanted.muid, ..Stat::untouched(wanted.unix.is_some()) }) {
            reply.needs(self.fs.needs(Work::Sync))?;
            self.sync(&state, node)?;
            return reply.send(&Rwstat {});
        }
        let dialect = reply.dialect();
        let now = self.record(node, self.fs.name(node)?, dialect)?;
        let change = attributes(&now, wanted, dialect)?;
        let renamed = !wanted.name.is_empty() && wanted.name != now.name;
        if renamed {
            self.fs.rename_in_place(node, Name::changed(wanted.name)?, dialect == Dialect::Unix)?;
        }
        if change != SetAttr::default() {
            self.fs.setattr(node, state.handle().ok(), &change).inspect_err(|_| {
                if renamed && let Ok(name) = Name::changed(&now.name) {
                    // The client sees the first error.
                    let _ = self.fs.rename_in_place(node, name, false);
                }
            })?;
        }
        reply.send(&Rwstat {})
    }

    fn sync(&self, state: &FidState<F>, node: &F::Node) -> Result<(), Errno> {
        match state.handle() {
            Ok(handle) => self.fs.fsync(handle, false),
            Err(_) => self.fs.fsync(&self.fs.open(node, OpenFlags(OpenFlags::RDONLY))?.handle, false),
        }
    }
}
