//! The bundle: a QEMU, a guest kernel with its modules, and the programs of the guest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::apt::PrivateApt;
use super::cache::{self, CacheLock};
use super::modules::ModuleError;
use super::progress::{PrintProgress, Progress};
use super::qemu::{QemuCommand, QemuVersion};

/// Name of the bundle in the cache folder.
const NAME: &str = "bundle";

/// Name of the bundle whose guest is aarch64.
const AARCH64_NAME: &str = "bundle-aarch64";

/// What the emulator of the aarch64 bundle is unpacked from, with all dependencies.
const AARCH64_PACKAGES: [&str; 1] = ["qemu-system-arm"];

/// The aarch64 guest's static busybox, alone.
const AARCH64_GUEST: &str = "busybox-static:arm64";

/// The file that says a folder is a whole bundle, and of which format.
const STAMP: &str = "format";

/// Raised when the set of packages or their places in the bundle change; an older bundle is then fetched anew.
const FORMAT: &str = "2\n";

/// What is unpacked into the bundle's root, with all dependencies.
const PACKAGES: [&str; 5] = ["qemu-system-x86", "busybox-static", "attr", "virtiofsd", "diod"];

/// Ends every error that keeps a virtual machine from being had.
const NO_VM: &str = "; --no-vm does without a virtual machine";

/// Why there is no bundle, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is no place for the cache.
    #[error(
        "no usable cache folder: set CALGARY_CACHE to a folder of your own (without quotes or backslashes in its name){}",
        NO_VM
    )]
    NoCacheFolder,
    /// A file could not be read, written or executed.
    #[error("cannot {doing} {}: {source}; check its permissions and the free space (the bundle needs 600 MB), \
         or name another folder in CALGARY_CACHE{}", path.display(), NO_VM)]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A program that the machine should have is absent or cannot run.
    #[error(
        "cannot run {program}: {source}; install the package {package}, or give your own QEMU (10.2 or newer, in PATH) \
         and a guest kernel with --kernel{}",
        NO_VM
    )]
    MissingProgram {
        /// The program.
        program: String,
        /// The package that has it on Debian.
        package: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The packages exist, but not for this processor.
    #[error(
        "virtual machine bundles exist for x86_64 only, and this machine is {arch}; give your own QEMU (10.2 or newer, \
         in PATH) and an x86_64 guest kernel with --kernel{}",
        NO_VM
    )]
    Architecture {
        /// The machine's processor.
        arch: &'static str,
    },
    /// The machine's apt knows no Debian archive.
    #[error(
        "apt has no Debian archive among its sources; put the address of one in CALGARY_MIRROR, or give your own QEMU \
         (10.2 or newer, in PATH) and a guest kernel with --kernel{}",
        NO_VM
    )]
    NoMirror,
    /// The keys that sign Debian's archive are absent.
    #[error("Debian's signing keys are not installed: install the package debian-archive-keyring{}", NO_VM)]
    NoKeyring,
    /// apt or dpkg failed.
    #[error(
        "{what} failed; check the network, and that the package debian-archive-keyring is up to date. It said:\n{said}\n\
         You can also give your own QEMU (10.2 or newer, in PATH) and a guest kernel with --kernel{}",
        NO_VM
    )]
    Command {
        /// What was being done.
        what: String,
        /// What the program printed.
        said: String,
    },
    /// A program called QEMU did not answer as QEMU does.
    #[error("{program} does not run or is not QEMU; it said: {said}. Put QEMU 10.2 or newer into PATH{}", NO_VM)]
    NotQemu {
        /// The program.
        program: String,
        /// What it printed.
        said: String,
    },
    /// QEMU lacks the device that attaches the daemon.
    #[error(
        "QEMU {found} is too old: vhost-user-test-device-pci came with {}. Put a newer one first in PATH, \
         or leave out --kernel to let a newer one be fetched{}",
        QemuVersion::OLDEST,
        NO_VM
    )]
    OldQemu {
        /// The version in PATH.
        found: QemuVersion,
    },
    /// A file that the guest needs is not where it should be.
    #[error("{what} not found under {}; {hint}{}", folder.display(), NO_VM)]
    NotFound {
        /// The file.
        what: &'static str,
        /// Where it was looked for.
        folder: PathBuf,
        /// How to get it there.
        hint: &'static str,
    },
    /// A kernel module cannot be used.
    #[error("{0}")]
    Module(#[from] ModuleError),
}

impl BundleError {
    /// Turns an I/O error into one that says what was being done to which path.
    pub(super) fn io<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}

