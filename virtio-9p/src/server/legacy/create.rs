//! Making files of every type: create.

use std::sync::Mutex;

use super::super::Server;
use super::super::open::OPEN_REPLY;
use super::super::reply::Reply;
use super::super::session::number;
use super::open::open_flags;
use crate::errno::Errno;
use crate::fs::{FileSystem, Owner};
use crate::name::Name;
use crate::session::{FidState, LegacyOpen, Use};
use crate::wire::{AttrMask, Dialect, Fid, OpenFlags, OpenMode, Perm, Rcreate, Tcreate};

/// A file that was made.
enum Made<F: FileSystem> {
    File(F::Node, F::Handle),
    Directory(F::Node, F::Handle),
    /// A link or special file, which the client opens itself if at all.
    Unopened(F::Node),
}

/// The types of 9P2000.u that are not opened, and `S_IFMT` bits for them.
const FIFO: u32 = 0o010_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const BLOCK_DEVICE: u32 = 0o060_000;
const SOCKET: u32 = 0o140_000;

const LINKS_AND_SPECIAL: u32 = Perm::SYMLINK | Perm::LINK | Perm::DEVICE | Perm::FIFO | Perm::SOCKET;

/// The permission bits of a new file in Unix's numbers. `EOPNOTSUPP` for what no file of the host can be; a backup's
/// hint has no place there and is let go.
pub(super) fn permission_bits(perm: Perm, dialect: Dialect) -> Result<u32, Errno> {
    let mut known = Perm::BITS | Perm::DIRECTORY | Perm::TEMPORARY;
    let special = [(Perm::SETUID, 0o4000), (Perm::SETGID, 0o2000), (Perm::STICKY, 0o1000)];
    if dialect == Dialect::Unix {
        known |= LINKS_AND_SPECIAL | Perm::SETUID | Perm::SETGID | Perm::STICKY;
    }
    if perm.intersects(!known) {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut bits = perm.0 & Perm::BITS;
    for (theirs, ours) in special {
        if perm.intersects(theirs) {
            bits |= ours;
        }
    }
    Ok(bits)
}

/// The type and number of a device: `b MAJOR MINOR` or `c MAJOR MINOR`.
fn device(extension: &[u8]) -> Option<(u32, (u32, u32))> {
    let mut words = std::str::from_utf8(extension).ok()?.split_ascii_whitespace();
    let kind = match words.next()? {
        "b" => BLOCK_DEVICE,
        "c" => CHARACTER_DEVICE,
        _ => return None,
    };
    let mut next = || number(words.next()?.as_bytes());
    let numbers = (next()?, next()?);
    words.next().is_none().then_some((kind, numbers))
}

impl<F: FileSystem> Server<F> {
    pub(in super::super) fn create(&self, message: &Tcreate<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        reply.expect(OPEN_REPLY)?;
        let state = self.session.fids.get(message.fid)?;
        let dir = state.walked()?;
        let name = Name::fresh(message.name)?;
        self.check_writable()?;
        let made = self.make(&state, dir, name, message, reply.dialect())?;
        let remove_on_close = message.mode.contains(OpenMode::RCLOSE);
        let (node, used) = match made {
            Made::File(node, handle) => (node, Use::Legacy(LegacyOpen { handle, remove_on_close, listing: None })),
            Made::Directory(node, handle) => {
                let listing = Some(Mutex::default());
                (node, Use::Legacy(LegacyOpen { handle, remove_on_close: false, listing }))
            }
            Made::Unopened(node) => (node, Use::Walked),
        };
        let qid = self.fs.getattr(&node, AttrMask::BASIC)?.qid;
        self.session.fids.replace(message.fid, &state, FidState { node, uid: state.uid, used })?;
        reply.send(&Rcreate { qid, iounit: self.iounit() })
    }

    fn make(
        &self,
        state: &FidState<F>,
        dir: &F::Node,
        name: Name<'_>,
        message: &Tcreate<'_>,
        dialect: Dialect,
    ) -> Result<Made<F>, Errno> {
        let Tcreate { perm, mode, .. } = *message;
        let mut bits = permission_bits(perm, dialect)?;
        let flags = open_flags(mode, dialect)?;
        if dialect == Dialect::Plan9 {
            // What the directory does not allow, its new files do not.
            let allowed = self.fs.getattr(dir, AttrMask::BASIC)?.mode;
            bits &= allowed | if perm.intersects(Perm::DIRECTORY) { !0o777 } else { !0o666 };
        }
        let owner = Owner { uid: state.uid, gid: None };
        let extension = message.extension.unwrap_or_default();
        let kind = perm.0 & (LINKS_AND_SPECIAL | Perm::DIRECTORY);
        match kind {
            0 => {
                let flags = OpenFlags(flags.0 | OpenFlags::CREATE | OpenFlags::EXCL);
                let created = self.fs.create(dir, name, flags, bits, owner)?;
                return Ok(Made::File(created.node, created.handle));
            }
            Perm::DIRECTORY => {
                if flags.writes() || mode.contains(OpenMode::RCLOSE) {
                    return Err(Errno::EISDIR);
                }
                self.fs.mkdir(dir, name, bits, owner)?;
                let node = self.fs.lookup(dir, name)?.node;
                let handle = self.fs.open(&node, flags)?.handle;
                return Ok(Made::Directory(node, handle));
            }
            Perm::SYMLINK => {
                self.make_symlink(dir, name, extension, owner)?;
            }
            Perm::LINK => {
                let fid = number(extension.trim_ascii()).ok_or(Errno::EINVAL)?;
                let file = self.session.fids.get(Fid(fid))?;
                self.fs.link(file.file()?, dir, name)?;
            }
            Perm::DEVICE => {
                let (kind, numbers) = device(extension).ok_or(Errno::EINVAL)?;
                self.fs.mknod(dir, name, kind | bits, numbers, owner)?;
            }
            Perm::FIFO | Perm::SOCKET => {
                let kind = if kind == Perm::FIFO { FIFO } else { SOCKET };
                self.fs.mknod(dir, name, kind | bits, (0, 0), owner)?;
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(Made::Unopened(self.fs.lookup(dir, name)?.node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_a_letter_and_two_numbers() {
        assert_eq!(device(b"c 1 3"), Some((CHARACTER_DEVICE, (1, 3))));
        assert_eq!(device(b"b 8 17\n"), Some((BLOCK_DEVICE, (8, 17))));
        for bad in [&b""[..], b"c", b"c 1", b"c 1 3 5", b"d 1 3", b"c -1 3", b"c x 3", b"c1 3", b"\xff 1 3"] {
            assert_eq!(device(bad), None);
        }
    }

    #[test]
    fn permissions_that_no_file_can_have_are_refused() {
        assert_eq!(permission_bits(Perm(Perm::DIRECTORY | Perm::TEMPORARY | 0o755), Dialect::Plan9), Ok(0o755));
        assert_eq!(permission_bits(Perm(Perm::SETUID | Perm::STICKY | 0o755), Dialect::Unix), Ok(0o5755));
        for refused in [Perm::APPEND, Perm::EXCLUSIVE, 0x1000_0000, 0x0800_0000, 0o1000] {
            assert_eq!(permission_bits(Perm(refused), Dialect::Unix), Err(Errno::EOPNOTSUPP));
        }
        for refused in [Perm::SETUID, Perm::SYMLINK, Perm::LINK, Perm::DEVICE, Perm::FIFO, Perm::SOCKET] {
            assert_eq!(permission_bits(Perm(refused), Dialect::Plan9), Err(Errno::EOPNOTSUPP));
        }
    }
}
