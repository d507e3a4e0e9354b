//! A mount namespace that holds what the daemon needs, each at its usual path.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, move_mount,
    open_tree, unmount,
};
use rustix::process::{chdir, getegid, geteuid, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::SandboxError;
use super::paths::Paths;

/// Where the new tree is put together. Only this process sees it.
const STAGE: &str = "/tmp";

/// Moves the calling process, which has one thread, into a namespace of its own.
pub(super) fn enter(paths: &Paths) -> Result<(), SandboxError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |cause: rustix::io::Errno| SandboxError::Namespace { what, cause: cause.into() }
    };
    let mut wanted: Vec<PathBuf> = paths.folders.iter().map(|(folder, _)| folder.clone()).collect();
    wanted.extend(paths.sockets.iter().chain(&paths.system).cloned());
    wanted.push("/proc".into());
    // An outer folder comes before what it holds.
    wanted.sort();
    wanted.dedup();
    if wanted.iter().any(|path| path == Path::new("/")) {
        return Err(SandboxError::WholeTree);
    }
    let (user, group) = (geteuid(), getegid());
    let mut kinds = UnshareFlags::NEWNS | UnshareFlags::NEWIPC;
    if paths.ports.is_empty() {
        kinds |= UnshareFlags::NEWNET;
    }
    if !user.is_root() {
        kinds |= UnshareFlags::NEWUSER;
    }
    // SAFETY: file descriptors stay shared with nobody: the process has one thread, and NEWNS asks for no `unshare` of
    // them.
    unsafe { unshare_unsafe(kinds) }.map_err(failed("make namespaces"))?;
    if !user.is_root() {
        let map = |file: &str, content: String| {
            fs::write(file, content).map_err(|cause| SandboxError::Namespace { what: format!("write {file}"), cause })
        };
        map("/proc/self/setgroups", "deny".to_owned())?;
        map("/proc/self/uid_map", format!("{0} {0} 1", user.as_raw()))?;
        map("/proc/self/gid_map", format!("{0} {0} 1", group.as_raw()))?;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(failed("make mounts private"))?;
    // Taken hold of first: the stage may hide some of them.
    let mut trees: Vec<(PathBuf, bool, OwnedFd)> = Vec::new();
    for path in wanted {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(CWD, &path, flags).map_err(failed(&format!("take hold of {}", path.display())))?;
        let folder = path.is_dir();
        trees.push((path, folder, tree));
    }
    mount("tmpfs", STAGE, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755,size=64k")
        .map_err(failed("mount a tree"))?;
    for (path, folder, tree) in trees {
        let place = Path::new(STAGE).join(path.strip_prefix("/").unwrap_or(&path));
        let what = format!("show {}", path.display());
        let made = match (place.exists(), folder, place.parent()) {
            (true, ..) => Ok(()),
            (false, false, Some(above)) => fs::create_dir_all(above).and_then(|()| fs::write(&place, "")),
            (false, ..) => fs::create_dir_all(&place),
        };
        made.map_err(|cause: io::Error| SandboxError::Namespace { what: what.clone(), cause })?;
        move_mount(&tree, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(failed(&what))?;
    }
    chdir(STAGE).map_err(failed("enter the tree"))?;
    // The old tree comes to lie over the new one, and goes.
    pivot_root(".", ".").map_err(failed("change to the tree"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("leave the old tree"))?;
    chdir("/").map_err(failed("enter the tree"))
}