/// All that a virtual machine is made of.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The emulator, [`QemuVersion::OLDEST`] or newer.
    pub qemu: QemuCommand,
    /// The guest kernel, a bzImage.
    pub kernel: PathBuf,
    /// The folder of that kernel's modules (`lib/modules/RELEASE`).
    pub modules: PathBuf,
    /// A root with a static busybox in it and, optionally, setfattr and its libraries.
    pub guest_root: PathBuf,
    /// Where the unchanging part of the initramfs is kept; `None` builds it for each boot.
    pub(super) cache: Option<PathBuf>,
}

impl Bundle {
    /// The bundle of the cache folder, fetched and unpacked first if it is not there yet: about 150 MB of Debian
    /// packages, through the machine's own mirror, without root and without a change to the machine's apt.
    ///
    /// The cache folder is `$CALGARY_CACHE`, else `$XDG_CACHE_HOME/calgaryd`, else `~/.cache/calgaryd`. Several
    /// processes may call this at once: one fetches, the others wait for it.
    ///
    /// # Errors
    /// Any [`BundleError`]; a failed attempt leaves nothing behind.
    pub fn obtain(progress: &dyn Progress) -> Result<Self, BundleError> {
        let cache = cache::folder()?;
        let folder = cache.join(NAME);
        if !is_whole(&folder) {
            let lock = CacheLock::acquire(&cache, progress)?;
            if !is_whole(&folder) {
                fetch(&lock, progress)?;
            }
        }
        Self::from_folder(&folder)
    }

    /// The bundle with an aarch64 guest, about 100 MB of packages, as [`Bundle::obtain`] has it.
    ///
    /// # Errors
    /// As [`Bundle::obtain`].
    pub fn obtain_aarch64(progress: &dyn Progress) -> Result<Self, BundleError> {
        let cache = cache::folder()?;
        let folder = cache.join(AARCH64_NAME);
        if !is_whole(&folder) {
            let lock = CacheLock::acquire(&cache, progress)?;
            if !is_whole(&folder) {
                fetch_aarch64(&lock, progress)?;
            }
        }
        Self::from_aarch64_folder(&folder)
    }

    /// The QEMU of `PATH`, the machine's own busybox, and the given kernel with its modules folder.
    ///
    /// # Errors
    /// [`BundleError::OldQemu`], [`BundleError::MissingProgram`] or [`BundleError::NotFound`].
    pub fn from_system(kernel: &Path, modules: &Path) -> Result<Self, BundleError> {
        // Opened, not looked at: distributions let only root read their kernels.
        fs::File::open(kernel).map_err(BundleError::io("read the guest kernel", kernel))?;
        fs::read_dir(modules).map_err(BundleError::io("list the modules folder", modules))?;
        let absolute = |path: &Path| path.canonicalize().map_err(BundleError::io("resolve", path));
        Ok(Self {
            qemu: QemuCommand::from_path()?,
            kernel: absolute(kernel)?,
            modules: absolute(modules)?,
            guest_root: PathBuf::from("/"),
            cache: None,
        })
    }

    fn from_aarch64_folder(folder: &Path) -> Result<Self, BundleError> {
        let kernel = only_entry(&folder.join("kernel/boot"), "vmlinuz-", "a guest kernel")?;
        let modules = only_entry(&folder.join("kernel/usr/lib/modules"), "", "the guest kernel's modules")?;
        let qemu = QemuCommand::from_root_of(&folder.join("root"), "qemu-system-aarch64")?;
        Ok(Self { qemu, kernel, modules, guest_root: folder.join("guest"), cache: Some(folder.to_owned()) })
    }

    fn from_folder(folder: &Path) -> Result<Self, BundleError> {
        let kernel = only_entry(&folder.join("kernel/boot"), "vmlinuz-", "a guest kernel")?;
        let modules = only_entry(&folder.join("kernel/usr/lib/modules"), "", "the guest kernel's modules")?;
        let root = folder.join("root");
        Ok(Self {
            qemu: QemuCommand::from_root(&root)?,
            kernel,
            modules,
            guest_root: root,
            cache: Some(folder.to_owned()),
        })
    }
}

/// Whether `folder` holds a bundle of this format; a bundle appears whole, so its stamp vouches for the rest.
fn is_whole(folder: &Path) -> bool {
    fs::read_to_string(folder.join(STAMP)).is_ok_and(|stamp| stamp == FORMAT)
}

