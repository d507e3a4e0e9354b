//! A scratch folder to serve, and a canary beside it that no request may touch.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Once;

use tempfile::TempDir;

/// Content of the canary's files; no reply may hold it.
pub const SECRET: &[u8] = b"canary:8b51f0c2e7d94a36";
/// Content of `file` in the shared folder.
pub const CONTENT: &[u8] = b"what may be read";
/// Largest file that requests can make.
const FILE_BYTES: u64 = 4 << 20;

/// A folder with a shared tree and a canary.
pub struct Tree {
    root: TempDir,
    canary: Vec<State>,
}

/// What a file or folder looks like to the host. Access times are left out: looking changes them.
#[derive(Debug, PartialEq, Eq)]
struct State {
    path: PathBuf,
    kind_and_mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    content: Option<Vec<u8>>,
}

impl State {
    fn of(path: &Path) -> Self {
        let meta: Metadata = fs::symlink_metadata(path).expect("the canary is there");
        Self {
            path: path.to_path_buf(),
            kind_and_mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            links: meta.nlink(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            content: meta.is_file().then(|| fs::read(path).expect("readable")),
        }
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// A new tree, in memory where the system has a file system for that.
    ///
    /// # Panics
    /// There is no room for it.
    #[must_use]
    pub fn new() -> Self {
        confine();
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let root = tempfile::Builder::new().prefix("calgary-fuzz").tempdir_in(place).expect("a scratch folder");
        let canary = root.path().join("canary");
        fs::create_dir(&canary).expect("room");
        fs::write(canary.join("secret"), SECRET).expect("room");
        fs::create_dir(root.path().join("share")).expect("room");
        let mut tree = Self { root, canary: Vec::new() };
        tree.canary = tree.look();
        tree.rebuild();
        tree
    }

    /// The folder to serve.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.root.path().join("share")
    }

    /// Makes the shared tree what it was at first: `file`, `dir/inner`, and links to the canary and to nowhere.
    ///
    /// # Panics
    /// The host refuses.
    pub fn rebuild(&self) {
        let shared = self.shared();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o755)).expect("the folder stays");
        for entry in fs::read_dir(&shared).expect("the folder stays") {
            let path = entry.expect("readable").path();
            let gone =
                if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.expect("removable");
        }
        fs::write(shared.join("file"), CONTENT).expect("room");
        fs::create_dir(shared.join("dir")).expect("room");
        fs::write(shared.join("dir/inner"), CONTENT).expect("room");
        symlink("../canary/secret", shared.join("link")).expect("room");
        symlink(self.root.path().join("canary"), shared.join("abs")).expect("room");
        symlink("..", shared.join("up")).expect("room");
    }

    /// Panics if the canary changed.
    ///
    /// # Panics
    /// That is what it is for.
    pub fn check(&self) {
        assert_eq!(self.look(), self.canary, "a request reached out of the shared folder");
        let names: Vec<_> =
            fs::read_dir(self.root.path()).expect("readable").map(|e| e.expect("readable").file_name()).collect();
        assert_eq!(names.len(), 2, "a request made something beside the shared folder: {names:?}");
    }

    fn look(&self) -> Vec<State> {
        let canary = self.root.path().join("canary");
        let mut paths = vec![canary.clone()];
        paths.extend(fs::read_dir(&canary).expect("readable").map(|entry| entry.expect("readable").path()));
        paths.sort();
        paths.iter().map(|path| State::of(path)).collect()
    }
}

/// Takes from the process what a request that goes wrong could do harm with: device nodes and large files.
fn confine() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        const CAP_MKNOD: libc::c_ulong = 27;
        let limit = libc::rlimit { rlim_cur: FILE_BYTES, rlim_max: FILE_BYTES };
        // SAFETY: plain system calls; the arguments live across them.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
            libc::umask(0);
        }
        drop_capability(CAP_MKNOD);
    });
}

/// Takes one capability from the calling thread and those it starts. Without privileges there is nothing to take.
fn drop_capability(number: libc::c_ulong) {
    /// `_LINUX_CAPABILITY_VERSION_3`
    const VERSION: u32 = 0x2008_0522;
    let mut header = [VERSION, 0];
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: header and data have the layout of version 3: two words, and two times three words.
    unsafe {
        if libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) != 0 {
            return;
        }
        for set in &mut sets[0] {
            *set &= !(1 << number);
        }
        libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr());
    }
}
