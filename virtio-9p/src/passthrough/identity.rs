//! Whose files they are: the security models, id maps, squashing, umask.

use std::sync::Arc;

use super::options::PassthroughOptions;
use super::user::{AsServer, AsUser, User, Users};
use crate::errno::Errno;
use crate::fs::{Attach, Owner, SetAttr};

/// Where owners and modes of files are kept. The names are those of QEMU's `security_model`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Security {
    /// In the files themselves. As root, new files are given to the user that attached and to the group that the
    /// request names.
    #[default]
    Passthrough,
    /// In the extended attributes `user.virtfs.uid`, `.gid`, `.mode` (4 bytes each, little-endian) and `.rdev` (8
    /// bytes), as QEMU's `mapped-xattr` does, so that a process without privileges serves any owner. Symbolic links and
    /// special files are regular files that say what they stand for. Access lists are kept in
    /// `user.virtfs.system.posix_acl_access` and `...default`. The client does not see attributes below `user.virtfs.`.
    MappedXattr,
    /// As `Passthrough`, but a new file stays the server's if it cannot be given away, and there are no access lists.
    None,
}

/// A run of user or group ids, as the client and as the host number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id of the client.
    pub client: u32,
    /// The first id of the host.
    pub host: u32,
    /// How many follow each other.
    pub count: u32,
}

/// The id that stands for one without a counterpart (`nobody`, Linux's overflow id).
pub(super) const OVERFLOW_ID: u32 = 65_534;

/// Ids of the client to ids of the host and back. An empty one leaves them as they are.
#[derive(Debug, Clone, Default)]
struct IdMap(Vec<IdRange>);

impl IdMap {
    fn to_host(&self, id: u32) -> Option<u32> {
        if self.0.is_empty() {
            return Some(id);
        }
        self.0.iter().find_map(|range| {
            let offset = id.checked_sub(range.client).filter(|offset| *offset < range.count)?;
            range.host.checked_add(offset).filter(|id| *id != u32::MAX)
        })
    }

    fn to_client(&self, id: u32) -> u32 {
        if self.0.is_empty() {
            return id;
        }
        let found = self.0.iter().find_map(|range| {
            let offset = id.checked_sub(range.host).filter(|offset| *offset < range.count)?;
            range.client.checked_add(offset)
        });
        found.unwrap_or(OVERFLOW_ID)
    }
}

/// How identity is handled.
pub(super) struct Identity {
    security: Security,
    keep_symlinks: bool,
    uids: IdMap,
    gids: IdMap,
    squash: Option<(u32, u32)>,
    umask: u32,
    users: Option<Users>,
    gives_files_away: bool,
}

