//! Acting as a user: file system ids and groups of this thread alone.
//!
//! The C library's calls would change every thread, so the system calls are made directly. `setfsuid` to another id
//! than 0 takes the capabilities that override permissions out of effect, and back to 0 gives them back.

use std::collections::HashMap;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use super::identity::OVERFLOW_ID;
use crate::errno::Errno;
use crate::session::lock;

/// Most users whose groups are remembered.
const MAX_USERS: usize = 1024;

/// A user of the host.
#[derive(Debug)]
pub(super) struct User {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    server: Arc<Server>,
}

/// Group and supplementary groups of the server itself; its user is 0.
#[derive(Debug)]
struct Server {
    gid: u32,
    groups: Vec<u32>,
}

/// The users that attached.
#[derive(Debug)]
pub(super) struct Users {
    known: Mutex<HashMap<u32, Arc<User>>>,
    server: Arc<Server>,
}

impl Default for Users {
    fn default() -> Users {
        let groups = rustix::process::getgroups().unwrap_or_default().iter().map(|gid| gid.as_raw()).collect();
        let server = Server { gid: rustix::process::getegid().as_raw(), groups };
        Users { known: Mutex::default(), server: Arc::new(server) }
    }
}

impl Users {
    /// The user with its groups by the host's database.
    pub(super) fn of(&self, uid: u32) -> Result<Arc<User>, Errno> {
        if let Some(user) = lock(&self.known).get(&uid) {
            return Ok(user.clone());
        }
        let user = Arc::new(look_up(uid, &self.server)?);
        let mut users = lock(&self.known);
        if users.len() >= MAX_USERS {
            users.clear();
        }
        users.insert(uid, user.clone());
        Ok(user)
    }

    /// The user that all are squashed to, without further groups.
    pub(super) fn squashed(&self, uid: u32, gid: u32) -> Arc<User> {
        Arc::new(User { uid, gid, groups: Vec::new(), server: self.server.clone() })
    }
}

/// Asks the host's user database. A user that it does not know has the group `nogroup` alone.
fn look_up(uid: u32, server: &Arc<Server>) -> Result<User, Errno> {
    let mut room = vec![0; 16 << 10];
    // SAFETY: all-zero bytes are a valid `passwd`: null pointers and numbers.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: the pointers are to live variables, and the length is that of the room.
    let result = unsafe { libc::getpwuid_r(uid, &raw mut entry, room.as_mut_ptr(), room.len(), &raw mut found) };
    if result != 0 || found.is_null() {
        return Ok(User { uid, gid: OVERFLOW_ID, groups: Vec::new(), server: server.clone() });
    }
    let mut groups: Vec<libc::gid_t> = vec![0; 1024];
    let mut count: libc::c_int = 1024;
    // SAFETY: the name points into the room, which is alive; the count is the length of the vector.
    let result = unsafe {
        libc::getgrouplist(CStr::from_ptr(entry.pw_name).as_ptr(), entry.pw_gid, groups.as_mut_ptr(), &raw mut count)
    };
    if result < 0 {
        return Err(Errno::ENOMEM);
    }
    groups.truncate(usize::try_from(count).unwrap_or(0));
    Ok(User { uid, gid: entry.pw_gid, groups, server: server.clone() })
}

/// Sets an id of this thread and returns the one before.
fn swap_id(call: libc::c_long, id: u32) -> u32 {
    // SAFETY: the call takes a number and touches no memory.
    let before = unsafe { libc::syscall(call, id) };
    u32::try_from(before & i64::from(u32::MAX)).unwrap_or(u32::MAX)
}

fn set_groups(groups: &[u32]) -> bool {
    // SAFETY: the call reads as many numbers as it is told.
    unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == 0 }
}

/// Whether the id in force is `id`: the calls do not tell of failure, and an id that cannot be set leaves the one
/// before.
fn in_force(call: libc::c_long, id: u32) -> bool {
    swap_id(call, u32::MAX) == id
}

fn set(uid: u32, gid: u32, groups: &[u32]) -> bool {
    let groups_set = set_groups(groups);
    swap_id(libc::SYS_setfsgid, gid);
    swap_id(libc::SYS_setfsuid, uid);
    groups_set && in_force(libc::SYS_setfsgid, gid) && in_force(libc::SYS_setfsuid, uid)
}

/// This thread acts as a user; dropping it makes the thread act as the server again.
#[derive(Debug)]
pub(super) struct AsUser<'a> {
    user: &'a User,
    /// Keeps the guard on its thread.
    _here: PhantomData<*const ()>,
}

impl<'a> AsUser<'a> {
    /// `EPERM` if the kernel does not let the thread be this user.
    pub(super) fn enter(user: &'a User, gid: Option<u32>) -> Result<AsUser<'a>, Errno> {
        let gid = gid.filter(|gid| user.groups.contains(gid)).unwrap_or(user.gid);
        let guard = AsUser { user, _here: PhantomData };
        // On failure the guard takes back what was done.
        if set(user.uid, gid, &user.groups) { Ok(guard) } else { Err(Errno::EPERM) }
    }
}

impl Drop for AsUser<'_> {
    fn drop(&mut self) {
        let Server { gid, groups } = &*self.user.server;
        let _ = set(0, *gid, groups);
    }
}

/// This thread acts as the server inside of a request that acts as a user.
#[derive(Debug)]
pub(super) struct AsServer {
    uid: u32,
    gid: u32,
    _here: PhantomData<*const ()>,
}

impl AsServer {
    pub(super) fn enter() -> AsServer {
        let uid = swap_id(libc::SYS_setfsuid, 0);
        let gid = swap_id(libc::SYS_setfsgid, 0);
        AsServer { uid, gid, _here: PhantomData }
    }
}

impl Drop for AsServer {
    fn drop(&mut self) {
        swap_id(libc::SYS_setfsgid, self.gid);
        swap_id(libc::SYS_setfsuid, self.uid);
    }
}
