//! Names: readlink, symlink, mknod, mkdir, link, rename, renameat, unlinkat, remove.

use super::Server;
use super::open::valid_id;
use super::reply::Reply;
use crate::errno::Errno;
use crate::fs::{FileSystem, Owner};
use crate::limits::TARGET_MAX;
use crate::name::Name;
use crate::wire::{
    HEADER_LEN, Qid, Rlink, Rmkdir, Rmknod, Rreadlink, Rremove, Rrename, Rrenameat, Rsymlink, Runlinkat, Tlink, Tmkdir,
    Tmknod, Treadlink, Tremove, Trename, Trenameat, Tsymlink, Tunlinkat, UNLINK_DIRECTORY,
};

/// Length in bytes of a reply that is one qid.
const QID_REPLY: usize = HEADER_LEN + Qid::LEN;

impl<F: FileSystem> Server<F> {
    pub(super) fn readlink(&self, message: &Treadlink, reply: &Reply<'_>) -> Result<usize, Errno> {
        let state = self.session.fids.get(message.fid)?;
        let target = self.fs.readlink(state.file()?)?;
        reply.send(&Rreadlink { target: &target })
    }

    pub(super) fn symlink(&self, message: &Tsymlink<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        reply.expect(QID_REPLY)?;
        let state = self.session.fids.get(message.dfid)?;
        let name = Name::fresh(message.name)?;
        let owner = Owner { uid: state.uid, gid: valid_id(message.gid) };
        let qid = self.make_symlink(state.file()?, name, message.target, owner)?;
        reply.send(&Rsymlink { qid })
    }

    pub(super) fn make_symlink(
        &self,
        dir: &F::Node,
        name: Name<'_>,
        target: &[u8],
        owner: Owner,
    ) -> Result<Qid, Errno> {
        match target {
            [] => return Err(Errno::ENOENT),
            target if target.contains(&0) => return Err(Errno::EINVAL),
            target if target.len() > TARGET_MAX => return Err(Errno::ENAMETOOLONG),
            _ => {}
        }
        self.check_writable()?;
        self.fs.symlink(dir, name, target, owner)
    }

    pub(super) fn mknod(&self, message: &Tmknod<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        reply.expect(QID_REPLY)?;
        let state = self.session.fids.get(message.dfid)?;
        let name = Name::fresh(message.name)?;
        self.check_writable()?;
        let owner = Owner { uid: state.uid, gid: valid_id(message.gid) };
        let device = (message.major, message.minor);
        let qid = self.fs.mknod(state.file()?, name, message.mode, device, owner)?;
        reply.send(&Rmknod { qid })
    }

    pub(super) fn mkdir(&self, message: &Tmkdir<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        reply.expect(QID_REPLY)?;
        let state = self.session.fids.get(message.dfid)?;
        let name = Name::fresh(message.name)?;
        self.check_writable()?;
        let owner = Owner { uid: state.uid, gid: valid_id(message.gid) };
        let qid = self.fs.mkdir(state.file()?, name, message.mode & 0o7777, owner)?;
        reply.send(&Rmkdir { qid })
    }

    pub(super) fn link(&self, message: &Tlink<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        let dir = self.session.fids.get(message.dfid)?;
        let file = self.session.fids.get(message.fid)?;
        let name = Name::fresh(message.name)?;
        self.check_writable()?;
        self.fs.link(file.file()?, dir.file()?, name)?;
        reply.send(&Rlink {})
    }

    pub(super) fn rename(&self, message: &Trename<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        let file = self.session.fids.get(message.fid)?;
        let dir = self.session.fids.get(message.dfid)?;
        let name = Name::changed(message.name)?;
        self.check_writable()?;
        self.fs.rename_node(file.file()?, dir.file()?, name)?;
        reply.send(&Rrename {})
    }

    pub(super) fn renameat(&self, message: &Trenameat<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        let old_dir = self.session.fids.get(message.old_dfid)?;
        let new_dir = self.session.fids.get(message.new_dfid)?;
        let old = Name::changed(message.old_name)?;
        let new = Name::changed(message.new_name)?;
        self.check_writable()?;
        self.fs.rename(old_dir.file()?, old, new_dir.file()?, new)?;
        reply.send(&Rrenameat {})
    }

    pub(super) fn unlinkat(&self, message: &Tunlinkat<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        let dir = self.session.fids.get(message.dfid)?;
        let name = Name::changed(message.name)?;
        if message.flags & !UNLINK_DIRECTORY != 0 {
            return Err(Errno::EINVAL);
        }
        self.check_writable()?;
        self.fs.unlink(dir.file()?, name, message.flags == UNLINK_DIRECTORY)?;
        reply.send(&Runlinkat {})
    }

    /// The fid is gone whatever becomes of the file.
    pub(super) fn remove(&self, message: &Tremove, reply: &Reply<'_>) -> Result<usize, Errno> {
        let state = self.session.fids.remove(message.fid)?;
        let node = state.file()?;
        self.check_writable()?;
        self.fs.remove_node(node)?;
        reply.send(&Rremove {})
    }
}