fn fetch(lock: &CacheLock, progress: &dyn Progress) -> Result<(), BundleError> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(BundleError::Architecture { arch: std::env::consts::ARCH });
    }
    let packages = lock.begin()?;
    let apt = PrivateApt::set_up(packages.path(), None)?;
    apt.update(progress)?;
    let root = apt.fetch_closure(&PACKAGES, "downloading QEMU and the guest's programs", progress)?;
    let kernel = apt.fetch_kernel("linux-image-amd64", progress)?;

    // A folder inside the first: `begin` would take the packages for what a killed process left behind.
    let bundle = cache::private_folder(packages.path())?;
    apt.unpack(&root, &bundle.path().join("root"), "unpacking QEMU and the guest's programs", progress)?;
    apt.unpack(&kernel, &bundle.path().join("kernel"), "unpacking the guest kernel", progress)?;
    // Tried before it is published, so that a bundle that cannot run is never kept.
    Bundle::from_folder(bundle.path())?;
    let stamp = bundle.path().join(STAMP);
    fs::write(&stamp, FORMAT).map_err(BundleError::io("write", &stamp))?;
    lock.publish(bundle, NAME)?;
    Ok(())
}

fn fetch_aarch64(lock: &CacheLock, progress: &dyn Progress) -> Result<(), BundleError> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(BundleError::Architecture { arch: std::env::consts::ARCH });
    }
    let packages = lock.begin()?;
    let apt = PrivateApt::set_up(packages.path(), Some("arm64"))?;
    apt.update(progress)?;
    let root = apt.fetch_closure(&AARCH64_PACKAGES, "downloading QEMU for aarch64", progress)?;
    let kernel = apt.fetch_kernel("linux-image-arm64:arm64", progress)?;
    let guest = apt.fetch_alone(AARCH64_GUEST, "guest", "downloading the guest's programs", progress)?;

    let bundle = cache::private_folder(packages.path())?;
    apt.unpack(&root, &bundle.path().join("root"), "unpacking QEMU for aarch64", progress)?;
    apt.unpack(&kernel, &bundle.path().join("kernel"), "unpacking the guest kernel", progress)?;
    apt.unpack(&guest, &bundle.path().join("guest"), "unpacking the guest's programs", progress)?;
    Bundle::from_aarch64_folder(bundle.path())?;
    let stamp = bundle.path().join(STAMP);
    fs::write(&stamp, FORMAT).map_err(BundleError::io("write", &stamp))?;
    lock.publish(bundle, AARCH64_NAME)?;
    Ok(())
}

/// The entry of `folder` whose name begins with `prefix`.
fn only_entry(folder: &Path, prefix: &str, what: &'static str) -> Result<PathBuf, BundleError> {
    let io = || BundleError::io("list", folder);
    for entry in fs::read_dir(folder).map_err(io())? {
        let entry = entry.map_err(io())?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    let hint = "remove the bundle from the cache folder to have it fetched again";
    Err(BundleError::NotFound { what, folder: folder.to_owned(), hint })
}

/// The bundle, for tests that need a virtual machine; `None`, with the reason printed, where it cannot be had.
///
/// # Panics
/// Where it cannot be had although the variable `CI` is set: there a skipped test would pass for a passed one.
#[must_use]
pub fn bundle_for_tests() -> Option<Bundle> {
    for_tests(Bundle::obtain(&PrintProgress))
}

/// The same with an aarch64 guest.
///
/// # Panics
/// As [`bundle_for_tests`].
#[must_use]
pub fn aarch64_bundle_for_tests() -> Option<Bundle> {
    for_tests(Bundle::obtain_aarch64(&PrintProgress))
}

fn for_tests(bundle: Result<Bundle, BundleError>) -> Option<Bundle> {
    match bundle {
        Ok(bundle) => Some(bundle),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "no virtual machine: {error}");
            eprintln!("skipped, no virtual machine: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stamp_of_this_format_makes_a_bundle() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_whole(folder.path()));
        fs::write(folder.path().join(STAMP), "0\n").unwrap();
        assert!(!is_whole(folder.path()));
        fs::write(folder.path().join(STAMP), FORMAT).unwrap();
        assert!(is_whole(folder.path()));
    }

    #[test]
    fn every_error_names_the_way_without_a_machine() {
        let errors = [
            BundleError::NoCacheFolder,
            BundleError::NoMirror,
            BundleError::NoKeyring,
            BundleError::OldQemu { found: QemuVersion { major: 9, minor: 2 } },
            BundleError::io("read", Path::new("/x"))(io::ErrorKind::NotFound.into()),
        ];
        for error in errors {
            assert!(error.to_string().ends_with("--no-vm does without a virtual machine"), "{error}");
        }
    }

    #[test]
    fn a_kernel_that_cannot_be_read_is_named() {
        let error = Bundle::from_system(Path::new("/nonexistent/vmlinuz"), Path::new("/")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/vmlinuz"), "{error}");
    }
}