impl Identity {
    /// A reason if the options contradict each other or need more than the process has.
    pub(super) fn new(options: PassthroughOptions) -> Result<Identity, &'static str> {
        let root = rustix::process::geteuid().is_root();
        let mapped = options.security == Security::MappedXattr;
        if options.per_user && !root {
            return Err(
                "requests can act as their user only if the server runs as root: run it so, or leave per-user off",
            );
        }
        if options.per_user && mapped {
            return Err("mapped-xattr keeps owners apart from the host's users: leave per_user off");
        }
        if options.umask > 0o777 {
            return Err("the umask is at most 0777");
        }
        Ok(Identity {
            security: options.security,
            keep_symlinks: options.keep_symlinks,
            uids: IdMap(options.uid_map),
            gids: IdMap(options.gid_map),
            squash: options.squash,
            umask: options.umask,
            users: options.per_user.then(Users::default),
            gives_files_away: options.chown_new_files && root && !mapped && !options.per_user,
        })
    }

    pub(super) fn is_mapped(&self) -> bool {
        self.security == Security::MappedXattr
    }

    /// Whether a symbolic link of the client is a regular file of the host.
    pub(super) fn maps_symlinks(&self) -> bool {
        self.is_mapped() && !self.keep_symlinks
    }

    pub(super) fn has_access_lists(&self) -> bool {
        self.security != Security::None
    }

    /// The mode of a new file.
    pub(super) fn new_mode(&self, mode: u32) -> u32 {
        mode & !self.umask
    }

    /// The owner of a new file, in ids of the host or, if they are mapped to attributes, of the client. `EOVERFLOW` for
    /// an id without a counterpart.
    pub(super) fn new_owner(&self, owner: Owner) -> Result<Owner, Errno> {
        if let Some((uid, gid)) = self.squash {
            return Ok(Owner { uid: Some(uid), gid: Some(gid) });
        }
        if self.is_mapped() {
            return Ok(owner);
        }
        let host = |map: &IdMap, id: Option<u32>| id.map(|id| map.to_host(id).ok_or(Errno::EOVERFLOW)).transpose();
        Ok(Owner { uid: host(&self.uids, owner.uid)?, gid: host(&self.gids, owner.gid)? })
    }

    /// Whether new files are given to their owner on the host.
    pub(super) fn gives_files_away(&self) -> bool {
        self.gives_files_away
    }

    /// Whether a new file that cannot be given away stays the server's.
    pub(super) fn may_keep_files(&self) -> bool {
        self.security == Security::None
    }

    /// The owner to change to, as for [`Identity::new_owner`]. `EINVAL` for an id without a counterpart, `EPERM` for
    /// one other than the one that all are squashed to.
    pub(super) fn changed_owner(&self, change: &SetAttr) -> Result<Owner, Errno> {
        let wanted = Owner { uid: change.uid, gid: change.gid };
        if let Some((uid, gid)) = self.squash {
            let other =
                wanted.uid.is_some_and(|wanted| wanted != uid) || wanted.gid.is_some_and(|wanted| wanted != gid);
            return if other { Err(Errno::EPERM) } else { Ok(wanted) };
        }
        if self.is_mapped() {
            return Ok(wanted);
        }
        let host = |map: &IdMap, id: Option<u32>| id.map(|id| map.to_host(id).ok_or(Errno::EINVAL)).transpose();
        Ok(Owner { uid: host(&self.uids, wanted.uid)?, gid: host(&self.gids, wanted.gid)? })
    }

    /// Owner and group as the client sees them.
    pub(super) fn seen_owner(&self, uid: u32, gid: u32) -> (u32, u32) {
        if self.is_mapped() { (uid, gid) } else { (self.uids.to_client(uid), self.gids.to_client(gid)) }
    }

    /// The user as whom the requests of an attachment act, if that is not the server. `EACCES` for one without a
    /// counterpart.
    pub(super) fn user(&self, attach: &Attach<'_>) -> Result<Option<Arc<User>>, Errno> {
        let Some(users) = &self.users else { return Ok(None) };
        if let Some((uid, gid)) = self.squash {
            return Ok(Some(users.squashed(uid, gid)));
        }
        let uid = match attach.uid {
            Some(uid) => self.uids.to_host(uid).ok_or(Errno::EACCES)?,
            // Linux attaches once as nobody in particular before its users come.
            None => OVERFLOW_ID,
        };
        users.of(uid).map(Some)
    }

    /// Acts as `user` from now on until the result is dropped, with the group `gid` for new files if the user is in it.
    #[inline]
    pub(super) fn act_as<'a>(
        &self,
        user: Option<&'a Arc<User>>,
        gid: Option<u32>,
    ) -> Result<Option<AsUser<'a>>, Errno> {
        match user {
            Some(user) => AsUser::enter(user, gid.and_then(|gid| self.gids.to_host(gid))).map(Some),
            None => Ok(None),
        }
    }

    /// Acts as the server for a while.
    pub(super) fn act_as_server(&self) -> Option<AsServer> {
        self.users.as_ref().map(|_| AsServer::enter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_by_ranges_both_ways() {
        let map =
            IdMap(vec![IdRange { client: 0, host: 100_000, count: 1000 }, IdRange { client: 5000, host: 7, count: 1 }]);
        assert_eq!((map.to_host(0), map.to_host(999), map.to_host(1000)), (Some(100_000), Some(100_999), None));
        assert_eq!((map.to_host(5000), map.to_host(5001)), (Some(7), None));
        assert_eq!((map.to_client(100_999), map.to_client(101_000), map.to_client(7)), (999, OVERFLOW_ID, 5000));
        assert_eq!((IdMap::default().to_host(5), IdMap::default().to_client(5)), (Some(5), 5));
        let edge = IdMap(vec![IdRange { client: u32::MAX - 1, host: u32::MAX - 1, count: 10 }]);
        assert_eq!((edge.to_host(u32::MAX - 1), edge.to_host(u32::MAX)), (Some(u32::MAX - 1), None));
    }
}
