//! The cache folder: where it is, who may write to it, and how a finished folder appears in it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use super::bundle::BundleError;
use super::progress::Progress;

/// Prefix of folders under construction; what a killed process left behind is known by it.
const UNFINISHED: &str = ".unfinished-";

/// `$CALGARY_CACHE`, else `$XDG_CACHE_HOME/calgaryd`, else `~/.cache/calgaryd`; created if absent.
pub(super) fn folder() -> Result<PathBuf, BundleError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("CALGARY_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|base| base.join("calgaryd")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/calgaryd")))
        .ok_or(BundleError::NoCacheFolder)?;
    fs::create_dir_all(&folder).map_err(BundleError::io("create the cache folder", &folder))?;
    // The packages' programs are run by absolute path from any working folder.
    folder.canonicalize().map_err(BundleError::io("resolve the cache folder", &folder))
}

/// A new folder in `parent` that only this user can enter: packages unpacked by root contain set-user-id programs.
pub(super) fn private_folder(parent: &Path) -> Result<TempDir, BundleError> {
    let owner_only = fs::Permissions::from_mode(0o700);
    let folder = tempfile::Builder::new().prefix(UNFINISHED).permissions(owner_only).tempdir_in(parent);
    folder.map_err(BundleError::io("prepare a folder in", parent))
}

/// The right to write to the cache folder, held until dropped.
pub(super) struct CacheLock {
    folder: PathBuf,
    _file: File,
}

impl CacheLock {
    /// Waits until no other process fetches into `folder`.
    pub(super) fn acquire(folder: &Path, progress: &dyn Progress) -> Result<Self, BundleError> {
        let path = folder.join("lock");
        let io = || BundleError::io("lock", &path);
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io())?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let text = "waiting for another process that fetches the virtual machine";
            progress.step(text, 0, 1);
            flock(&file, FlockOperation::LockExclusive).map_err(|errno| io()(errno.into()))?;
            progress.step(text, 1, 1);
        }
        Ok(Self { folder: folder.to_owned(), _file: file })
    }

    /// An empty folder on the same file system as the cache, removed when dropped unless [published](Self::publish).
    pub(super) fn begin(&self) -> Result<TempDir, BundleError> {
        let io = || BundleError::io("prepare a folder in", &self.folder);
        for entry in fs::read_dir(&self.folder).map_err(io())? {
            let entry = entry.map_err(io())?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_dir_all(entry.path()).map_err(BundleError::io("remove", &entry.path()))?;
            }
        }
        private_folder(&self.folder)
    }

    /// Makes `finished` appear as `name` in one step, in place of what had that name.
    pub(super) fn publish(&self, finished: TempDir, name: &str) -> Result<PathBuf, BundleError> {
        let target = self.folder.join(name);
        let io = || BundleError::io("put in place", &target);
        let retired = private_folder(&self.folder)?;
        if target.exists() {
            fs::rename(&target, retired.path().join("old")).map_err(io())?;
        }
        fs::rename(finished.path(), &target).map_err(io())?;
        // The folder has moved, so there is nothing left to remove under its old name.
        let _ = finished.keep();
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishing_replaces_and_leaves_no_rubbish() {
        let cache = tempfile::tempdir().unwrap();
        fs::create_dir(cache.path().join(".unfinished-of-a-killed-process")).unwrap();
        let lock = CacheLock::acquire(cache.path(), &()).unwrap();
        for content in ["first", "second"] {
            let folder = lock.begin().unwrap();
            fs::write(folder.path().join("file"), content).unwrap();
            let target = lock.publish(folder, "name").unwrap();
            assert_eq!(fs::read_to_string(target.join("file")).unwrap(), content);
            assert_eq!(fs::metadata(target).unwrap().permissions().mode() & 0o777, 0o700);
        }
        let mut names: Vec<_> = fs::read_dir(cache.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["lock", "name"]);
    }

    #[test]
    fn a_second_lock_waits_for_the_first() {
        let cache = tempfile::tempdir().unwrap();
        let first = CacheLock::acquire(cache.path(), &()).unwrap();
        let (waiting, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let waiting = std::sync::Mutex::new(waiting);
                CacheLock::acquire(cache.path(), &move |_: &str, done: u64, _: u64| {
                    let _ = waiting.lock().unwrap().send(done);
                })
                .unwrap();
            });
            assert_eq!(told.recv(), Ok(0), "the second process says that it waits");
            assert!(!second.is_finished());
            drop(first);
            assert_eq!(told.recv(), Ok(1));
        });
    }
}
