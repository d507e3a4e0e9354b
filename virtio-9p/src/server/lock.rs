//! Byte-range locks: lock, getlock.

use super::Server;
use super::reply::Reply;
use crate::errno::Errno;
use crate::fs::{FileSystem, LockOwner, LockRange, LockRequest};
use crate::limits::MAX_CLIENT_ID;
use crate::session::Waiting;
use crate::wire::{LockFlags, LockStatus, LockType, Rgetlock, Rlock, Tgetlock, Tlock};

fn owner(proc_id: u32, client_id: &[u8]) -> Result<LockOwner<'_>, Errno> {
    if client_id.len() > MAX_CLIENT_ID {
        return Err(Errno::EINVAL);
    }
    Ok(LockOwner { proc_id, client_id })
}

impl<F: FileSystem> Server<F> {
    /// A lock that cannot be had at once is parked if the client would wait and the caller has a ticket for it;
    /// otherwise it is answered `BLOCKED`, and the client asks again.
    pub(super) fn lock(&self, message: &Tlock<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        let client = self.session.parked.client();
        let state = self.session.fids.get(message.fid)?;
        let handle = state.handle()?;
        if message.flags.0 & !(LockFlags::BLOCK | LockFlags::RECLAIM) != 0 || message.kind.0 > LockType::UNLOCK.0 {
            return Err(Errno::EINVAL);
        }
        let range = LockRange::from_wire(message.start, message.length)?;
        let owner = owner(message.proc_id, message.client_id)?;
        let granted = self.fs.lock(handle, &LockRequest { kind: message.kind, range, owner })?;
        if !granted
            && message.flags.0 & LockFlags::BLOCK != 0
            && let Some(ticket) = reply.terms().ticket
        {
            let waiting = Waiting {
                ticket,
                client,
                tag: reply.tag(),
                limit: reply.limit(),
                fid: message.fid,
                state: state.clone(),
                kind: message.kind,
                range,
                proc_id: owner.proc_id,
                client_id: owner.client_id.to_vec(),
            };
            if self.session.parked.park(waiting) {
                return Ok(reply.park());
            }
        }
        let status = if granted { LockStatus::SUCCESS } else { LockStatus::BLOCKED };
        reply.send(&Rlock { status })
    }

    pub(super) fn getlock(&self, message: &Tgetlock<'_>, reply: &Reply<'_>) -> Result<usize, Errno> {
        let state = self.session.fids.get(message.fid)?;
        let handle = state.handle()?;
        let kind = match message.kind {
            LockType::READ => LockType::READ,
            // Linux does not say which lock it means; an exclusive one meets every other.
            LockType::WRITE | LockType::UNLOCK => LockType::WRITE,
            _ => return Err(Errno::EINVAL),
        };
        let request = LockRequest {
            kind,
            range: LockRange::from_wire(message.start, message.length)?,
            owner: owner(message.proc_id, message.client_id)?,
        };
        let Some(conflict) = self.fs.getlock(handle, &request)? else {
            return reply.send(&Rgetlock {
                kind: LockType::UNLOCK,
                start: message.start,
                length: message.length,
                proc_id: message.proc_id,
                client_id: message.client_id,
            });
        };
        let (proc_id, client_id) = conflict.owner.unwrap_or_default();
        reply.send(&Rgetlock {
            kind: conflict.kind,
            start: conflict.range.start,
            length: conflict.range.wire_length(),
            proc_id,
            client_id: &client_id,
        })
    }
}
