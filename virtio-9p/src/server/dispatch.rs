//! From a request to its handler.

use super::Server;
use super::reply::Reply;
use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::segment::Readable;
use crate::wire::Request;

impl<F: FileSystem> Server<F> {
    /// Carries out `message` and writes its reply. `request` is needed for the data of a write alone.
    pub(super) fn dispatch(
        &self,
        message: &Request<'_>,
        request: &Readable<'_>,
        reply: &Reply<'_>,
    ) -> Result<usize, Errno> {
        match message {
            Request::Version(message) => self.version(message, reply),
            // What clients take for "no authentication is needed"; Linux never asks, diod's tools know this one alone.
            Request::Auth(_) => Err(Errno::ENOENT),
            Request::Attach(message) => self.attach(message, reply),
            Request::Flush(message) => self.flush(message, reply),
            Request::Clunk(message) => self.clunk(message, reply),
            Request::Walk(message) => self.walk(message, reply),
            Request::Open(message) => self.open(message, reply),
            Request::Create(message) => self.create(message, reply),
            Request::Stat(message) => self.stat(message, reply),
            Request::Wstat(message) => self.wstat(message, reply),
            Request::Lopen(message) => self.lopen(message, reply),
            Request::Lcreate(message) => self.lcreate(message, reply),
            Request::Read(message) => self.read(message, reply),
            Request::Write(message) => self.write(message, request, reply),
            Request::Readdir(message) => self.readdir(message, reply),
            Request::Fsync(message) => self.fsync(message, reply),
            Request::Getattr(message) => self.getattr(message, reply),
            Request::Setattr(message) => self.setattr(message, reply),
            Request::Statfs(message) => self.statfs(message, reply),
            Request::Readlink(message) => self.readlink(message, reply),
            Request::Symlink(message) => self.symlink(message, reply),
            Request::Mknod(message) => self.mknod(message, reply),
            Request::Mkdir(message) => self.mkdir(message, reply),
            Request::Link(message) => self.link(message, reply),
            Request::Rename(message) => self.rename(message, reply),
            Request::Renameat(message) => self.renameat(message, reply),
            Request::Unlinkat(message) => self.unlinkat(message, reply),
            Request::Remove(message) => self.remove(message, reply),
            Request::Xattrwalk(message) => self.xattrwalk(message, reply),
            Request::Xattrcreate(message) => self.xattrcreate(message, reply),
            Request::Lock(message) => self.lock(message, reply),
            Request::Getlock(message) => self.getlock(message, reply),
        }
    }
}
