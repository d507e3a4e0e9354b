//! The guest's whole user space: busybox, the modules, our init, and one scenario.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::bundle::{Bundle, BundleError};
use super::cpio::Cpio;
use super::modules::ModuleTree;
use super::program::interpreter;
use super::scenario::Scenario;

/// The modules that are loaded by default, in this order: a 9P driver that binds before the IOMMU's would do its DMA
/// untranslated.
pub const DEFAULT_MODULES: [&str; 5] = ["virtio-iommu", "virtio_pci", "virtio_mmio", "9pnet_virtio", "9p"];

const INIT: &str = include_str!("../../guest/init");
const LIBRARY: &str = include_str!("../../guest/lib.sh");
const COMMANDS: &str = include_str!("../../guest/commands.sh");

const BUSYBOX_PLACES: [&str; 3] = ["usr/bin/busybox", "bin/busybox", "usr/sbin/busybox"];
const LIBRARY_PLACES: [&str; 4] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "usr/lib"];
const LOADER_PLACES: [&str; 3] =
    ["usr/lib64/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2", "usr/lib/ld-linux-x86-64.so.2"];

/// An initramfs for one boot: an archive that is the same for every boot, followed by one that is not.
#[derive(Debug, Clone)]
pub struct Initramfs {
    base: Vec<u8>,
    own: Cpio,
}

impl Initramfs {
    /// The guest of `bundle` with [`DEFAULT_MODULES`].
    ///
    /// # Errors
    /// As [`Self::with_modules`].
    pub fn new(bundle: &Bundle) -> Result<Self, BundleError> {
        Self::with_modules(bundle, &DEFAULT_MODULES)
    }

    /// The guest of `bundle` that loads `modules`, each after what it depends on; those built into the kernel may be
    /// named as well.
    ///
    /// # Errors
    /// [`BundleError::Module`] if the kernel lacks one of them, [`BundleError::NotFound`] if the guest root has no
    /// static busybox, [`BundleError::Io`].
    pub fn with_modules(bundle: &Bundle, modules: &[&str]) -> Result<Self, BundleError> {
        let Some(cache) = &bundle.cache else {
            return Ok(Self { base: base(bundle, modules)?, own: Cpio::new() });
        };
        let path = cache.join(format!("initramfs-{}.cpio", fingerprint(bundle, modules)));
        if let Ok(base) = fs::read(&path) {
            return Ok(Self { base, own: Cpio::new() });
        }
        let base = base(bundle, modules)?;
        let keep = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(cache)?;
            file.write_all(&base)?;
            file.persist(&path)?;
            Ok(())
        };
        if let Err(error) = keep() {
            log::debug!("the initramfs is not kept in {}: {error}", cache.display());
        }
        Ok(Self { base, own: Cpio::new() })
    }

    /// Sets what the guest does after it has booted.
    pub fn scenario(&mut self, scenario: &Scenario) -> &mut Self {
        if let Some(script) = scenario.script() {
            self.own.file("scenario.sh", 0o755, script.as_bytes());
        }
        self
    }

    /// Adds a file for this boot.
    pub fn file(&mut self, path: &str, permissions: u32, data: &[u8]) -> &mut Self {
        self.own.file(path, permissions, data);
        self
    }

    /// Writes both archives to `path`.
    ///
    /// # Errors
    /// Those of writing the file.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut file = fs::File::create(path)?;
        file.write_all(&self.base)?;
        file.write_all(&self.own.clone().finish())
    }
}

/// Names the content of the base archive: our scripts, the modules, and the code that puts them together. The rest is
/// the bundle's, in whose folder the archive is kept.
fn fingerprint(bundle: &Bundle, modules: &[&str]) -> String {
    let code = [include_str!("initramfs.rs"), include_str!("cpio.rs"), include_str!("modules.rs")];
    let content = [INIT, LIBRARY, COMMANDS, &modules.join(","), &bundle.modules.to_string_lossy()];
    let mut hash = Sha256::new();
    for text in code.into_iter().chain(content) {
        hash.update(text.len().to_le_bytes());
        hash.update(text);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn base(bundle: &Bundle, modules: &[&str]) -> Result<Vec<u8>, BundleError> {
    let mut cpio = Cpio::new();
    for folder in ["dev", "proc", "sys", "tmp", "mnt", "root", "etc"] {
        cpio.folder(folder);
    }
    cpio.file("bin/busybox", 0o755, &busybox(&bundle.guest_root)?).symlink("bin/sh", "busybox");
    cpio.file("init", 0o755, INIT.as_bytes());
    cpio.file("guest/lib.sh", 0o644, LIBRARY.as_bytes());
    cpio.file("guest/commands.sh", 0o644, COMMANDS.as_bytes());

    let mut list = String::new();
    for module in ModuleTree::scan(&bundle.modules)?.load(modules)? {
        cpio.file(&format!("modules/{}.ko", module.name), 0o644, &module.image);
        list += &format!("{}\n", module.name);
    }
    cpio.file("modules/order", 0o644, list.as_bytes());
    if let Some(files) = attribute_programs(&bundle.guest_root) {
        for (path, data) in files {
            cpio.file(path, 0o755, &data);
        }
    }
    Ok(cpio.finish())
}

fn find<P: AsRef<Path>>(root: &Path, places: &[P]) -> Option<PathBuf> {
    places.iter().map(|place| root.join(place)).find(|path| path.is_file())
}

fn busybox(root: &Path) -> Result<Vec<u8>, BundleError> {
    let hint = "install a static one (busybox-static on Debian)";
    let missing = |what| BundleError::NotFound { what, folder: root.to_owned(), hint };
    let path = find(root, &BUSYBOX_PLACES).ok_or_else(|| missing("busybox"))?;
    let image = fs::read(&path).map_err(BundleError::io("read", &path))?;
    if interpreter(&image).is_some() { Err(missing("a statically linked busybox")) } else { Ok(image) }
}

/// setfattr and getfattr with their loader and libraries, at the places where the loader looks for them; `None` if any
/// is absent.
fn attribute_programs(root: &Path) -> Option<Vec<(&'static str, Vec<u8>)>> {
    let library = |name: &str| find(root, &LIBRARY_PLACES.map(|place| format!("{place}/{name}")));
    let files = [
        ("usr/bin/setfattr", find(root, &["usr/bin/setfattr"])?),
        ("usr/bin/getfattr", find(root, &["usr/bin/getfattr"])?),
        ("lib64/ld-linux-x86-64.so.2", find(root, &LOADER_PLACES)?),
        ("usr/lib/x86_64-linux-gnu/libattr.so.1", library("libattr.so.1")?),
        ("usr/lib/x86_64-linux-gnu/libc.so.6", library("libc.so.6")?),
    ];
    files.into_iter().map(|(path, source)| Some((path, fs::read(source).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_of_one_boot_follows_at_an_aligned_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("initramfs");
        let mut base = Cpio::new();
        base.file("init", 0o755, b"odd");
        let base = base.finish();
        let mut initramfs = Initramfs { base: base.clone(), own: Cpio::new() };
        initramfs.scenario(&Scenario::Script("echo hello\n".to_owned())).write(&path).unwrap();
        let written = fs::read(&path).unwrap();
        assert_eq!(base.len() % 4, 0);
        assert!(written.starts_with(&base));
        assert!(written[base.len()..].starts_with(b"070701"));
        assert!(String::from_utf8_lossy(&written).contains("scenario.sh\0"));
    }
}
